"""Which version and commit of this project wrote a file, and of which recipe (issues 15, 17)."""

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

VERSION = "0.1.0"
"""As in pyproject.toml."""
RECIPE_HASH = "recipe_sha256"
"""Key of ``written_by`` that holds ``recipe_hash``."""
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 10.0
_WITHOUT_EFFECT = {"name", "output", "keep_intermediates", "cluster", "continual", "written_by"}
"""Keys of a recipe that change no number of its run: where and by whom it is run, what is kept."""


def written_by(recipe: str | None = None) -> dict[str, str]:
    """The version, the commit where the project is a git repository, and the recipe's hash.

    ``-dirty`` follows the commit where tracked files differ from it and the git program is there
    to say so.

    Args:
        recipe: ``recipe_hash`` of the run that a file belongs to; files made by hand have none.
    """
    commit = _commit_now()
    return {
        "version": VERSION,
        **({} if commit is None else {"commit": commit}),
        **({} if recipe is None else {RECIPE_HASH: recipe}),
    }


def recipe_hash(values: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of what a run's numbers depend on in its recipe.

    Over JSON with sorted keys. Paths in the run folder count from it, so that it may be moved;
    empty sections, ``None`` and keys that change no number do not count.

    Args:
        values: all of a resolved recipe as plain values, as a run folder's recipe.yaml keeps it.
    """
    kept = {
        key: value
        for key, value in values.items()
        if key not in _WITHOUT_EFFECT and value not in (None, {}, [])
    }
    kept = from_folder(kept, str(values.get("output", "")))
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def from_folder(value: Any, folder: str) -> Any:
    """The value with paths inside the run folder as ``${output}/...``."""
    if isinstance(value, dict):
        return {key: from_folder(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [from_folder(inner, folder) for inner in value]
    if folder and isinstance(value, str) and value.startswith(f"{folder}/"):
        return "${output}" + value.removeprefix(folder)
    return value


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
        version = written_by()
        commit = f" ({version['commit']})" if "commit" in version else ""
        sys.stdout.write(f"safepatching {version['version']}{commit}\n")
        parser.exit()


@cache
def _commit_now() -> str | None:
    return _commit()


def _commit() -> str | None:
    """The commit that is checked out in the project's own repository.

    A copy without one may lie inside another project's, whose commit says nothing. It is read
    from the files of ``.git``, as images of clusters often have no git program.
    """
    commit = _head(_ROOT / ".git")
    if commit is None:
        return None
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if changed else commit


def _head(git: Path) -> str | None:
    """The commit of HEAD, by the layout of gitrepository-layout(5).

    Args:
        git: the folder ``.git``, or in a linked work tree or a submodule the file that names it.
    """
    try:
        if git.is_file():
            git = git.parent / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head or None
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        shared = git / common.read_text().strip() if common.is_file() else git
        for folder in (git, shared):
            if (folder / name).is_file():
                return (folder / name).read_text().strip()
        packed = (shared / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), None)
    except (OSError, UnicodeDecodeError):
        return None


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
