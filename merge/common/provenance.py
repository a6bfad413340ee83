"""Which version and commit of this project wrote a file (issue 15)."""

import argparse
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

VERSION = "0.1.0"
"""As in pyproject.toml."""
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 10.0


@cache
def written_by() -> dict[str, str]:
    """The version, and the commit where the project is a git repository.

    ``-dirty`` follows the commit where tracked files differ from it.
    """
    commit = _commit()
    return {"version": VERSION} | ({} if commit is None else {"commit": commit})


def add_version(parser: argparse.ArgumentParser) -> None:
    """Give a command line the option ``--version``."""
    parser.add_argument(
        "--version",
        action=_ShowVersion,
        nargs=0,
        default=argparse.SUPPRESS,  # what a command does with its options, it does not know
        help="version and commit",
    )


class _ShowVersion(argparse.Action):
    """Asks git only where the version is asked for, unlike argparse's own action."""

    def __call__(self, parser: argparse.ArgumentParser, *values: object) -> NoReturn:
        found = written_by()
        commit = f" ({found['commit']})" if "commit" in found else ""
        sys.stdout.write(f"safepatching {found['version']}{commit}\n")
        parser.exit()


def _commit() -> str | None:
    top = _git("rev-parse", "--show-toplevel")
    # A copy without a repository of its own may lie inside another project's.
    if top is None or Path(top).resolve() != _ROOT:
        return None
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str | None:
    """What git says, or None where it is not there or refuses."""
    command = ["git", "-C", str(_ROOT), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
