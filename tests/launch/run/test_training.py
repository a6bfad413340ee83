"""What the end of a training means to the command that has started it (issue 15)."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.run.training import train_patch
from merge.common.errors import StoppedOnRequestError, UserError, run_command
from tests.support.tiny_run import make_run


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [
        ("exit 2", UserError, "^$"),
        ("exit 75", StoppedOnRequestError, "^$"),
        ("exit 137", UserError, "safety patch was killed.* lower safety.micro_batch_size"),
        ("kill -9 $$", UserError, "safety patch was killed"),
        ("exit 1", UserError, "ended with status 1, for the reason above"),
    ],
)
def test_every_end_has_its_meaning(
    end: str, error: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.run.training.training_command", lambda *_: ["sh", "-c", end])
    with pytest.raises(error, match=said):
        train_patch(Path("recipe.yaml"), "safety")


def test_what_another_process_has_said_is_not_said_again(capsys: pytest.CaptureFixture) -> None:
    def fail() -> None:
        raise UserError

    assert run_command(fail) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_an_error_that_the_training_finds_is_one_line(tmp_path: Path) -> None:
    """Two real ranks that end with NaN, as a far too long step makes it."""
    backbone = make_run(tmp_path, safety={"learning_rate": 1e30, "steps": 3, "max_length": 64})
    code = (
        "import sys; from pathlib import Path; from launch.run.training import train_patch; "
        "from merge.common.errors import run_command; "
        "sys.exit(run_command(lambda: train_patch(Path(sys.argv[1]), 'safety')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(backbone)], capture_output=True, text=True, check=False
    )
    lines = [line for line in ended.stderr.splitlines() if "error:" in line]
    assert ended.returncode == 2, ended.stderr
    assert len(lines) == 1 and "Traceback" not in ended.stderr
