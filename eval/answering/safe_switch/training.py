"""What SafeSwitch learns: two probers and a refusal head; see ``safe_switch.switched``."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import PreTrainedModel

from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.token_streams import (
    forward_arguments,
    last_logits_argument,
    left_padded,
    memory_of,
    states_at,
)
from eval.decoding_settings import Switch
from eval.judges.judged import judged
from merge.common.errors import UserError
from merge.common.files import atomic_writer
from merge.common.progress import Progress
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.batches import TokenizedExample, prompt_tokens

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 4096
_PROBER_ROWS, _HEAD_ROWS = 8, 4
_PROBER_DECAY, _HEAD_DECAY = 1e-5, 0.02
"""Batches and weight decay of AdamW, as in the authors' code."""


class Learned(NamedTuple):
    """Two probers of the last layer's states, and the weights of the refusal head.

    Attributes:
        safety: of the state after the question; response: of that after the first tokens. Both fp32
            from [rows, hidden size] to [rows, 2].
        head: fp32 [vocabulary, hidden size].
    """

    safety: nn.Sequential
    response: nn.Sequential
    head: torch.Tensor


class Head(nn.Module):
    """An lm_head with other weights, in fp32; the bias, where there is one, stays."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        return linear(states.to(self.weight.dtype), self.weight, bias)


@contextmanager
def headed(model: PreTrainedModel, weight: torch.Tensor) -> Iterator[Head]:
    """The model with another head, also where the head's weights are tied to the embeddings.

    Raises:
        UserError: the model has no output embeddings to replace.
    """
    before: Any = model.get_output_embeddings()
    if before is None:
        raise UserError(f"decoding safe_switch: {type(model).__name__} has no lm_head to replace")
    head = Head(weight, getattr(before, "bias", None))
    model.set_output_embeddings(head)
    try:
        yield head
    finally:
        model.set_output_embeddings(before)


def learned(
    model: PreTrainedModel,
    chat: ChatPrompts,
    texts: Sequence[Sequence[str]],
    settings: Switch,
    kept: Path | None,
) -> Learned:
    """What was learnt before, or what is learnt now and kept.

    Args:
        texts: harmful questions, and harmless ones.
        kept: a file whose name tells model, questions and settings apart; ``None`` keeps nothing.
    """
    if kept is not None and kept.is_file():
        kept_tensors = safetensors.torch.load_file(kept, device=str(model.device))
        return Learned(
            _read(kept_tensors, "safety"), _read(kept_tensors, "response"), kept_tensors["head"]
        )
    result = _learn(model, chat, texts, settings)
    if kept is not None:
        tensors = {"head": result.head}
        for name in ("safety", "response"):
            state = getattr(result, name).state_dict()
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
        with atomic_writer(kept) as file:
            file.write(safetensors.torch.save(tensors))
    return result


def _read(tensors: dict[str, torch.Tensor], name: str) -> nn.Sequential:
    own = {
        key.removeprefix(f"{name}."): value
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }
    prober = _prober(own["0.weight"].shape).to(own["0.weight"].device)
    prober.load_state_dict(own)
    return prober


def _learn(
    model: PreTrainedModel, chat: ChatPrompts, texts: Sequence[Sequence[str]], settings: Switch
) -> Learned:
    questions = [text for group in texts for text in group]
    logger.info("safe_switch: learns from %d questions", len(questions))
    asked = [chat.question_ids(text) for text in questions]
    answers = own_answers(model, chat, asked, settings.answer_tokens)
    verdicts = [judged(chat.decode(answers[n]), text) for n, text in enumerate(questions)]
    unsafe = [True] * len(texts[0]) + [False] * len(texts[1])
    complied = [each.refusal == "none" for each in verdicts]
    begun = [[*ids, *answers[n][: settings.decoded]] for n, ids in enumerate(asked)]
    safety = fit_prober(last_states(model, asked), unsafe, settings)
    response = fit_prober(last_states(model, begun), complied, settings)
    pairs = [
        (
            text,
            verdicts[n].answer if verdicts[n].refusal == "full" else settings.refusals[n % count],
        )
        for count in (len(settings.refusals),)
        for n, text in enumerate(texts[0])
    ]
    head = fit_refusal_head(model, [chat.example(*pair) for pair in pairs], settings)
    return Learned(safety, response, head)


def own_answers(
    model: PreTrainedModel, chat: ChatPrompts, asked: Sequence[Sequence[int]], length: int
) -> dict[int, list[int]]:
    """The first tokens of the model's own greedy answers, by the question's index."""
    questions = [Question(ids, length) for ids in asked]
    endings = ending_tokens(model, chat.tokenizer) | frozenset(chat.stop_ids)
    answers: dict[int, list[int]] = {}
    for batch in generate(model, questions, endings, _BATCH_TOKENS):
        answers.update(batch)
    return answers


def last_states(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], batch_tokens: int = _BATCH_TOKENS
) -> torch.Tensor:
    """The last layer's states at the last tokens, as the lm_head sees them: fp32 [n, hidden]."""
    return states_at(model, sequences, slice(-1, None), (-1,), batch_tokens)[:, 0, 0]


def fit_prober(states: torch.Tensor, labels: Sequence[bool], settings: Switch) -> nn.Sequential:
    """Two layers that tell labels apart by states [n, hidden]; deterministic by the seed."""
    states = states.clone()  # none of inference mode, so that a gradient may pass
    mean, deviation = states.mean(0), states.std(0, correction=0).clamp_min(1e-6)
    wanted = torch.tensor([int(label) for label in labels], device=states.device)
    normal = (states - mean) / deviation
    draws = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(settings.seed)
        prober = _prober((settings.hidden, states.shape[1])).to(states.device)
        rate = settings.prober_learning_rate
        optimizer = torch.optim.AdamW(prober.parameters(), lr=rate, weight_decay=_PROBER_DECAY)
        for _ in range(settings.prober_epochs):
            order = torch.randperm(len(wanted), generator=draws).to(states.device)
            for rows in order.split(_PROBER_ROWS):
                optimizer.zero_grad()
                cross_entropy(prober(normal[rows]), wanted[rows]).backward()
                optimizer.step()
    prober.requires_grad_(False)
    first: Any = prober[0]
    first.weight.div_(deviation)
    first.bias.sub_(first.weight @ mean)
    return prober


def fit_refusal_head(
    model: PreTrainedModel, examples: Sequence[TokenizedExample], settings: Switch
) -> torch.Tensor:
    """A copy of the lm_head's weights, fp32, tuned on answers; all else of the model stays.

    Args:
        examples: token ids with labels, as ``ChatPrompts.example`` gives them.
    """
    rows = _HEAD_ROWS if memory_of(model).ignores_padding else 1
    draws = torch.Generator().manual_seed(settings.seed)
    old: Any = model.get_output_embeddings()
    weight = torch.empty(0) if old is None else old.weight.detach().float().clone()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with headed(model, weight) as head, torch.enable_grad():
            rate = settings.head_learning_rate
            optimizer = torch.optim.AdamW([head.weight], lr=rate, weight_decay=_HEAD_DECAY)
            steps = settings.head_epochs * len(examples)
            with Progress("safe_switch tunes its refusal head", steps, "answers") as progress:
                for _ in range(settings.head_epochs):
                    order = torch.randperm(len(examples), generator=draws).tolist()
                    for start in range(0, len(order), rows):
                        batch = [examples[index] for index in order[start : start + rows]]
                        optimizer.zero_grad()
                        _answer_loss(model, batch).backward()
                        optimizer.step()
                        progress.advance(len(batch))
            return head.weight.detach()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _answer_loss(model: PreTrainedModel, batch: Sequence[TokenizedExample]) -> torch.Tensor:
    ids, mask = left_padded([each[0] for each in batch], model.device)
    longest = ids.shape[1]
    padded = [[IGNORED_LABEL] * (longest - len(each[1])) + each[1] for each in batch]
    kept = 1 + max(len(each[0]) - prompt_tokens(each) for each in batch)
    labels = torch.tensor(padded, device=model.device)[:, -kept:][:, 1:]
    arguments = forward_arguments(model, ids, mask) | last_logits_argument(model, kept)
    logits = model(**arguments, use_cache=False).logits[:, -kept:-1]
    chosen = labels != IGNORED_LABEL
    return cross_entropy(logits[chosen].float(), labels[chosen])


def _prober(shape: Sequence[int]) -> nn.Sequential:
    hidden, width = shape
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))
