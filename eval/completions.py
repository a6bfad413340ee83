"""completions.jsonl: answers that survive an interruption and never serve another model."""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from merge.errors import UserError
from merge.files import atomic_write_text

logger = logging.getLogger(__name__)

FILE_NAME = "completions.jsonl"
STALE_NAME = "stale-completions.jsonl"

AnswerId = tuple[str, str]
"""(suite, prompt id)."""


class Answer(NamedTuple):
    """What a model said.

    Attributes:
        tokens: length of the text as generated; 0 where a choice was picked by its likelihood.
        correct: lm-eval's judgement; ``None`` where the text alone decides.
    """

    text: str
    tokens: int
    correct: bool | None = None


class CompletionsFile:
    """Appends answers batch by batch, each batch on disk before the next begins.

    Every line carries a key (weights, template, decoding settings, prompt). Opening the file
    keeps the lines whose key is the wanted one; the others, answers of another model or setting,
    move to stale-completions.jsonl and are asked again. A torn last line is dropped.

    Args:
        wanted: the key of every answer of this run, by suite and prompt id.

    Raises:
        UserError: the file cannot be read or written, or has a broken line that is not its last.
    """

    def __init__(self, directory: Path, wanted: Mapping[AnswerId, str]) -> None:
        self.path = directory / FILE_NAME
        self._wanted = wanted
        self.answers: dict[AnswerId, Answer] = {}
        kept, stale = self._sort_out(_read_lines(self.path))
        if stale:
            logger.warning(
                "%s: %d answers of another model, template or setting are set aside in %s",
                self.path,
                len(stale),
                STALE_NAME,
            )
            with _open(directory / STALE_NAME) as file:
                _append(file, stale)
        # Also rewritten when whole: a torn line or a missing newline at the end is healed so.
        atomic_write_text(self.path, "".join(f"{_line(record)}\n" for record in kept))
        self._file = _open(self.path)

    def append(self, answers: Mapping[AnswerId, Answer], prompts: Mapping[AnswerId, str]) -> None:
        """Make a batch of answers durable."""
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
        try:
            _append(self._file, records)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be written ({error.strerror}); free space and run again: "
                "finished answers are kept"
            ) from None
        self.answers.update(answers)

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
                self.answers[answer_id] = Answer(
                    record["completion"], record["tokens"], record.get("correct")
                )
                kept.append(record)
        return kept, stale


def read_completions(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a completions file.

    Raises:
        UserError: the file is missing, or a line before the last is broken.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `python -m eval run` first")
    return _read_lines(path)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError("not an object")
        except ValueError:
            if number == len(lines):  # no newline after it: the write was cut short
                logger.warning("%s: the torn last line is dropped and asked again", path)
                continue
            raise UserError(
                f"{path} line {number}: not a JSON object; delete that line and run again"
            ) from None
        records.append(record)
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("ab")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose --out") from None


def _append(file: BinaryIO, records: Iterable[Mapping[str, Any]]) -> None:
    file.write("".join(f"{_line(record)}\n" for record in records).encode())
    file.flush()
    os.fsync(file.fileno())
