"""How far a long step is: a bar on a terminal, elsewhere a line at least every minute.

The one way in which a step of this project shows that. What it shows goes to the run's JSON lines
as well (``merge.common.metrics``).
"""

import logging
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar

from merge.common.errors import UserError
from merge.common.metrics import current_metrics

EVERY_SECONDS = 30.0
"""Between two lines; half a minute, so that one that is late still comes within a minute."""
_SCALED_FROM = 100_000
"""Amounts from here on are written with K, M, G, as bytes are."""
_LINE = re.compile(
    r"[A-Za-z][^:\n]*: [\d.]+\w*(?: of [\d.]+\w*)?\b[^\n]*(?:/s| s each)(?:, [\d:]+ left)?$",
    re.MULTILINE,
)
_in_a_whole: ContextVar[bool] = ContextVar("in a whole", default=False)
"""Whether a step whose total is known has begun, of which all else is a part."""
ItemT = TypeVar("ItemT")

logger = logging.getLogger(__name__)


class Progress:
    """Shows one step; a context manager, whose block is the step.

    Lines come from a thread of its own, so also while one piece of the work takes minutes. Where
    this process logs no messages of level INFO, as the ranks beside the first do not, nothing is
    shown. Any thread may advance it. Inside the block of another one whose total is known only a
    bar is shown: the lines are those of the whole.

    Args:
        what: the step's name, which has no colon.
        total: of units, where it is known.
        unit: in the plural, for people; "B" for bytes.
        done: units that an earlier start has done; they do not count for the rate.
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first = self._done = done
        self._words = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._metrics = None if _in_a_whole.get() else current_metrics()
        self._tells = not _in_a_whole.get()
        self._bar = None
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._shown = logger.isEnabledFor(logging.INFO)

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        self._token = _in_a_whole.set(not self._tells or self._total is not None)
        if self._shown and sys.stderr.isatty():
            self._bar = _tqdm()(
                total=self._total,
                initial=self._first,
                desc=self._what,
                unit=self._unit if self._unit == "B" else f" {self._unit}",
                unit_scale=self._scaled,
                leave=None,  # those inside others go when they are done
            )
        if self._shown or self._metrics is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _in_a_whole.reset(self._token)
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._bar is not None:
            self._bar.close()
        if error is None:
            if time.monotonic() - self._started > EVERY_SECONDS:
                self._log()
            self._record()

    def advance(self, count: int = 1) -> None:
        """Note that so many units more are done."""
        with self._lock:
            self._done += count
        if self._bar is not None:
            self._bar.update(count)

    def skip(self, count: int = 1) -> None:
        """Note that so many units more were done by an earlier start, beside those of ``done``."""
        with self._lock:
            self._first += count
            self._done += count
        if self._bar is not None:
            self._bar.initial += count
            self._bar.update(count)

    def note(self, words: str, numbers: Mapping[str, float]) -> None:
        """Note what else belongs to the unit that has just been done, as a training's loss.

        Args:
            words: for people, from now on in every line and beside the bar.
            numbers: by tag; they become a JSON line at once.
        """
        self._words = words
        if self._bar is not None:
            self._bar.set_postfix_str(words, refresh=False)
        self._record(numbers)

    def over(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """The items, each a unit that is done when the next one is asked for."""
        for item in items:
            yield item
            self.advance()

    def line(self) -> str:
        """How far the step is, in the form that ``last_line`` finds in a log."""
        done, rate, left = self._measure()
        unit = "" if self._unit == "B" else f" {self._unit}"
        of_total = "" if self._total is None else f" of {self._amount(self._total)}"
        parts = [f"{self._what}: {self._amount(done)}{of_total}{unit}"]
        parts += [self._words] * bool(self._words)
        slow = self._unit != "B" and 0 < rate < 1
        parts += [f"{self._amount(1 / rate)} s each" if slow else f"{self._amount(rate)}{unit}/s"]
        parts += [] if left is None else [f"{_tqdm().format_interval(left)} left"]
        return ", ".join(parts)

    @property
    def _scaled(self) -> bool:
        return self._unit == "B" or (self._total or self._done) >= _SCALED_FROM

    def _amount(self, value: float) -> str:
        if self._scaled:
            return _tqdm().format_sizeof(value, "B" if self._unit == "B" else "")
        return f"{value:.0f}" if value >= 100 or not value % 1 else f"{value:.3g}"

    def _measure(self) -> tuple[int, float, float | None]:
        """Units done, units a second since the start, and seconds left where they are known."""
        seconds = time.monotonic() - self._started
        done = self._done
        rate = (done - self._first) / seconds if seconds else 0.0
        if self._total is None or not rate:
            return done, rate, None
        return done, rate, max(0, self._total - done) / rate

    def _beat(self) -> None:
        while not self._ended.wait(EVERY_SECONDS):
            self._log()
            try:
                self._record()
            except UserError:  # the block meets it too, and ends by it
                return

    def _log(self) -> None:
        if self._bar is None and self._shown and self._tells:
            logger.info("%s", self.line())

    def _record(self, numbers: Mapping[str, float] = {}) -> None:
        if self._metrics is not None:
            done, rate, left = self._measure()
            self._metrics.add(
                {
                    "what": self._what,
                    "done": done,
                    "total": self._total,
                    "unit": self._unit,
                    "per_second": round(rate, 3),
                    "seconds_left": None if left is None else round(left, 1),
                    **numbers,
                }
            )


def _tqdm() -> Any:
    """Imported where something is shown: that takes a fiftieth of a second."""
    from tqdm import tqdm

    return tqdm


def last_line(log: str) -> str | None:
    """The last line of progress in a log, without the time before it; ``None`` without one."""
    lines = _LINE.findall(log)
    return lines[-1] if lines else None
