"""The command `safepatch`, which works from any folder; `make setup` leaves it in .venv/bin.

safepatch run RECIPE ...       any command of python -m launch
safepatch merge build ...      python -m merge
safepatch eval run ...         python -m eval
safepatch train RECIPE ...     one training on this machine, python -m train.launcher
"""

import runpy
import shlex
import sys
import sysconfig
from pathlib import Path

from merge.common.files import atomic_write_text

_MODULES = {"merge": "merge", "eval": "eval", "train": "train.launcher"}
_ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = """\
#!/bin/sh
# Written by `make setup`: the commands of {root}, from any folder.
# What lies in that folder, as a train.py, must not be taken for the project's.
PYTHONSAFEPATH=1 exec {python} -c 'import sys
sys.path = [folder for folder in sys.path if folder]
from launch.safepatch import main
main()' "$@"
"""


def main() -> None:
    """Run the command that the first word names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(f"{__doc__}\n")
        words = ["--help"]
    module = _MODULES.get(words[0])
    sys.argv = ["safepatch", *(words if module is None else words[1:])]
    runpy.run_module(module or "launch", run_name="__main__", alter_sys=True)


def install() -> None:
    """Write the command beside this Python, and let this Python find the project from anywhere.

    A line in site-packages does so for the processes that a command starts, too, and for the jobs
    of a cluster; nothing is built or downloaded.
    """
    python = Path(sys.executable)
    site = Path(sysconfig.get_path("purelib"))
    atomic_write_text(site / "safepatching.pth", f"{_ROOT}\n")
    script = _SCRIPT.format(root=_ROOT, python=shlex.quote(str(python)))
    atomic_write_text(python.parent / "safepatch", script, mode=0o755)


if __name__ == "__main__":
    install()
