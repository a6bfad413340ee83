"""Work over several threads whose errors are told together."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from merge.errors import UserError

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def run_all(
    pool: ThreadPoolExecutor, work: Callable[[ItemT], ResultT], items: Iterable[ItemT]
) -> list[ResultT]:
    """Results in order; all user errors together in one, once every item is through.

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
    finally:
        for future in futures:
            future.cancel()
    if problems:
        raise UserError("; ".join(problems))
    return results
