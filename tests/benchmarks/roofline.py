"""The bound of the memory bus: bytes that a command moves, beside copies of memory."""

import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_THREADS = (1, 2, 4, 8)
_COPY_VALUES = 1 << 25
"""Values of 8 bytes in each thread: more than any cache holds."""
_REPEATS = 5
_WRAPPER = (
    "import runpy\n"
    "try:\n    runpy.run_module('merge', run_name='__main__')\n"
    "finally:\n"
    "    print(open('/proc/self/io').read())"
)


def thread_counts() -> tuple[list[int], list[int]]:
    """Numbers of threads that this machine can measure, and those that it cannot."""
    cores = len(os.sched_getaffinity(0))
    return [n for n in _THREADS if n <= cores], [n for n in _THREADS if n > cores]


def counted(command: list[str]) -> list[str]:
    """A ``python -m merge`` command line which prints the bytes of its read and write calls."""
    start = command.index("merge") + 1
    return [sys.executable, "-c", _WRAPPER, *command[start:]]


def moved_bytes(printed: str) -> int:
    """What the memory bus has moved at least, for what a counted command has printed.

    A byte that is read is read in the page cache and written in the process, and the other way
    round; that these are still in a cache when they are used, is the loops' merit.
    """
    rchar, wchar = (re.search(rf"{key}: (\d+)", printed) for key in ("rchar", "wchar"))
    assert rchar and wchar
    return 2 * (int(rchar[1]) + int(wchar[1]))


def copy_rate(threads: int) -> float:
    """Bytes a second, read and written ones added up as STREAM does it; the best of five."""
    arrays = [(np.ones(_COPY_VALUES), np.zeros(_COPY_VALUES)) for _ in range(threads)]
    rates = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(_REPEATS):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), arrays))
            seconds = time.perf_counter() - started
            rates.append(2 * threads * _COPY_VALUES * 8 / seconds)
    return max(rates)
