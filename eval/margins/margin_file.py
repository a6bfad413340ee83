"""The refusal margins of an evaluation's prompts, kept in its folder (issue 14)."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from eval.answering.asked_how import prompts_of
from eval.margins.refusal_margins import refusal_margins
from eval.suites.answers import AnswerId
from eval.suites.prompts import PromptSet, attack_of
from merge.common.errors import UserError
from merge.common.files import read_json, sha256_json
from merge.common.json_lines import LineStore
from merge.common.progress import Progress
from train.chat.prompts import ChatPrompts
from train.guards.openings_file import read_openings
from train.guards.refusal_margin import RefusalOpenings

logger = logging.getLogger(__name__)

FILE_NAME = "margins.jsonl"
_AXES = ("harm", "refusal")
_CHUNK = 256
"""Prompts between two writes to disk."""


class MarginFile:
    """Measures the margin of every harm and refusal prompt but attacks once, and keeps it.

    A margin's key holds all that it depends on, so that one of another model, template, prompt or
    other openings is never used.

    Args:
        openings: as ``load_openings`` gives them; with none, nothing is measured.
        common: what the margins depend on besides prompt and openings, as JSON.

    Raises:
        UserError: the file cannot be read or written.
    """

    def __init__(
        self,
        directory: Path,
        openings: RefusalOpenings,
        prompt_sets: Sequence[PromptSet],
        chat: ChatPrompts,
        common: Any,
    ) -> None:
        self._openings = openings
        self._store = LineStore(directory / FILE_NAME)
        self._prompts: dict[str, list[int]] = {}
        self._keys: dict[AnswerId, str] = {}
        for prompt_set in prompt_sets if openings.tokens else ():
            if prompt_set.row.axis not in _AXES or attack_of(prompt_set) is not None:
                continue
            asked = prompts_of(chat, prompt_set)
            for prompt in prompt_set.prompts:
                ids = asked.answer_start(prompt.text)
                key = sha256_json([common, openings.tokens, ids], sort_keys=True)
                self._prompts[key] = ids
                self._keys[prompt_set.row.name, prompt.id] = key

    @property
    def pending(self) -> list[str]:
        """The keys that have no margin yet."""
        return [key for key in self._prompts if key not in self._store.values]

    def measure(self, load: Callable[[], PreTrainedModel], batch_tokens: int) -> None:
        """Measure what is not yet measured; the model is only loaded where there is something."""
        pending = self.pending
        if not pending:
            return
        logger.info("refusal margins of %d prompts", len(pending))
        model = load()
        with Progress("refusal margins", len(pending), "prompts") as progress:
            for start in range(0, len(pending), _CHUNK):
                keys = pending[start : start + _CHUNK]
                prompts = [self._prompts[key] for key in keys]
                margins = refusal_margins(model, prompts, self._openings, batch_tokens)
                # A broken model's margin may be no number; JSON has none for it.
                finite = (value if math.isfinite(value) else None for value in margins)
                self._store.add(dict(zip(keys, finite, strict=True)))
                progress.advance(len(keys))

    @property
    def margins(self) -> dict[AnswerId, float | None]:
        """In nats; ``None`` where the model gave no number."""
        return {answer_id: self._store.values[key] for answer_id, key in self._keys.items()}


def load_openings(path: Path, tokenizer: Any) -> RefusalOpenings:
    """Read an openings.json, and see that it is of this tokenizer.

    Raises:
        UserError: the file is missing or broken, or its token ids mean other texts here.
    """
    openings = read_openings(path)
    texts = read_json(path).get("texts")
    known = len(tokenizer)
    fits = all(token < known for tokens in openings.tokens for token in tokens)
    if fits and texts is not None:  # a file made by hand may do without them
        fits = texts == [str(tokenizer.decode(list(tokens))) for tokens in openings.tokens]
    if not fits:
        raise UserError(
            f"--openings {path}: is of a model with another tokenizer; take the openings.json of "
            "the run whose backbone this model is made from"
        )
    if not openings.tokens:
        logger.warning("%s: holds no opening, so refusal margins cannot be measured", path)
    return openings
