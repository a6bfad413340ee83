"""What the stages of a run folder have taken, to plan what is to come with it (issue 15)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.search.opening_search import MARGINS
from launch.search.storage import seconds_of_trials
from merge.common.files import read_json
from train.recipe import ROLES


@dataclass(frozen=True)
class Rates:
    """What was measured in a run folder; ``None`` where nothing was."""

    training: float | None
    """Seconds a token, times the processes."""
    answering: float | None
    """Seconds an answer, of the run's evaluations."""
    trial: float | None
    """Seconds of a merge that is asked for answers."""
    margin_trial: float | None
    """Seconds of a merge that is asked for margins."""
    merge: float | None
    """Seconds of the merge."""

    def any(self) -> bool:
        """Whether anything was measured."""
        return any(value is not None for value in vars(self).values())


def read_rates(run: Path) -> Rates:
    """The rates of all stages of a run that are done."""
    by_answers, by_margins = [], []
    for kind, seconds in seconds_of_trials(run / "search").items():
        (by_margins if MARGINS in kind else by_answers).extend(seconds)
    return Rates(
        training=_training(run),
        answering=_answering(run.glob("eval/*/summary.json")),
        trial=_mean(by_answers),
        margin_trial=_mean(by_margins),
        merge=_value(run / "patched" / "merge.json", "seconds"),
    )


def _training(run: Path) -> float | None:
    """Over both patches, of which the second is deleted when it is merged."""
    records = [_read(run / role / "patch.json") for role in ROLES]
    tokens = [record.get("tokens") or 0 for record in records]
    work = [
        (record.get("training_seconds") or 0) * (record.get("processes") or 0) for record in records
    ]
    return sum(work) / sum(tokens) if sum(tokens) and sum(work) else None


def _answering(summaries: Iterable[Path]) -> float | None:
    costs = [_read(file).get("cost", {}) for file in summaries]
    seconds = sum(cost.get("seconds", 0) for cost in costs)
    answers = sum(cost.get("answers", 0) for cost in costs)
    return seconds / answers if seconds and answers else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _value(file: Path, key: str) -> float | None:
    value = _read(file).get(key)
    return value if isinstance(value, int | float) else None


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
