"""Loops are compiled once: later processes load machine code, and no compiler."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from merge.kernels.counting import count_digits, count_equal
from tests.support.train_helpers import ROOT

_COUNT = """
import sys
import numpy as np
from merge.kernels.counting import count_equal
print(count_equal(np.array([3, 5, 3, 0x8003], np.uint16), 3), "numba" in sys.modules)
"""


def _run(folder: Path) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", _COUNT]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_second_process_loads_no_compiler(tmp_path: Path) -> None:
    """A damaged file of code is compiled again, and without a place for code all goes on."""
    assert _run(tmp_path) == "3 True\n"
    assert _run(tmp_path) == "3 False\n"
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-9])
    assert _run(tmp_path) == "3 True\n"
    assert _run(tmp_path) == "3 False\n"
    assert _run(Path("/dev/null/nowhere")) == "3 True\n"


def test_a_loop_takes_the_types_it_is_given() -> None:
    """uint16 and uint32 keys, by turns: each has code of its own."""
    for dtype, shift in ((np.uint16, 0), (np.uint32, 16), (np.uint16, 0)):
        keys = np.array([7, 7, 9], dtype) << dtype(shift)
        counts = np.zeros(1 << 15, np.int64)
        count_digits(keys, counts)
        assert counts[7] == 2 and counts[9] == 1 and counts.sum() == 3
        assert count_equal(keys, 7 << shift) == 2
