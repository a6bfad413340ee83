"""completions.jsonl: answers that survive an interruption and never serve another model."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from eval.suites.answers import Answer, AnswerId
from merge.common.errors import UserError
from merge.common.files import atomic_write_text
from merge.common.json_lines import append_lines, as_line, open_lines, read_lines

logger = logging.getLogger(__name__)

FILE_NAME = "completions.jsonl"
STALE_NAME = "stale-completions.jsonl"


class CompletionRecord(TypedDict):
    """A judged line of a finished completions.jsonl; ``eval.rates.Completion`` explains the keys.

    Lines of older versions lack ``answer``, ``margin``, ``attack``, ``goal`` or ``prefix``.
    """

    id: str
    suite: str
    axis: str
    category: str | None
    prompt: str
    completion: str
    refusal: str | None
    correct: bool | None
    tokens: int
    harm: str | None
    answer: str | None
    margin: float | None
    attack: str | None
    goal: str | None
    prefix: str | None
    key: str
    """Hash of all that the answer depends on."""


class CompletionsFile:
    """Appends answers batch by batch, each batch on disk before the next begins.

    Every line carries a key (weights, template, decoding settings, prompt). Lines whose key is not
    the wanted one, answers of another model or setting, are no answers here. A torn last line is
    dropped. Nothing is written before ``open``.

    Args:
        wanted: the key of every answer of this run, by suite and prompt id.

    Attributes:
        answers: those that are there.
        stale: lines of other models and settings.

    Raises:
        UserError: the file cannot be read or written, or has a broken line that is not its last.
    """

    def __init__(self, directory: Path, wanted: Mapping[AnswerId, str]) -> None:
        self.path = directory / FILE_NAME
        self._wanted = wanted
        self.answers: dict[AnswerId, Answer] = {}
        self._kept, self.stale = self._sort_out(read_lines(self.path))

    def open(self) -> None:
        """Be ready to append; stale lines move to stale-completions.jsonl and are asked again."""
        if self.stale:
            logger.warning(
                "%s: %d answers of another model, template or setting are set aside in %s",
                self.path,
                len(self.stale),
                STALE_NAME,
            )
            with open_lines(self.path.with_name(STALE_NAME)) as file:
                append_lines(file, self.stale)
        # Also rewritten when whole: a torn line or a missing newline at the end is healed so.
        atomic_write_text(self.path, "".join(f"{as_line(record)}\n" for record in self._kept))
        self._file = open_lines(self.path)

    def append(
        self, answers: Mapping[AnswerId, Answer], prompts: Mapping[AnswerId, str]
    ) -> list[str]:
        """Make a batch of answers durable; returns their keys."""
        records = [
            {
                "id": key[1],
                "suite": key[0],
                "prompt": prompts[key],
                "completion": answer.text,
                "tokens": answer.tokens,
                "correct": answer.correct,
                "key": self._wanted[key],
            }
            for key, answer in answers.items()
        ]
        append_lines(self._file, records)
        self.answers.update(answers)
        return [record["key"] for record in records]

    def close(self) -> None:
        self._file.close()

    def _sort_out(
        self, records: Iterable[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        kept, stale = [], []
        for record in records:
            answer_id = (str(record.get("suite")), str(record.get("id")))
            key = record.get("key")
            if key is None or self._wanted.get(answer_id) != key:
                stale.append(record)
            elif answer_id not in self.answers:
                self.answers[answer_id] = self._answer(record)
                kept.append(record)
        return kept, stale

    def _answer(self, record: dict[str, Any]) -> Answer:
        try:
            return Answer(record["completion"], record["tokens"], record.get("correct"))
        except KeyError as error:
            raise UserError(
                f"{self.path}: the line of '{record['id']}' has no {error}; delete that line and "
                "run again"
            ) from None


def read_completions(path: Path) -> list[CompletionRecord]:
    """All whole lines of a completions file.

    Raises:
        UserError: the file is missing, or a line before the last is broken.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python -m eval run` first")
    return cast(list[CompletionRecord], read_lines(path))
