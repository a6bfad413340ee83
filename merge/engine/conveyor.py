"""Numbered pieces of work on several threads, which pass some places in the order of their numbers.

A hash of a file wants its bytes in order. So threads take pieces of a model in that order, work on
them at once, and wait for their turn only where a hash is made of them.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType


class _GivenUpError(Exception):
    """Another piece of work has failed."""


class Turn:
    """One piece's turn at one place; a context manager."""

    def __init__(self, turns: "Turns", number: int) -> None:
        self._turns, self._number = turns, number

    def __enter__(self) -> None:
        self._turns.wait_for(self._number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._turns.pass_on(self._number)

    def skip(self) -> None:
        """Let it pass, where that has not happened."""
        if not self._turns.has_passed(self._number):
            with self:
                pass


class Turns:
    """One place that pieces of work pass in the order in which their turns were made."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._made = self._now = 0
        self._given_up = False

    def turn(self) -> Turn:
        """The turn of the next piece of work."""
        self._made += 1
        return Turn(self, self._made - 1)

    def wait_for(self, number: int) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self._given_up or self._now == number)
            if self._given_up:
                raise _GivenUpError

    def has_passed(self, number: int) -> bool:
        return self._now > number

    def pass_on(self, number: int) -> None:
        with self._condition:
            self._now = number + 1
            self._condition.notify_all()

    def give_up(self) -> None:
        """Wake all who wait: their turn will not come."""
        with self._condition:
            self._given_up = True
            self._condition.notify_all()


Piece = tuple[Callable[[], object], Sequence[Turn]]
"""A piece of work, and its turns, which it may leave out."""


class Conveyor:
    """Works through pieces on a pool's threads.

    Args:
        threads: how many of them.
    """

    def __init__(self, pool: ThreadPoolExecutor, threads: int) -> None:
        self._pool, self._threads = pool, threads
        self._lock = threading.Lock()
        self._places: list[Turns] = []
        self._error: BaseException | None = None

    def turns(self) -> Turns:
        """A new place."""
        self._places.append(Turns())
        return self._places[-1]

    def run(self, pieces: Iterator[Piece]) -> None:
        """Do all pieces; they are made one by one, in order, as threads come to them.

        Raises:
            BaseException: that of the first piece which has failed, once no other is at work.
        """
        workers = [self._pool.submit(self._work, pieces) for _ in range(self._threads)]
        try:
            wait(workers)
        except BaseException as error:
            self._fail(error)
            wait(workers)
        if self._error is not None:
            raise self._error

    def _work(self, pieces: Iterator[Piece]) -> None:
        try:
            while self._error is None:
                with self._lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                work, turns = piece
                work()
                for turn in turns:
                    turn.skip()
        except _GivenUpError:
            return
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        for place in self._places:
            place.give_up()
