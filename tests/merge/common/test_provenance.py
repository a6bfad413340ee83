"""Files say which version and commit wrote them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from merge.common import provenance
from tests.support.train_helpers import ROOT


def test_the_version_is_that_of_the_project():
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert provenance.written_by()["version"] == version == provenance.VERSION


@pytest.mark.slow
@pytest.mark.parametrize("module", ["launch", "train", "train.launcher", "merge", "eval"])
def test_every_command_tells_its_version(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].split()[:2] == ["safepatching", provenance.VERSION]
    assert len(done.stdout.splitlines()) == 1 and not done.stderr


def git(folder: Path, *arguments: str) -> str:
    names = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_of_the_projects_own_repository(tmp_path, monkeypatch):
    """A copy inside somebody's other repository, or in none, has no commit."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setattr(provenance, "_ROOT", root)
    assert provenance._commit() is None
    git(tmp_path, "init")
    (root / "file").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    assert provenance._commit() is None
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert provenance._commit() == commit and len(commit) == 40
    (root / "file").write_text("two")
    assert provenance._commit() == f"{commit}-dirty"


def test_the_commit_is_known_without_a_git_program(tmp_path, monkeypatch):
    """Images of clusters often have none: loose and packed branches, no branch, linked trees."""
    root, linked = tmp_path / "project", tmp_path / "linked"
    root.mkdir()
    git(root, "init")
    (root / "file").write_text("one")
    git(root, "add", ".")
    git(root, "commit", "-m", "first")
    commit = git(root, "rev-parse", "HEAD")
    git(root, "worktree", "add", "-b", "side/way", str(linked))
    monkeypatch.setattr(provenance, "_git", lambda *arguments: None)

    def commit_of(folder: Path) -> str | None:
        monkeypatch.setattr(provenance, "_ROOT", folder)
        return provenance._commit()

    assert commit_of(root) == commit_of(linked) == commit
    git(root, "pack-refs", "--all")
    assert not list((root / ".git/refs/heads").rglob("way"))
    assert commit_of(root) == commit_of(linked) == commit
    git(root, "checkout", "--detach")
    assert commit_of(root) == commit
    assert commit_of(tmp_path) is None
