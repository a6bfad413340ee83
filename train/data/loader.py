"""A step's micro-batches, prepared while the step before runs."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Prepared = TypeVar("Prepared")


class Prefetcher(Generic[Prepared]):
    """Prepares in a thread what the next step needs.

    Args:
        prepare: of a step; a function of the step alone.
    """

    def __init__(self, prepare: Callable[[int], Prepared]) -> None:
        self._prepare = prepare
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._step = -1
        self._next: Future[Prepared] | None = None

    def get(self, step: int) -> Prepared:
        """What ``step`` needs; the step after it is begun."""
        future = self._next
        if future is None or self._step != step:
            future = self._thread.submit(self._prepare, step)
        prepared = future.result()
        self._step = step + 1
        self._next = self._thread.submit(self._prepare, self._step)
        return prepared

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)
