"""What answers cost: time and tokens by batch, and time per token against the backbone (ATGR)."""

import time

from eval.statistics.paired import ratio_bootstrap
from eval.statistics.rates import Interval
from eval.statistics.summary import CostRecord


class Stopwatch:
    """Times batches of answers; loading a model is no part of them.

    Where nobody says when the first prompt is asked, because it is in another process, the first
    batch only starts the watch.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._batches: list[tuple[float, int]] = []

    def start(self) -> None:
        """The next batch's time begins now."""
        self._last = time.perf_counter()

    def lap(self, tokens: int) -> None:
        """A batch of this many generated tokens is there."""
        if self._last is not None:
            self._batches.append((time.perf_counter() - self._last, tokens))

    def as_dict(self) -> CostRecord:
        """Seconds of all timed batches; tokens and seconds of those that generated any."""
        generated = [batch for batch in self._batches if batch[1]]  # a choice generates nothing
        seconds = sum(batch[0] for batch in generated)
        tokens = sum(batch[1] for batch in generated)
        return {
            "seconds": round(sum(batch[0] for batch in self._batches), 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if generated else None,
            "batches": [[round(seconds, 5), tokens] for seconds, tokens in generated],
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
