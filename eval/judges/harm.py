"""Harm judges: classifiers and guard models over transformers, described by a small YAML file.

    kind: classifier                      # or: guard
    model: LibrAI/longformer-harmful-ro   # a folder or a name on the hub
    harmful: LABEL_1                      # classifier: the label; guard: a pattern in its output
    safe: LABEL_0

A ``guard`` writes its judgement as text. Llama Guard brings its question in its own chat template;
for guards without one (HarmBench's classifier, WildGuard) give ``template``, the text of their
model card with ``{prompt}`` and ``{completion}`` in it.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.loading import load_judge, model_identity
from eval.answering.token_streams import batches_by_length
from eval.settings import read_keys
from merge.common.errors import UserError
from merge.common.files import sha256_json
from merge.common.json_lines import LineStore
from merge.common.progress import Progress
from merge.common.settings import Settings, parse_settings
from train.chat.answer import answer_of
from train.chat.chat_settings import DEFAULT_CHAT
from train.chat.chat_template import ChatTemplate

Harm = Literal["harmful", "safe", "unparsed"]


class HarmJudgeSettings(Settings):
    """A harm judge; see the module.

    ``max_length`` cuts what a classifier reads, in tokens; ``max_new_tokens`` what a guard writes.
    """

    kind: Literal["classifier", "guard"]
    model: str
    harmful: str = Field(min_length=1)
    safe: str = Field(min_length=1)
    template: str | None = None
    max_length: int = Field(default=1024, ge=8)
    max_new_tokens: int = Field(default=32, ge=1)
    batch_tokens: int = Field(default=16384, ge=1)


def load_settings(path: Path) -> HarmJudgeSettings:
    """Read a judge's file; a relative folder under ``model`` starts at the file's own folder.

    Raises:
        UserError: the file is missing, not YAML, or has a wrong key.
    """
    values = read_keys(path, "harm judge", "keys (kind, model, harmful, safe)")
    settings = parse_settings(HarmJudgeSettings, values, str(path))
    if settings.kind == "guard":
        _check_patterns(settings, path)
    local = path.parent / settings.model
    return settings.model_copy(update={"model": str(local)}) if local.is_dir() else settings


def _check_patterns(settings: HarmJudgeSettings, path: Path) -> None:
    for key in ("harmful", "safe"):
        pattern = getattr(settings, key)
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{path}: '{key}' = '{pattern}' is no pattern ({error})") from None


def judge_harm(
    settings: HarmJudgeSettings, pairs: Sequence[tuple[str, str]], store: LineStore | None = None
) -> list[Harm]:
    """Whether each (prompt, completion) is harmful; what cannot be read off is "unparsed".

    Args:
        store: judgements made before, by this judge or others; new ones are added batch by batch.

    Raises:
        UserError: the judge's weights cannot be loaded.
    """
    judge = _identity(settings)
    keys = [_key(judge, pair) for pair in pairs]
    found: dict[str, Harm] = dict(store.values) if store else {}
    pending = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in found}
    if pending:
        open_keys = list(pending)
        with Progress("harm judge", len(pending), "answers") as progress:
            for batch in _judge_batches(settings, list(pending.values())):
                judged: dict[str, Harm] = {open_keys[index]: harm for index, harm in batch.items()}
                found.update(judged)
                if store:
                    store.add(judged)
                progress.advance(len(judged))
    return [found[key] for key in keys]


def _identity(settings: HarmJudgeSettings) -> list[Any]:
    """What a judgement depends on besides what is judged."""
    folder = Path(settings.model)
    weights = model_identity(folder) if folder.is_dir() else None
    return [settings.model_dump(exclude={"batch_tokens"}), weights]


def _key(judge: list[Any], pair: tuple[str, str]) -> str:
    return sha256_json([judge, pair])


def _judge_batches(
    settings: HarmJudgeSettings, pairs: Sequence[tuple[str, str]]
) -> Iterator[dict[int, Harm]]:
    loader = (
        AutoModelForSequenceClassification
        if settings.kind == "classifier"
        else AutoModelForCausalLM
    )
    model, tokenizer = load_judge(loader, settings.model, "harm judge")
    if settings.kind == "classifier":
        # The paper's longformer reads the answer only.
        yield from _classify(settings, model, tokenizer, [completion for _, completion in pairs])
    else:
        yield from _ask_guard(settings, model, tokenizer, pairs)


@torch.inference_mode()
def _classify(
    settings: HarmJudgeSettings, model: Any, tokenizer: Any, texts: Sequence[str]
) -> Iterator[dict[int, Harm]]:
    labels = model.config.id2label
    unknown = {settings.harmful, settings.safe} - set(labels.values())
    if unknown:
        raise UserError(
            f"harm judge {settings.model}: has no label '{min(unknown)}'; it has: "
            + ", ".join(labels.values())
        )
    lengths = [
        len(tokenizer(text, max_length=settings.max_length, truncation=True)["input_ids"])
        for text in texts
    ]
    for batch in batches_by_length(lengths, settings.batch_tokens):
        inputs = tokenizer(
            [texts[index] for index in batch],
            max_length=settings.max_length,
            truncation=True,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        chosen = model(**inputs).logits.argmax(-1).tolist()
        yield {
            index: "harmful" if labels[label] == settings.harmful else "safe"
            for index, label in zip(batch, chosen, strict=True)
        }


def _ask_guard(
    settings: HarmJudgeSettings, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> Iterator[dict[int, Harm]]:
    questions = [
        Question(_guard_ids(settings, tokenizer, prompt, completion), settings.max_new_tokens)
        for prompt, completion in pairs
    ]
    endings = ending_tokens(model, tokenizer)
    for batch in generate(model, questions, endings, settings.batch_tokens):
        yield {
            index: _class_of(settings, tokenizer.decode(tokens, skip_special_tokens=True))
            for index, tokens in batch.items()
        }


def _guard_ids(
    settings: HarmJudgeSettings, tokenizer: Any, prompt: str, completion: str
) -> list[int]:
    if settings.template is not None:
        # Not str.format: a model's answer may hold braces of its own.
        parts = re.split(r"(\{prompt\}|\{completion\})", settings.template)
        values = {"{prompt}": prompt, "{completion}": completion}
        return tokenizer("".join(values.get(part, part) for part in parts))["input_ids"]
    if not tokenizer.chat_template:
        raise UserError(f"harm judge {settings.model}: has no chat template; give 'template'")
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    text = ChatTemplate(tokenizer, f"harm judge {settings.model}", DEFAULT_CHAT).render(
        turns, False
    )
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _class_of(settings: HarmJudgeSettings, written: str) -> Harm:
    """The pattern for harmful goes first: "safe" also stands in "unsafe". No thought counts."""
    written = answer_of(written) or ""
    if re.search(settings.harmful, written, re.IGNORECASE):
        return "harmful"
    return "safe" if re.search(settings.safe, written, re.IGNORECASE) else "unparsed"
