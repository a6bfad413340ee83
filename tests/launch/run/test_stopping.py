"""A stage that is asked to stop ends at once, wherever its Python code stands."""

import subprocess
import sys
import time

import pytest

from merge.common.errors import STOPPED_EXIT_STATUS

# A callback of C code, as the compiler of the merge's loops has them: what is raised in it is lost.
_CALLBACK = """
import ctypes
ctypes.CFUNCTYPE(None)(ask_to_stop)()
"""

_FINALIZER = """
class Finalizer:
    def __del__(self):
        ask_to_stop()
Finalizer()
"""


@pytest.mark.parametrize("block", ["ask_to_stop()", _CALLBACK, _FINALIZER])
def test_a_stop_is_not_lost_in_code_that_swallows_errors(block: str) -> None:
    indented = "        ".join(f"{block}\ntime.sleep(3)\nraise SystemExit(1)".splitlines(True))
    code = f"""
import os, signal, time
from launch.run.stopping import stop_on_signals
from merge.common.errors import run_command

def ask_to_stop():
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.1)

def stage():
    with stop_on_signals():
        {indented}

raise SystemExit(run_command(stage))
"""
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == STOPPED_EXIT_STATUS, ended.stderr
    assert "Traceback" not in ended.stderr and "stopped on request" in ended.stderr
    assert time.monotonic() - started < 4, "the end came by itself, not after the block"


def test_a_stopped_stage_does_not_clear_up() -> None:
    """A compiled package that is half imported can abort the end, which would be a crash."""
    code = """
import atexit, os, runpy, sys, types
from merge.common.errors import StoppedOnRequestError
def command(options):
    raise StoppedOnRequestError("finished work is kept")
parsed = types.SimpleNamespace(command=command)
sys.modules["launch.cli"] = types.SimpleNamespace(parse=lambda words: parsed)
atexit.register(os.abort)
runpy.run_module("launch", run_name="__main__", alter_sys=True)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == STOPPED_EXIT_STATUS, ended.stderr
    assert ended.stderr.startswith("stopped on request: finished work is kept")
