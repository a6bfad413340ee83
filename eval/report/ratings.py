"""MT-Bench ratings of several models side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from eval.mt_bench import RESULT_NAME, MtBenchResult
from eval.statistics.paired import paired_bootstrap
from eval.statistics.rates import GroupedMean, Interval
from merge.common.errors import UserError
from merge.common.files import read_json


class _Rating(GroupedMean):
    unparsed: int
    """Judgements without a readable rating."""
    judge: str
    turns: list[GroupedMean]
    categories: dict[str, GroupedMean]


class RatingEntry(_Rating, total=False):
    """Mean MT-Bench rating of one model over ``n`` questions, 1 to 10."""

    difference: Interval | None
    """Difference from the backbone's mean; None where no question has ratings of both."""


def compare_ratings(
    directories: Mapping[str, Path], identities: Mapping[str, Any], backbone: str
) -> dict[str, RatingEntry]:
    """The ratings of the models that have any, and their difference from the backbone's.

    Args:
        directories: by model, the folder that ``eval mt-bench`` wrote to.
        identities: by model, the hashes that its evaluation names.

    Returns:
        Per model "value", "low", "high", "n" (questions) and "unparsed"; with "difference" (low
        and high by paired bootstrap over questions that both have ratings of) where the backbone
        is rated too. Empty where no model is rated.

    Raises:
        UserError: ratings of other weights than the evaluation's, or by different judges.
    """
    results = {
        name: cast(MtBenchResult, read_json(directory / RESULT_NAME))
        for name, directory in directories.items()
        if (directory / RESULT_NAME).is_file()
    }
    for name, result in results.items():
        if result["identity"] != identities[name]:
            raise UserError(
                f"{directories[name] / RESULT_NAME}: rates other weights than '{name}' has; run "
                "`python -m eval mt-bench` again"
            )
    judges = sorted({result["judge"] for result in results.values()})
    if len(judges) > 1:
        raise UserError(f"MT-Bench was rated by {' and '.join(judges)}; use one judge")
    table = {name: _entry(result) for name, result in results.items()}
    for name in table.keys() - {backbone} if backbone in table else ():
        table[name]["difference"] = _difference(results[backbone], results[name])
    return table


def _entry(result: MtBenchResult) -> RatingEntry:
    return {
        "value": result["value"],
        "low": result["low"],
        "high": result["high"],
        "n": result["n"],
        "unparsed": result["unparsed"],
        "judge": result["judge"],
        "turns": result["turns"],
        "categories": result["categories"],
    }


def _difference(before: MtBenchResult, after: MtBenchResult) -> Interval | None:
    pairs = [
        (_mean(ratings), _mean(after["ratings"].get(question, [])))
        for question, ratings in before["ratings"].items()
    ]
    both = [(old, new) for old, new in pairs if old is not None and new is not None]
    if not both:
        return None
    olds, news = zip(*both, strict=True)
    low, high = paired_bootstrap(olds, news)
    return {"value": (sum(news) - sum(olds)) / len(both), "low": low, "high": high}


def _mean(ratings: list[float | None]) -> float | None:
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if known else None
