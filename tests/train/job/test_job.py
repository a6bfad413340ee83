"""What is seen to before DeepSpeed starts, in one process."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.train_helpers import make_recipe
from train.job import derivation, job
from train.job.derivation import Derivation
from train.recipe import TrainRecipe, load_recipe
from train.zero.ranks import World


@pytest.mark.parametrize("rank", [0, 1])
def test_a_finished_patch_keeps_no_checkpoint(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may be killed between the patch and their removal; the main rank makes up for it.

    An over-safety checkpoint is a model that answers what it should refuse.
    """
    recipe = load_recipe(make_recipe(tmp_path), [], TrainRecipe)
    checkpoint = recipe.output / "over_safety.work/step-00000004"
    checkpoint.mkdir(parents=True)
    monkeypatch.setattr(job, "is_finished", lambda folder, identity: True)
    job.derive_patch(recipe, "over_safety", World(rank, 2, rank, 2), cast(Any, None))
    assert checkpoint.exists() == (rank != 0)
    assert (recipe.output / "over_safety.work").exists() == (rank != 0)


@pytest.mark.parametrize("sees", [True, False])
def test_ranks_of_several_nodes_do_not_end_by_their_own_view(
    sees: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that leaves alone would let the others wait for it in their first collective."""
    recipe = load_recipe(make_recipe(tmp_path), [], TrainRecipe)
    joined: list[bool] = []
    monkeypatch.setattr(job, "is_finished", lambda folder, identity: sees)
    monkeypatch.setattr(
        "train.job.derivation.Derivation.run", lambda derivation: joined.append(derivation.finished)
    )
    monkeypatch.setattr("os.umask", lambda mask: mask)
    job.derive_patch(recipe, "over_safety", World(1, 2, 0, 1), cast(Any, None))
    assert joined == [sees]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_main_ranks_word_ends_a_finished_derivation_on_all(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one does not see the patch yet."""
    asked: list[bool] = []

    def agree(flag: bool) -> bool:
        asked.append(flag)
        return True

    for name, function in (
        ("initialise_distributed", lambda world: None),
        ("leave_distributed", lambda: None),
        ("any_over_ranks", agree),
        ("load_model", lambda *_: pytest.fail("trains")),
    ):
        monkeypatch.setattr(derivation, name, function)
    recipe = load_recipe(make_recipe(tmp_path), [], TrainRecipe)
    nothing = cast(Any, None)
    inputs = (nothing, tmp_path, nothing, nothing, {}, None, 0.0)
    Derivation(recipe, "safety", World(rank, 2, 0, 1), *inputs, finished=rank == 0).run()
    assert asked == [rank == 0]
