"""What is seen to before DeepSpeed starts, in one process."""

from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.train_helpers import make_recipe
from train.job import job
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
