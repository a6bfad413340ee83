"""When the refusal margin ends a training, by its rule alone, and what it needs to begin."""

from pathlib import Path
from typing import Any

import pytest

from merge.common.errors import UserError
from tests.support.train_helpers import make_recipe
from train.guards.margin_guard import Look, MarginGuard, best_of
from train.guards.openings_file import write_openings
from train.guards.refusal_margin import RefusalOpenings
from train.job.job import derive_patch
from train.job.stopping import StopRequest
from train.recipe import TrainRecipe, load_recipe
from train.settings import GuardSettings
from train.zero.ranks import World


def guard(unlearns: bool, **settings: Any) -> MarginGuard:
    return MarginGuard(GuardSettings(**settings), unlearns, [], 1, World(0, 1, 0, 1))


def looks(*margins: float, probability: float = 0.5) -> list[Look]:
    return [Look(step, margin, probability) for step, margin in enumerate(margins)]


def end(watching: MarginGuard, margins: list[float]) -> int | None:
    """The number of looks after which the training ends."""
    for count in range(1, len(margins) + 1):
        if watching.reason_to_stop(looks(*margins[:count])):
            return count
    return None


def test_unlearning_ends_when_the_margin_has_fallen_and_stays_low() -> None:
    """One low look alone ends nothing at a patience of 2, nor do looks within the fall."""
    course = [-2.0, -1.0, -1.9, -1.1, -1.4, -1.6, -1.7, -3.0]
    assert end(guard(True, margin_fall=0.5, margin_patience=2), course) == 7
    assert end(guard(True, margin_fall=0.5, margin_patience=1), course) == 3
    assert end(guard(True, margin_fall=5.0, margin_patience=1), course) is None
    reason = guard(True).reason_to_stop(looks(*course[:7]))
    assert reason == "refusal margin -1.7000 has fallen from -1.0000"


def test_a_new_best_begins_anew() -> None:
    watching = guard(True, margin_fall=0.5, margin_patience=2)
    assert end(watching, [0.0, -1.0, 1.0, 0.0, 0.9, 0.0, -0.1]) == 7
    assert watching.is_best(looks(0.0, 1.0)) and not watching.is_best(looks(0.0, 1.0, 1.0))
    assert best_of(looks(0.0, 1.0, 1.0)).step == 1


def test_learning_ends_when_refusals_are_gone_but_not_before_a_step() -> None:
    watching = guard(False, min_refusal=0.1)
    assert watching.reason_to_stop(looks(-9.0, probability=0.01)) is None
    assert watching.reason_to_stop(looks(-9.0, -9.0, probability=0.1)) is None
    reason = watching.reason_to_stop(looks(-9.0, -9.0, probability=0.09))
    assert reason and reason.startswith("refusals are gone: their mean probability 0.0900")
    assert not watching.is_best(looks(-9.0, -8.0))


def test_unlearning_ends_when_nearly_all_is_refused_but_not_before_a_step() -> None:
    """A margin that rises for ever, as short steps on first tokens make it, must end too."""
    watching = guard(True, max_refusal=0.9)
    assert watching.reason_to_stop(looks(9.0, probability=0.99)) is None
    assert watching.reason_to_stop(looks(0.0, 2.0, probability=0.9)) is None
    reason = watching.reason_to_stop(looks(0.0, 3.0, probability=0.91))
    assert reason and reason.startswith("nearly all is refused: the mean probability 0.9100")
    assert guard(True, max_refusal=1.0).reason_to_stop(looks(0.0, 9.0, probability=1.0)) is None


def test_what_the_guard_needs_is_said_in_one_line_before_training(tmp_path: Path) -> None:
    recipe = load_recipe(make_recipe(tmp_path), ["safety.guards.margin_samples=4"], TrainRecipe)

    def refused() -> str:
        stop = StopRequest()
        with pytest.raises(UserError) as error:
            derive_patch(recipe, "safety", World(0, 1, 0, 1), stop)
        stop.forget_signals()
        assert "\n" not in str(error.value)
        return str(error.value)

    said = refused()
    assert "run/openings.json: is missing" in said and "python -m launch openings" in said
    recipe.output.mkdir()
    write_openings(recipe.output / "openings.json", RefusalOpenings((), 0.0, 0.0))
    assert "holds no opening, and safety.guards.margin_samples" in refused()
    write_openings(recipe.output / "openings.json", RefusalOpenings(((96, 97),), 1.0, 1.0))
    assert "97" in refused()  # the model has no such token
