"""SCANS (Cao et al., arXiv 2408.11491): hidden states pushed away from, or towards, refusal."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from eval.answering.token_streams import states_at
from eval.decoding_settings import Steering
from merge.common.errors import UserError
from train.chat.prompts import ChatPrompts

_PROBE = "Sure"
"""First word of the answer that is appended to a prompt to predict whether the prompt is
harmful."""


@dataclass(frozen=True)
class SteeringVectors:
    """Vectors that SCANS computes from questions known to be harmful or harmless.

    Attributes:
        refusal: unit vector of mean(harmful) - mean(harmless) at the prompt's end, fp32
            [layers, hidden].
        transition: mean over the harmful questions of (state at the prompt's end - state after
            ``_PROBE``), fp32 [layers, hidden].
        probe_ids: token ids of ``_PROBE``.
    """

    refusal: torch.Tensor
    transition: torch.Tensor
    probe_ids: list[int]


def compute_steering_vectors(
    model: PreTrainedModel, chat: ChatPrompts, harmful: Sequence[str], harmless: Sequence[str]
) -> SteeringVectors:
    """Compute the vectors from the model's states on harmful and on harmless questions."""
    probe = chat.tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    bad, good = (
        hidden_states(model, [chat.question_ids(text) for text in texts], probe)
        for texts in (harmful, harmless)
    )
    refusal = bad[:, :, 0].mean(0) - good[:, :, 0].mean(0)
    transition = (bad[:, :, 0] - bad[:, :, 1]).mean(0)
    return SteeringVectors(refusal / refusal.norm(dim=-1, keepdim=True), transition, probe)


def hidden_states(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    probe: Sequence[int],
    batch_tokens: int = 4096,
) -> torch.Tensor:
    """Outputs of every block at the prompt's end and after the probe.

    Returns:
        fp32 [prompts, layers, 2, hidden].
    """
    sequences = [[*prompt, *probe] for prompt in prompts]
    return states_at(model, sequences, slice(1, None), (-1 - len(probe), -1), batch_tokens)


def predict_harmful(
    model: PreTrainedModel,
    vectors: SteeringVectors,
    prompts: Sequence[Sequence[int]],
    settings: Steering,
    batch_tokens: int,
) -> list[bool]:
    """Predict for each prompt whether it is harmful.

    A prompt counts as harmful where the cosine between its step (state at its end - state after
    the probe) and ``vectors.transition``, averaged over the layers from the first steered one to
    the model's last, reaches ``settings.threshold``.
    """
    states = hidden_states(model, prompts, vectors.probe_ids, batch_tokens)
    first = steered_layers(states.shape[1], settings).start
    steps = states[:, first:, 0] - states[:, first:, 1]
    cosines = torch.cosine_similarity(steps, vectors.transition[first:], dim=-1)
    return (cosines.nan_to_num().mean(1) >= settings.threshold).tolist()


def steered_layers(count: int, settings: Steering) -> range:
    """The blocks that are steered, of ``count``; at least one."""
    first, last = (round(share * count) for share in settings.layers)
    return range(min(first, count - 1), max(first + 1, last))


@contextmanager
def steered(
    model: PreTrainedModel, vectors: SteeringVectors, settings: Steering, sign: int
) -> Iterator[None]:
    """Add sign * multiplier * refusal vector to the newest token of the steered blocks' outputs.

    In a prompt that is its last token, in an answer every one, as in the authors' code.
    """
    blocks: Any = getattr(model.get_decoder(), "layers", None)
    if blocks is None:
        raise UserError(f"decoding scans: {type(model).__name__} has no list of blocks to steer")

    def hook(vector: torch.Tensor) -> Any:
        def add(module: Any, inputs: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            states[:, -1] += vector.to(states)
            return output

        return add

    handles = [
        blocks[layer].register_forward_hook(
            hook(sign * settings.multiplier * vectors.refusal[layer])
        )
        for layer in steered_layers(len(blocks), settings)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
