"""Asking a model that judges: batches of pairs in, a class for each out, nothing judged twice."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from eval.answering.generation import Adjust, Question, ending_tokens, generate
from eval.answering.loading import load_judge, model_identity
from eval.answering.token_streams import batches_by_length
from eval.judges.by_model.settings import JudgeSettings, role_of
from eval.judges.judged import UNPARSED
from merge.common.errors import UserError
from merge.common.json_lines import LineStore
from merge.common.progress import Progress
from train.chat.answer import answer_of
from train.chat.chat_settings import DEFAULT_CHAT
from train.chat.chat_template import ChatTemplate

_PLACES = re.compile(r"(\{prompt\}|\{completion\}|\{policy\})")


class ModelJudge:
    """A judge that is a model, loaded when it is first asked, and kept from then on.

    Args:
        store: judgements made before, by this judge or others; new ones are added batch by batch.
    """

    def __init__(self, settings: JudgeSettings, store: LineStore | None = None) -> None:
        self.settings = settings
        self.role = role_of(settings)
        self._store = store
        self._found: dict[str, str] = dict(store.values) if store else {}

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The class of each (prompt, completion), or ``UNPARSED``.

        Raises:
            UserError: the judge's weights cannot be loaded, or its file does not fit them.
        """
        keys = [self._key(pair) for pair in pairs]
        pending = {
            key: pair for key, pair in zip(keys, pairs, strict=True) if key not in self._found
        }
        if pending:
            open_keys = list(pending)
            with Progress(self.role, len(pending), "answers") as progress:
                for batch in self._judge(list(pending.values())):
                    judged = {open_keys[index]: verdict for index, verdict in batch.items()}
                    self._found.update(judged)
                    if self._store:
                        self._store.add(judged)
                    progress.advance(len(judged))
        return [self._found[key] for key in keys]

    @cached_property
    def identity(self) -> list[Any]:
        """What a judgement depends on besides what is judged."""
        folder = Path(self.settings.model)
        weights = model_identity(folder) if folder.is_dir() else None
        return [self.settings.judging, weights]

    def _key(self, pair: tuple[str, str]) -> str:
        text = json.dumps([self.identity, pair], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _judge(self, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[int, str]]:
        ways = {"classifier": self._classify, "guard": self._read_verdicts, "scorer": self._score}
        return ways[self.settings.kind](pairs)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """Model and tokenizer."""
        is_classifier = self.settings.kind == "classifier"
        loader = AutoModelForSequenceClassification if is_classifier else AutoModelForCausalLM
        return load_judge(loader, self.settings.model, self.role)

    @torch.inference_mode()
    def _classify(self, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[int, str]]:
        settings, (model, tokenizer) = self.settings, self._loaded
        labels = model.config.id2label
        classes = {label: name for name, label in settings.classes.items()}
        unknown = classes.keys() - set(labels.values())
        if unknown:
            raise UserError(
                f"{self.role} {settings.model}: has no label '{min(unknown)}'; it has: "
                + ", ".join(labels.values())
            )
        # The paper's longformer reads the answer only.
        texts = [
            completion
            if settings.template is None
            else filled(settings.template, prompt, completion)
            for prompt, completion in pairs
        ]
        cut: dict[str, Any] = {"max_length": settings.max_length, "truncation": True}
        lengths = [len(tokenizer(text, **cut)["input_ids"]) for text in texts]
        for batch in batches_by_length(lengths, settings.batch_tokens):
            shown = [texts[index] for index in batch]
            inputs = tokenizer(shown, **cut, padding=True, return_tensors="pt").to(model.device)
            chosen = model(**inputs).logits.argmax(-1).tolist()
            yield {
                index: classes.get(labels[label], UNPARSED)
                for index, label in zip(batch, chosen, strict=True)
            }

    def _read_verdicts(self, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[int, str]]:
        settings, (model, tokenizer) = self.settings, self._loaded
        questions = [Question(ids, settings.max_new_tokens) for ids in self._all_ids(pairs)]
        endings = ending_tokens(model, tokenizer)
        batches = generate(model, questions, endings, settings.batch_tokens)
        yield from self._of_pairs(
            {
                index: class_of(settings, tokenizer.decode(tokens, skip_special_tokens=True))
                for index, tokens in batch.items()
            }
            for batch in batches
        )

    def _score(self, pairs: Sequence[tuple[str, str]]) -> Iterator[dict[int, str]]:
        settings, (model, tokenizer) = self.settings, self._loaded
        words = {self._token(tokenizer, word): name for name, word in settings.classes.items()}
        questions = [Question(ids, 1) for ids in self._all_ids(pairs)]
        batches = generate(model, questions, frozenset(), settings.batch_tokens, among(list(words)))
        yield from self._of_pairs(
            {index: words[token] for index, (token,) in batch.items()} for batch in batches
        )

    def _token(self, tokenizer: Any, word: str) -> int:
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise UserError(
                f"{self.role} {self.settings.model}: '{word}' is no single token of its; name one"
            )
        return ids[0]

    def _of_pairs(self, batches: Iterator[dict[int, str]]) -> Iterator[dict[int, str]]:
        """The verdicts on pairs from those on each of their questions, one a policy."""
        count = max(1, len(self.settings.policies))
        *found_first, harmless = self.settings.classes
        order = [*found_first, UNPARSED, harmless]
        waiting: dict[int, list[str]] = {}
        for batch in batches:
            whole: dict[int, str] = {}
            for index, verdict in batch.items():
                verdicts = waiting.setdefault(index // count, [])
                verdicts.append(verdict)
                if len(verdicts) == count:
                    whole[index // count] = min(waiting.pop(index // count), key=order.index)
            yield whole

    def _all_ids(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """The questions' tokens: for each pair one question a policy, or a single one."""
        policies = self.settings.policies or ("",)
        return [self._ids(*pair, policy) for pair in pairs for policy in policies]

    def _ids(self, prompt: str, completion: str, policy: str) -> list[int]:
        settings, (_, tokenizer) = self.settings, self._loaded
        if settings.template is not None:
            text = filled(settings.template, prompt, completion, policy)
            # WildGuard's template begins with the token that others' tokenizers put there.
            whole = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
            return tokenizer(text, add_special_tokens=not whole)["input_ids"]
        name = f"{self.role} {settings.model}"
        if not tokenizer.chat_template:
            raise UserError(f"{name}: has no chat template; give 'template'")
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        text = ChatTemplate(tokenizer, name, DEFAULT_CHAT).render(turns, False)
        return tokenizer(text, add_special_tokens=False)["input_ids"]


def filled(template: str, prompt: str, completion: str, policy: str = "") -> str:
    """A judge's question; not by ``str.format``, as a model's answer may hold braces of its own."""
    values = {"{prompt}": prompt, "{completion}": completion, "{policy}": policy}
    return "".join(values.get(part, part) for part in _PLACES.split(template))


def among(words: Sequence[int]) -> Adjust:
    """Leaves a model the choice among some tokens alone."""

    def adjust(logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        del step
        kept = torch.full_like(logits[0], float("-inf"))
        kept[:, words] = logits[0][:, words]
        return kept

    return adjust


def class_of(settings: JudgeSettings, written: str) -> str:
    """The first class whose pattern stands in what a guard wrote after any thought."""
    written = answer_of(written) or ""
    for name, pattern in settings.classes.items():
        if re.search(pattern, written, re.IGNORECASE):
            return name
    return UNPARSED
