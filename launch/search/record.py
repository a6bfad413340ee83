"""search.json: what a search has tried, what it chose, and by which rule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from launch.search.choice import OutcomeRecord, pareto_front
from launch.search.opening_search import MarginRecord, SearchResult
from launch.search.settings import SearchMethod, SearchSettings
from merge.common.files import read_json
from merge.settings import MergeSettings

RULE = (
    "among the settings that lose no more utility and gain no more degenerate answers than the "
    "margins allow, the one whose worse ratio to the backbone (harm or refusals) is least"
)


class EstimateRecord(OutcomeRecord):
    """A merge of which only margins were asked; its rates are estimates."""

    settings: dict[str, Any]
    """As ``MergeSettings`` dumps them."""


class TrialRecord(OutcomeRecord):
    """A merge that answered the validation prompts."""

    method: str
    settings: dict[str, Any]
    """As ``MergeSettings`` dumps them."""
    pareto: bool
    """Whether it is on the Pareto front of its method."""
    chosen: bool


class _Tried(TypedDict):
    split: str
    rule: str
    backbone: OutcomeRecord
    chosen: dict[str, dict[str, Any]]
    trials: list[TrialRecord]
    estimated: list[EstimateRecord]


class SearchRecord(_Tried, MarginRecord):
    """The content of search.json.

    Attributes:
        split: the part of the prompts that was asked.
        rule: by which the settings were chosen, in words.
        chosen: merge settings by method, those of the patched model first.
    """


def search_record(
    result: SearchResult, chosen: Mapping[SearchMethod, MergeSettings], settings: SearchSettings
) -> SearchRecord:
    """What search.json says; every method has a front, the choice is that of the first."""
    first = settings.methods[0]
    fronts = {
        method: pareto_front(pairs, result.before, settings)
        for method, pairs in result.answered.items()
    }
    return SearchRecord(
        split="validation",
        rule=RULE,
        backbone=result.before.as_dict(),
        chosen={method: merge.model_dump(mode="json") for method, merge in chosen.items()},
        **result.record,
        trials=[
            TrialRecord(
                method=method,
                settings=pair[0].model_dump(mode="json"),
                **pair[1].as_dict(),
                pareto=pair in fronts[method],
                chosen=pair[0] == chosen[first],
            )
            for method, pairs in result.answered.items()
            for pair in pairs
        ],
        estimated=[
            EstimateRecord(settings=merge.model_dump(mode="json"), **outcome.as_dict())
            for pairs in result.estimated.values()
            for merge, outcome in pairs
        ],
    )


def read_search_record(file: Path) -> SearchRecord:
    """The content of a search.json; one of an older version may lack some of it.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    return cast(SearchRecord, read_json(file))
