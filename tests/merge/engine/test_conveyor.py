"""Pieces of work pass a place in their order, whatever the threads; a failure ends them all."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from merge.engine.conveyor import Conveyor, Piece, Turn

_PIECES = 200


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_order(threads: int) -> None:
    """Also where a piece leaves its turn out."""
    passed: list[int] = []
    rng = random.Random(threads)
    with ThreadPoolExecutor(threads) as pool:
        conveyor = Conveyor(pool, threads)
        first, second = conveyor.turns(), conveyor.turns()

        def piece(number: int, one: Turn, two: Turn, seconds: float) -> None:
            time.sleep(seconds)
            if number % 3:
                with one:
                    passed.append(number)
            with two:
                passed.append(-number)

        def pieces() -> Iterator[Piece]:
            for number in range(_PIECES):
                one, two = first.turn(), second.turn()
                seconds = rng.choice([0, 0, 1e-3])
                yield (lambda n=number, a=one, b=two, s=seconds: piece(n, a, b, s)), (one, two)

        conveyor.run(pieces())
    numbers = [number for number in passed if number > 0]
    assert numbers == [number for number in range(_PIECES) if number % 3]
    assert [-number for number in passed if number <= 0] == list(range(_PIECES))


def test_a_failure_wakes_those_who_wait() -> None:
    """The error comes out, and no thread waits for a turn that will not come."""
    begun: list[int] = []
    with ThreadPoolExecutor(3) as pool:
        conveyor = Conveyor(pool, 3)
        place = conveyor.turns()

        def piece(number: int, turn: Turn) -> None:
            begun.append(number)
            if number == 5:
                time.sleep(0.05)
                raise KeyError("the fifth")
            with turn:
                pass

        def pieces() -> Iterator[Piece]:
            for number in range(_PIECES):
                turn = place.turn()
                yield (lambda n=number, t=turn: piece(n, t)), (turn,)

        with pytest.raises(KeyError, match="the fifth"):
            conveyor.run(pieces())
    assert max(begun) < 10
