"""How a rank ends that was asked to stop, and what an error says of a path that leads nowhere."""

import subprocess
import sys
from pathlib import Path

import pytest

from merge.common.errors import STOPPED_EXIT_STATUS, USAGE_EXIT_STATUS, UserError
from merge.common.yaml_file import read_yaml
from train.backbone.folder import backbone_directory
from train.data.examples import read_examples
from train.recipe import BackboneSettings, DataSettings

_ROOT = Path(__file__).resolve().parents[3]
_RANK = """
import atexit, os, runpy, signal, sys, time, types
from merge.common import errors
def derive_patch(*arguments):
    os.kill(os.getpid(), signal.SIGTERM)
    raise errors.{error}("for a reason")
sys.modules["train.job.job"] = types.SimpleNamespace(derive_patch=derive_patch)
time.sleep = lambda seconds: None
atexit.register(os.abort)
sys.argv = ["train", {recipe!r}, "--role=safety"]
runpy.run_module("train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("error", "status"),
    [("StoppedOnRequestError", STOPPED_EXIT_STATUS), ("UserError", USAGE_EXIT_STATUS)],
)
def test_a_rank_that_was_stopped_does_not_clear_up(error: str, status: int, tmp_path: Path) -> None:
    """What clears up, as a thread of gloo, can abort: a stopped training then counted as failed."""
    environment = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "PATH": ""}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: x, backbone: {path: b}, data: {path: d.jsonl}}")
    script = _RANK.format(error=error, recipe=str(recipe))
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=_ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, "")


def test_an_error_says_where_a_relative_path_counts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe that works in one folder is often called from another."""
    monkeypatch.chdir(tmp_path)
    counted = rf", which counts from {tmp_path}$"
    with pytest.raises(UserError, match=counted):
        backbone_directory(BackboneSettings(path="models"))
    for source in ("pairs.jsonl", "parts/*.jsonl"):
        with pytest.raises(UserError, match=counted):
            read_examples(DataSettings(path=source))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=f"no such file in the folder mine.*{counted}"):
        read_examples(DataSettings(path="mine/pairs.jsonll"))  # no set of the hub
    with pytest.raises(UserError, match=counted):
        read_yaml(Path("mine.yaml"), "recipe")
    with pytest.raises(UserError, match=r"check the path$"):
        read_yaml(tmp_path / "mine.yaml", "recipe")
