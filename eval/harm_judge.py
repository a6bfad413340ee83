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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import Field
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from eval.generation import Question, batches_by_length, ending_tokens, generate
from merge.errors import UserError
from merge.settings import Settings, parse_settings

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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"harm judge {path}: cannot be read ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"harm judge {path}: must hold keys (kind, model, harmful, safe)")
    settings = parse_settings(HarmJudgeSettings, values, str(path))
    local = path.parent / settings.model
    return settings.model_copy(update={"model": str(local)}) if local.is_dir() else settings


def judge_harm(settings: HarmJudgeSettings, pairs: Sequence[tuple[str, str]]) -> list[Harm]:
    """Whether each (prompt, completion) is harmful; what cannot be read off is "unparsed".

    Raises:
        UserError: the judge's weights cannot be loaded.
    """
    if not pairs:
        return []
    loader = (
        AutoModelForSequenceClassification
        if settings.kind == "classifier"
        else AutoModelForCausalLM
    )
    try:
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
        model: Any = loader.from_pretrained(settings.model).eval()
    except Exception as error:  # the loaders raise many unrelated types for one missing model
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"harm judge {settings.model}: cannot be loaded ({reason})") from None
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if settings.kind == "classifier":
        # The paper's longformer reads the answer only.
        return _classify(settings, model, tokenizer, [completion for _, completion in pairs])
    return _ask_guard(settings, model, tokenizer, pairs)


@torch.inference_mode()
def _classify(
    settings: HarmJudgeSettings, model: Any, tokenizer: Any, texts: Sequence[str]
) -> list[Harm]:
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
    found: list[Harm] = ["unparsed"] * len(texts)
    for batch in batches_by_length(lengths, settings.batch_tokens):
        inputs = tokenizer(
            [texts[index] for index in batch],
            max_length=settings.max_length,
            truncation=True,
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        for index, label in zip(batch, model(**inputs).logits.argmax(-1).tolist(), strict=True):
            found[index] = _class_of(settings, labels[label], exact=True)
    return found


def _ask_guard(
    settings: HarmJudgeSettings, model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]]
) -> list[Harm]:
    questions = [
        Question(_guard_ids(settings, tokenizer, prompt, completion), settings.max_new_tokens)
        for prompt, completion in pairs
    ]
    found: list[Harm] = ["unparsed"] * len(pairs)
    endings = ending_tokens(model, tokenizer)
    for batch in generate(model, questions, endings, settings.batch_tokens):
        for index, tokens in batch.items():
            written = tokenizer.decode(tokens, skip_special_tokens=True)
            found[index] = _class_of(settings, written, exact=False)
    return found


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
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _class_of(settings: HarmJudgeSettings, written: str, exact: bool) -> Harm:
    """A guard's pattern for harmful goes first: "safe" also stands in "unsafe"."""
    if exact:
        return "harmful" if written == settings.harmful else "safe"
    if re.search(settings.harmful, written, re.IGNORECASE):
        return "harmful"
    return "safe" if re.search(settings.safe, written, re.IGNORECASE) else "unparsed"
