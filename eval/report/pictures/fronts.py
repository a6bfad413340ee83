"""The trials of a search by the method that they are of, for pictures and tables of its fronts."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

TrialT = TypeVar("TrialT", bound=Mapping[str, Any])


def method_of(trial: Mapping[str, Any]) -> str:
    """The method that was searched; records of older versions only have that of the merge."""
    return trial.get("method") or trial["settings"].get("method", "merges")


def by_method(trials: Sequence[TrialT]) -> dict[str, list[TrialT]]:
    """The trials of each method, methods in the order of the search."""
    groups: dict[str, list[TrialT]] = {}
    for trial in trials:
        groups.setdefault(method_of(trial), []).append(trial)
    return groups


def fronts_of(trials: Sequence[TrialT]) -> dict[str, list[TrialT]]:
    """The Pareto front of each method, least harm first, with the setting that was chosen.

    A method without either, as all but the first in records of older versions, is left out.
    """
    fronts = {
        method: sorted(
            (trial for trial in tried if trial.get("pareto") or trial.get("chosen")),
            key=lambda trial: (trial["harmful_rate"], trial["refusal_rate"]),
        )
        for method, tried in by_method(trials).items()
    }
    return {method: front for method, front in fronts.items() if front}
