"""What answers cost: time and tokens by batch, and time per token against the backbone (ATGR)."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.answering.completions import FILE_NAME as COMPLETIONS_NAME
from eval.answering.completions import read_completions
from eval.statistics.paired import ratio_bootstrap
from eval.statistics.rates import Interval
from eval.statistics.summary import CostRecord
from eval.suites.answers import AnswerId
from merge.common.errors import UserError
from merge.common.files import atomic_write_text
from merge.common.json_lines import append_lines, as_line, open_lines, read_lines

FILE_NAME = "cost.jsonl"
TokenTimes = Mapping[AnswerId, tuple[float, int]]
"""Seconds and generated tokens of answers."""


class Stopwatch:
    """Times batches of answers; loading a model is no part of them.

    Where nobody says when the first prompt is asked, because it is in another process, the first
    batch only starts the watch.
    """

    def __init__(self) -> None:
        self._last: float | None = None

    def start(self) -> None:
        """The next batch's time begins now."""
        self._last = time.perf_counter()

    def lap(self) -> float | None:
        """Seconds that the batch took which is there now; ``None`` where nothing started it."""
        return None if self._last is None else time.perf_counter() - self._last


class CostFile:
    """cost.jsonl: what every batch of an evaluation cost, through all interruptions.

    A line has the keys of the batch's answers (as in completions.jsonl), its seconds (null where it
    was not timed) and its generated tokens. A batch counts as long as all its answers do: opening
    the file drops the others.

    Args:
        keys: of the answers that are there.

    Raises:
        UserError: the file cannot be read or written, or has a broken line that is not its last.
    """

    def __init__(self, directory: Path, keys: set[str]) -> None:
        self._path = directory / FILE_NAME
        self._batches = [
            batch for batch in _read_batches(self._path) if keys.issuperset(batch["answers"])
        ]
        if self._path.exists():  # a torn last line is healed so
            lines = (f"{as_line(record)}\n" for record in self._batches)
            atomic_write_text(self._path, "".join(lines))

    def add(self, keys: list[str], seconds: float | None, tokens: int) -> None:
        """Keep what a batch cost, which is on disk when this returns.

        Args:
            keys: of its answers.
            seconds: ``None`` where it was not timed.
            tokens: how many were generated.
        """
        rounded = None if seconds is None else round(seconds, 5)
        record = {"answers": keys, "seconds": rounded, "tokens": tokens}
        with open_lines(self._path) as file:
            append_lines(file, [record])
        self._batches.append(record)

    def as_dict(self) -> CostRecord:
        """Seconds of all timed batches; tokens and seconds of those that generated any.

        Empty where no batch is known, as of answers that an older version gave.
        """
        if not self._batches:
            return {}
        timed = [batch for batch in self._batches if batch["seconds"] is not None]
        generated = [batch for batch in timed if batch["tokens"]]  # a choice generates nothing
        seconds = sum(batch["seconds"] for batch in generated)
        tokens = sum(batch["tokens"] for batch in generated)
        return {
            "answers": sum(len(batch["answers"]) for batch in self._batches),
            "seconds": round(sum(batch["seconds"] for batch in timed), 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if generated else None,
        }


def token_times(directory: Path) -> TokenTimes:
    """What every answer of a finished evaluation cost, where its batch was timed.

    The answers of a batch share its time equally. Empty where no times were kept.

    Raises:
        UserError: a file of the evaluation is missing or broken.
    """
    shares = {
        key: batch["seconds"] / len(batch["answers"])
        for batch in _read_batches(directory / FILE_NAME)
        if batch["seconds"] is not None and batch["tokens"]
        for key in batch["answers"]
    }
    answers = read_completions(directory / COMPLETIONS_NAME) if shares else []
    return {
        (answer["suite"], answer["id"]): (shares[answer["key"]], answer["tokens"])
        for answer in answers
        if answer["key"] in shares
    }


def time_per_token_ratio(times: TokenTimes, base: TokenTimes) -> Interval | None:
    """ATGR: seconds per generated token against the backbone's, with a bootstrap interval.

    It is that of the prompts that both were timed on, drawn with replacement as pairs. So the
    interval is over prompts, and not over what else the machine did meanwhile. ``None`` with fewer
    than two such prompts, or without tokens.
    """
    common = sorted(times.keys() & base.keys())
    above, below = [times[prompt] for prompt in common], [base[prompt] for prompt in common]
    tokens, base_tokens = (sum(pair[1] for pair in pairs) for pairs in (above, below))
    if len(common) < 2 or not tokens or not base_tokens:
        return None
    seconds, base_seconds = (sum(pair[0] for pair in pairs) for pairs in (above, below))
    low, high = ratio_bootstrap(above, below)
    return {"value": (seconds / tokens) / (base_seconds / base_tokens), "low": low, "high": high}


def _read_batches(path: Path) -> list[dict[str, Any]]:
    batches = read_lines(path)
    if any({"answers", "seconds", "tokens"} - batch.keys() for batch in batches):
        raise UserError(
            f"{path}: a line has no answers, seconds or tokens; delete the file and run again: "
            "only times are lost"
        )
    return batches
