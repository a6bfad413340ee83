"""What answers cost: time and tokens by batch, and time per token against the backbone (ATGR)."""

import time
from pathlib import Path
from typing import Any

from eval.statistics.paired import ratio_bootstrap
from eval.statistics.rates import Interval
from eval.statistics.summary import CostRecord
from merge.common.errors import UserError
from merge.common.files import atomic_write_text
from merge.common.json_lines import append_lines, as_line, open_lines, read_lines

FILE_NAME = "cost.jsonl"


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
        records = read_lines(self._path)
        if any({"answers", "seconds", "tokens"} - record.keys() for record in records):
            raise UserError(
                f"{self._path}: a line has no answers, seconds or tokens; delete the file and run "
                "again: only times are lost"
            )
        self._batches: list[dict[str, Any]] = [
            record for record in records if keys.issuperset(record["answers"])
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
        timed = [(b["seconds"], b["tokens"]) for b in self._batches if b["seconds"] is not None]
        generated = [batch for batch in timed if batch[1]]  # a choice generates nothing
        seconds = sum(batch[0] for batch in generated)
        tokens = sum(batch[1] for batch in generated)
        return {
            "answers": sum(len(batch["answers"]) for batch in self._batches),
            "seconds": round(sum(batch[0] for batch in timed), 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if generated else None,
            "batches": [list(batch) for batch in generated],
        }


def time_per_token_ratio(cost: CostRecord, base: CostRecord) -> Interval | None:
    """ATGR: seconds per generated token against the backbone's, with a bootstrap interval.

    Batches are drawn with replacement. ``None`` where either has fewer than two batches.
    """
    batches, base_batches = cost.get("batches", []), base.get("batches", [])
    if min(len(batches), len(base_batches)) < 2:
        return None
    low, high = ratio_bootstrap(batches, base_batches)
    seconds, tokens = map(sum, zip(*batches, strict=True))
    base_seconds, base_tokens = map(sum, zip(*base_batches, strict=True))
    return {"value": (seconds / tokens) / (base_seconds / base_tokens), "low": low, "high": high}
