"""Work over several threads whose errors are reported together."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from merge.common.errors import UserError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def run_all(
    pool: ThreadPoolExecutor,
    work: Callable[[ItemT], ResultT],
    items: Iterable[ItemT],
    stop_early: bool = False,
) -> list[ResultT]:
    """Results in order; all user errors together in one, once every item is through.

    Args:
        stop_early: begin no other item once one has failed.

    Raises:
        UserError: of one or more items, each problem once.
    """
    futures = [pool.submit(work, item) for item in items]
    problems: dict[str, None] = {}
    results: list[Any] = []
    try:
        for future in futures:
            try:
                results.append(future.result())
            except UserError as error:
                problems[str(error)] = None
                if stop_early:
                    break
    finally:
        for future in futures:
            future.cancel()
        # What is at work still may use what the caller is about to close.
        wait(futures)
    if problems:
        raise UserError("; ".join(problems))
    return results
