"""What a search says of its outcome: nothing to repair, and no merge within the margins."""

import pytest

from launch.search.choice import Outcome, choose
from launch.search.settings import SearchSettings
from launch.search.warnings import warn_of_outcome
from merge.settings import MergeSettings

SETTINGS = SearchSettings.model_validate({"suite": "validation.yaml"})
BACKBONE = Outcome(0.4, 0.3, 0.8, 0.0)
BROKEN = [
    (MergeSettings(alpha=2), Outcome(1.0, 0.0, 0.5, 0.0)),
    (MergeSettings(alpha=3), Outcome(0.0, 0.0, 0.1, 0.9)),
]
GOOD = (MergeSettings(alpha=1), Outcome(0.1, 0.1, 0.8, 0.0))


def warnings(before: Outcome, tried: list, caplog: pytest.LogCaptureFixture) -> str:
    chosen = {"difference": choose(before, tried, SETTINGS)}
    warn_of_outcome(before, {"difference": tried}, chosen, SETTINGS)  # pyright: ignore
    return caplog.text


def test_a_search_that_keeps_the_margins_says_nothing(caplog) -> None:
    assert not warnings(BACKBONE, [*BROKEN, GOOD], caplog)


def test_broken_margins_are_told_with_the_rates_of_the_choice(caplog) -> None:
    text = warnings(BACKBONE, BROKEN, caplog)
    assert "search difference: none of 2 merges keeps the margins" in text
    assert "50.0 % utility (backbone 80.0) and 0.0 % degenerate" in text


@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.4, 0.3)])
def test_a_choice_that_repairs_nothing_is_told(rates: tuple[float, float], caplog) -> None:
    """One fault for the other, or none changed: the backbone would do as well."""
    tried = [*BROKEN, (MergeSettings(alpha=4), Outcome(*rates, 0.8, 0.0))]
    text = warnings(BACKBONE, tried, caplog)
    assert "no merge within the margins lowers both faults" in text
    assert f"{100 * rates[0]:.1f} % harmful answers (backbone 40.0)" in text


def test_an_axis_without_a_fault_is_told(caplog) -> None:
    text = warnings(Outcome(0.0, 0.3, 0.8, 0.0), [GOOD], caplog)
    assert "answers none of the harmful prompts" in text
    assert "refuses none" not in text
