"""The command `safepatch` works from any folder, whatever lies there."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from merge.common.provenance import VERSION
from tests.support.train_helpers import ROOT, make_recipe


@pytest.fixture(scope="module")
def safepatch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed into an environment of its own, whose path holds a blank."""
    venv = tmp_path_factory.mktemp("place") / "my venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    command = [venv / "bin/python", "-m", "launch.safepatch"]
    subprocess.run(command, cwd=ROOT, check=True)
    return venv / "bin/safepatch"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with files that are called as the project's own."""
    for name in ("train", "eval", "merge", "launch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    return tmp_path


def run(safepatch: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([safepatch, *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("merge",), ("eval",), ("train",)])
def test_every_floor_answers(safepatch: Path, elsewhere: Path, words: tuple[str, ...]) -> None:
    done = run(safepatch, elsewhere, *words, "--version")
    assert done.returncode == 0 and done.stdout.startswith(f"safepatching {VERSION}"), done.stderr


@pytest.mark.slow
def test_without_a_command_it_says_which_there_are(safepatch: Path, elsewhere: Path) -> None:
    done = run(safepatch, elsewhere)
    for words in ("safepatch run RECIPE", "safepatch merge build", "submit"):
        assert words in done.stdout


@pytest.mark.slow
def test_an_error_is_a_line_as_ever(safepatch: Path, elsewhere: Path) -> None:
    done = run(safepatch, elsewhere, "run", "no.yaml")
    assert done.returncode == 2 and done.stderr.startswith("error: recipe no.yaml: cannot be read")


@pytest.mark.slow
def test_the_projects_own_recipes_are_found(safepatch: Path, elsewhere: Path) -> None:
    """By their paths in the project: the mistake is in the recipe's keys, not in its path."""
    done = run(safepatch, elsewhere, "run", "launch/recipes/demo.yaml", "sed=1")
    assert done.returncode == 2 and "unknown key 'sed'" in done.stderr


@pytest.mark.slow
def test_what_it_starts_finds_the_project_too(safepatch: Path, elsewhere: Path) -> None:
    make_recipe(elsewhere)
    done = run(safepatch, elsewhere, "train", "recipe.yaml", "output=run", "--role", "safety")
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "run/safety/patch.json").is_file()
