"""Which checkpoint a rerun continues from, and which it refuses."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from merge.common.errors import UserError
from merge.common.files import atomic_write_json
from train.zero.ranks import World
from train.zero.resume import Checkpoints, TrainingProgress
from train.zero.zero3 import Zero3Model


def write_checkpoint(folder: Path, step: int, **marker: object) -> None:
    (folder / f"step-{step:08d}").mkdir(parents=True)
    content = {
        "identity": "this",
        "world_size": 2,
        "progress": asdict(TrainingProgress(step)),
        **marker,
    }
    atomic_write_json(folder / f"step-{step:08d}" / "complete.json", content)


def checkpoints(folder: Path, every: int = 5) -> Checkpoints:
    return Checkpoints(folder, 0o700, every, 2, "this", World(0, 2, 0, 2))


def test_newest_whole_checkpoint_counts_and_a_torn_one_does_not(tmp_path: Path) -> None:
    assert checkpoints(tmp_path).latest() is None
    write_checkpoint(tmp_path, 9)
    write_checkpoint(tmp_path, 10)
    (tmp_path / "step-00000011").mkdir()
    assert checkpoints(tmp_path).latest() == tmp_path / "step-00000010"


def test_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 9, identity="other")
    with pytest.raises(UserError, match="other settings; delete that folder"):
        checkpoints(tmp_path).latest()


def test_checkpoint_of_an_older_version_is_of_this_training_too(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 9, identity="as it was called")
    world = World(0, 2, 0, 2)
    checkpoints = Checkpoints(tmp_path, 0o700, 5, 2, "this", world, "as it was called")
    assert checkpoints.latest() == tmp_path / "step-00000009"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What all ranks say together is what this one says."""
    monkeypatch.setattr("train.zero.resume.wait_for_ranks", lambda: None)
    monkeypatch.setattr("train.zero.resume.any_over_ranks", lambda flag: flag)
    monkeypatch.setattr("train.zero.resume.sum_over_ranks", lambda values: values)


def test_every_rank_continues_from_the_main_ranks_checkpoint(
    tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder over the network may show one rank more than the others, or less."""
    told: list[list[float]] = []
    monkeypatch.setattr(
        "train.zero.resume.sum_over_ranks", lambda values: told.append(values) or [1.0, 9.0, 16.0]
    )
    loaded: list[str] = []
    model: Any = SimpleNamespace(load=lambda folder, tag: loaded.append(tag))
    second = Checkpoints(tmp_path, 0o700, 5, 2, "this", World(1, 2, 1, 2))
    write_checkpoint(tmp_path, 12)
    for continues in (second.resume, lambda model: second.turn_back(model, 20)):
        with pytest.raises(UserError, match=r"step-00000009-importance-00000016: not every proc"):
            continues(model)
    chosen = TrainingProgress(9, "all steps done", importance_samples=16)
    write_checkpoint(tmp_path, 9, progress=asdict(chosen))
    (tmp_path / "step-00000009").rename(tmp_path / "step-00000009-importance-00000016")
    assert second.resume(model) == chosen
    assert loaded == ["step-00000009-importance-00000016"]
    assert told == [[0.0, 0.0, 0.0]] * 3
    main = Checkpoints(tmp_path, 0o700, 5, 2, "this", World(0, 2, 0, 2))
    main.resume(model)
    assert told[3:] == [[1.0, 12.0, 0.0]]


def test_checkpoint_of_another_number_of_processes_is_cut_anew(tmp_path: Path, alone: None) -> None:
    """DeepSpeed's sums are means over ranks: of four they are half as large as of two."""
    asked: list[object] = []
    model: Any = SimpleNamespace(
        load_recut=lambda folder, tag, written_by: asked.append((tag, written_by)),
        scale_sums=asked.append,
    )
    write_checkpoint(tmp_path, 9, world_size=4)
    assert checkpoints(tmp_path).resume(model) == TrainingProgress(9)
    measured = TrainingProgress(10, importance_samples=16)
    write_checkpoint(tmp_path, 10, world_size=4, progress=asdict(measured))
    (tmp_path / "step-00000010").rename(tmp_path / "step-00000010-importance-00000016")
    assert checkpoints(tmp_path).resume(model) == measured
    assert asked == [("step-00000009", 4), ("step-00000010-importance-00000016", 4), 2.0]


def test_only_regular_checkpoints_are_gone_back_to(tmp_path: Path, alone: None) -> None:
    """A stop's checkpoints and the training's end differ between runs with the same patch."""
    for step in (0, 5, 10, 12):
        write_checkpoint(tmp_path, step)
    loaded: list[str] = []
    model: Any = SimpleNamespace(load=lambda folder, tag: loaded.append(tag))
    assert checkpoints(tmp_path).turn_back(model, 14) == TrainingProgress(10)
    assert checkpoints(tmp_path).turn_back(model, 10) == TrainingProgress(5)
    assert checkpoints(tmp_path).turn_back(model, 5) is None
    assert loaded == ["step-00000010", "step-00000005"]


def test_the_newest_regular_checkpoints_stay(tmp_path: Path, alone: None) -> None:
    def save(progress: TrainingProgress) -> list[str]:
        checkpoints(tmp_path).save(model, progress)
        return sorted(folder.name[5:] for folder in tmp_path.iterdir())

    model: Any = SimpleNamespace(save=lambda folder, tag: (folder / tag).mkdir())
    assert save(TrainingProgress(5)) == ["00000005"]
    (tmp_path / "step-00000007").mkdir()  # torn
    assert save(TrainingProgress(8)) == ["00000005", "00000008"]
    assert save(TrainingProgress(10)) == ["00000005", "00000010"]
    assert save(TrainingProgress(15)) == ["00000010", "00000015"]
    ended = TrainingProgress(10, stop_reason="a guard")
    assert save(ended) == ["00000010"]
    assert save(TrainingProgress(10, "a guard", importance_samples=16))[-1].endswith(
        "importance-00000016"
    )
    assert checkpoints(tmp_path).latest() == tmp_path / "step-00000010-importance-00000016"


@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_checkpoint_whose_deletion_was_cut_short_is_none(
    all_of_them: bool, tmp_path: Path, alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its marker goes first: with it, half of the files would be loaded, or none found."""

    def killed(folder: Path) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    for step in (5, 10):
        write_checkpoint(tmp_path, step)
        (tmp_path / f"step-{step:08d}/weights").touch()
    monkeypatch.setattr("train.zero.resume.remove_folder", killed)
    model: Any = SimpleNamespace(save=lambda folder, tag: (folder / tag).mkdir())
    with pytest.raises(KeyboardInterrupt):
        if all_of_them:
            checkpoints(tmp_path).remove()
        else:
            checkpoints(tmp_path).save(model, TrainingProgress(15))
    assert (tmp_path / "step-00000005/weights").exists()
    assert not (tmp_path / "step-00000005/complete.json").exists()


@pytest.mark.parametrize("answer", [FileNotFoundError("zero_pp_rank_0"), (None, None)])
def test_a_checkpoint_that_deepspeed_cannot_load_is_named(answer: Any, tmp_path: Path) -> None:
    """It says so by an empty path, which would leave the model at the backbone."""

    def load(directory: str, tag: str) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    model = Zero3Model.__new__(Zero3Model)
    model.engine = cast(Any, SimpleNamespace(load_checkpoint=load))
    with pytest.raises(UserError, match=r"step-00000005: this checkpoint is not whole; delete it"):
        model.load(tmp_path, "step-00000005")


def test_checkpoints_are_due_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    due = [step for step in range(1, 11) if checkpoints(tmp_path).is_due(TrainingProgress(step))]
    assert due == [5, 10]
    assert checkpoints(tmp_path).is_due(TrainingProgress(7, stop_reason="all steps done"))
    assert not checkpoints(tmp_path, every=0).is_due(
        TrainingProgress(7, stop_reason="all steps done")
    )
