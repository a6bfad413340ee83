"""Baselines that need no training: what decoding may do to the logits instead of a patch.

All keep the weights and pay at every token: their time per token stands beside them in the report
(ATGR). Only written answers change; choices and lm-eval's tasks are those of the model itself.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from eval.answering.contrast import Guided, Reversed, SelfContrasted
from eval.answering.generation import Question
from eval.answering.loading import load_model, load_tokenizer, model_identity
from eval.answering.plain_decoding import Decoding
from eval.answering.safe_switch.switched import Switched
from eval.answering.safe_switch.training import learned
from eval.answering.steering import (
    SteeringVectors,
    compute_steering_vectors,
    predict_harmful,
    steered,
)
from eval.answering.token_streams import (
    forward_arguments,
    last_logits_argument,
    left_padded,
    memory_of,
)
from eval.decoding_settings import (
    Debias,
    DecodingSettings,
    ExpertMixture,
    ReversePrompt,
    SelfContrast,
    Steering,
    Switch,
)
from eval.suites.prompts import PromptSet, load_prompts
from eval.suites.suite import suite_from_rows
from merge.common.errors import UserError
from merge.common.files import sha256_json
from train.chat.prompts import ChatPrompts

_BIAS_ROWS = 16
"""Random prompts in one batch."""
_FIX = {
    "reference": "name the model as it was before its safety alignment",
    "expert": "name a model that was trained from it",
}


class Debiased(Decoding):
    """TSDI (Tran et al., arXiv 2502.02153): less of what the safety alignment says to anything.

    The bias of step i is what the alignment adds to a token's log-probability whatever is asked,

        b_i = mean over random (x, y_<i) of [log p_aligned(. | x, y_<i) - log p_reference(...)],

    and the first ``tokens`` steps take the largest of z_i - b_i. Simplified: we had the paper's
    abstract and public reviews at hand, not its text. Questions and beginnings of answers are here
    ordinary tokens drawn evenly from the vocabulary, in the chat template; there they are made from
    MMLU's texts. The number of tokens and prompts is ours.
    """

    def __init__(self, chat: ChatPrompts, bias: torch.Tensor) -> None:
        super().__init__(chat)
        self._bias = bias

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        plain = logits[0]
        return plain.float() - self._bias[step] if step < len(self._bias) else plain


class Steered(Decoding):
    """SCANS (Cao et al., arXiv 2408.11491): hidden states pushed away from refusal, or towards it.

    Every question is first read once with an answer that begins with "Sure": where this step looks
    as it does for harmful questions, middle blocks are pushed along the refusal direction, else
    against it, as in the authors' released code. Simplified: which blocks are steered is a setting,
    as in that code, and not found by projection onto the vocabulary.
    """

    def __init__(self, chat: ChatPrompts, vectors: SteeringVectors, settings: Steering) -> None:
        super().__init__(chat)
        self._vectors = vectors
        self._settings = settings

    def generate(
        self,
        model: PreTrainedModel,
        questions: Sequence[Question],
        eos_ids: frozenset[int],
        batch_tokens: int,
    ) -> Iterator[dict[int, list[int]]]:
        if not questions:
            return
        prompts = [question.token_ids for question in questions]
        harmful = predict_harmful(model, self._vectors, prompts, self._settings, batch_tokens)
        for sign, wanted in ((1, True), (-1, False)):
            group = [index for index, is_harmful in enumerate(harmful) if is_harmful is wanted]
            asked = [questions[index] for index in group]
            with steered(model, self._vectors, self._settings, sign):
                for batch in super().generate(model, asked, eos_ids, batch_tokens):
                    yield {group[place]: tokens for place, tokens in batch.items()}


def prepare(
    settings: DecodingSettings | None,
    model: PreTrainedModel,
    chat: ChatPrompts,
    kept: Path | None = None,
) -> Decoding:
    """The decoding that the settings ask for; ``None`` is greedy.

    Args:
        kept: see ``eval.answering.safe_switch.training.learned``.

    Raises:
        UserError: what the decoding needs cannot be loaded.
    """
    if settings is None:
        return Decoding(chat)
    if isinstance(settings, SelfContrast):
        return SelfContrasted(chat, settings)
    if isinstance(settings, ReversePrompt):
        return Reversed(chat, settings)
    if isinstance(settings, Switch):
        parts = learned(model, chat, _anchor_texts(settings), settings, kept)
        return Switched(chat, parts, settings)
    if isinstance(settings, Steering):
        vectors = compute_steering_vectors(model, chat, *_anchor_texts(settings))
        return Steered(chat, vectors, settings)
    dtype, device = str(model.dtype).removeprefix("torch."), str(model.device)
    if isinstance(settings, ExpertMixture):
        return Guided(chat, load_model(settings.expert, dtype, device), settings)
    reference = load_model(settings.reference, dtype, device)
    return Debiased(chat, token_bias(model, reference, chat, settings))


def anchors(settings: Steering | Switch) -> list[PromptSet]:
    """The harmful questions that a decoding learns from, and the harmless ones.

    Raises:
        UserError: a source is missing, or a row has a mistake.
    """
    prompt_sets = []
    for kind, row in (("harmful", settings.harmful), ("harmless", settings.harmless)):
        whole = {"name": f"{settings.method} {kind}", "axis": "harm", **row}
        suite = suite_from_rows([whole], f"decoding, {kind}", Path.cwd())
        prompt_sets += load_prompts(suite)
    return prompt_sets


def _anchor_texts(settings: Steering | Switch) -> list[list[str]]:
    return [[prompt.text for prompt in prompt_set.prompts] for prompt_set in anchors(settings)]


def decoding_identity(settings: DecodingSettings | None, tokenizer: Any) -> dict[str, Any]:
    """What the answers depend on: settings, and hashes instead of paths.

    Raises:
        UserError: a second model is missing or has another tokenizer than the model; the questions
            that a decoding learns from cannot be read.
    """
    if settings is None:
        return {"decoding": "greedy"}
    values: dict[str, Any] = settings.model_dump(mode="json", exclude={"method"})
    for key in ("reference", "expert"):
        if key in values:
            folder = getattr(settings, key)
            values[key] = model_identity(folder)["weights_sha256"]
            other = load_tokenizer(folder, for_chat=False)
            if other.get_vocab() != tokenizer.get_vocab():
                raise UserError(
                    f"decoding: {key} {folder} has another vocabulary than the model; {_FIX[key]}"
                )
    if isinstance(settings, Steering | Switch):
        for kind, texts in zip(("harmful", "harmless"), _anchor_texts(settings), strict=True):
            values[kind] = sha256_json(texts)
    return {"decoding": settings.method, "decoding_settings": values}


@torch.inference_mode()
def token_bias(
    model: PreTrainedModel, reference: PreTrainedModel, chat: ChatPrompts, settings: Debias
) -> torch.Tensor:
    """TSDI's bias, fp32 [tokens, vocabulary], in nats; deterministic by the seed."""
    draws = torch.Generator().manual_seed(settings.seed)
    tokenizer = chat.tokenizer
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))

    def draw(count: int) -> list[int]:
        return ordinary[torch.randint(len(ordinary), (count,), generator=draws)].tolist()

    questions = [
        str(tokenizer.decode(draw(settings.prompt_tokens))) for _ in range(settings.prompts)
    ]
    sequences = [chat.question_ids(question) + draw(settings.tokens) for question in questions]
    bias = torch.zeros((), device=model.device)
    for start in range(0, len(sequences), _BIAS_ROWS):
        rows = sequences[start : start + _BIAS_ROWS]
        aligned, before = (
            _last_logits(each, rows, settings.tokens).float().log_softmax(-1)
            for each in (model, reference)
        )
        bias = bias + (aligned - before).sum(0)
    return bias / len(sequences)


def _last_logits(
    model: PreTrainedModel, sequences: Sequence[Sequence[int]], count: int
) -> torch.Tensor:
    """The logits that predict the last ``count`` tokens: [sequences, count, vocabulary]."""
    # Where padding would change what follows it, every row is read alone.
    parts = [sequences] if memory_of(model).ignores_padding else [[row] for row in sequences]
    logits_by_part = []
    for rows in parts:
        ids, mask = left_padded(rows, model.device)
        logits = model(
            **forward_arguments(model, ids, mask),
            use_cache=False,
            **last_logits_argument(model, count=count + 1),
        ).logits
        logits_by_part.append(logits[:, -count - 1 : -1])
    return torch.cat(logits_by_part)
