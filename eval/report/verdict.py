"""One verdict over the axes: improved, not worse, worse, or undecided, against the backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from eval.axes import AXES
from eval.rates import Completion, axis_outcomes
from eval.settings import Margins
from eval.statistics.paired import PairCounts, difference_interval, holm, mcnemar_exact
from merge.common.settings import parse_settings
from merge.common.yaml_file import read_keys

AxisVerdict = Literal["improved", "no change", "not worse", "worse", "undecided"]


class Change(TypedDict):
    """A difference of two rates, after minus before, with its 95 % interval: fractions of 1."""

    difference: float
    low: float
    high: float


class AxisChange(Change):
    """What happened to one axis; ``judge_change`` says how each number is computed."""

    p: float
    p_holm: float
    margin: float
    verdict: AxisVerdict
    pairs: dict[str, int]


class SuiteChange(Change):
    """What happened to one suite."""

    p_holm: float


class Verdict(TypedDict):
    """One model against the backbone."""

    axes: dict[str, AxisChange]
    suites: dict[str, SuiteChange]
    overall: AxisVerdict


LEVEL = 0.05
"""The chance, over all axes together, of an alarm where nothing changed."""


def load_margins(path: Path) -> Margins:
    """Read margins from a YAML file of axes and fractions.

    Raises:
        UserError: the file is missing, not YAML, or names another axis.
    """
    values = read_keys(path, "margins", "axes and fractions, as 'utility: 0.02'")
    return parse_settings(Margins, values, str(path))


def judge_change(
    before: Sequence[Completion], after: Sequence[Completion], margins: Margins
) -> Verdict:
    """Every axis and the whole: tests on pairs of answers to the same prompts.

    Returns:
        "axes": per axis its difference (after minus before) with Newcombe's interval, the exact
        McNemar p-value, Holm's adjusted one over the axes, the verdict, and the pairs of answers
        behind it (see ``PairCounts``);
        "suites": per suite difference, interval, and p-value adjusted over the suites; "overall".
    """
    pairs = _paired_outcomes(before, after, lambda completion: axis_outcomes(completion).items())
    if not any(map(any, pairs.get("unfinished_rate", ()))):
        pairs.pop("unfinished_rate", None)  # an axis that says nothing would weigh in Holm's count
    counts = {axis: PairCounts.of(*outcomes) for axis, outcomes in pairs.items()}
    adjusted = _adjusted(counts)
    axes: dict[str, AxisChange] = {}
    for axis, count in counts.items():
        low, high = difference_interval(count)
        axes[axis] = {
            "difference": count.difference,
            "low": low,
            "high": high,
            "p": mcnemar_exact(count),
            "p_holm": adjusted[axis],
            "margin": margin_of(margins, axis),
            "verdict": axis_verdict(axis, count, adjusted[axis], margin_of(margins, axis)),
            "pairs": count._asdict(),
        }
    suites = _paired_outcomes(before, after, _suite_outcome)
    suite_counts = {name: PairCounts.of(*outcomes) for name, outcomes in suites.items()}
    suite_p = _adjusted(suite_counts)
    return {
        "axes": axes,
        "suites": {
            name: _suite_change(count, suite_p[name]) for name, count in suite_counts.items()
        },
        "overall": overall({axis: entry["verdict"] for axis, entry in axes.items()}),
    }


def _suite_change(count: PairCounts, p_holm: float) -> SuiteChange:
    low, high = difference_interval(count)
    return {"difference": count.difference, "low": low, "high": high, "p_holm": p_holm}


def margin_of(margins: Margins, axis: str) -> float:
    """How much worse an axis may get, as a fraction of 1."""
    return getattr(margins, AXES[axis].margin_of or axis)


def axis_verdict(axis: str, counts: PairCounts, p_adjusted: float, margin: float) -> AxisVerdict:
    """improved or worse: significant after Holm; not worse: the interval excludes the margin.

    No change: every case counts as before, and the interval excludes the margin. Of few cases it
    excludes nothing, and leaves them undecided even if none changed. A check on the other axes'
    answers, as for degenerate ones, asks no prompts of its own: it is enough that none changed. A
    significant loss that certainly stays within the margin is "not worse".
    """
    if not counts.discordant and AXES[axis].prompts is None:
        return "no change"
    low, high = difference_interval(counts)
    loss, worst = (
        (counts.difference, high) if AXES[axis].lower_is_better else (-counts.difference, -low)
    )
    if p_adjusted <= LEVEL and loss < 0:
        return "improved"
    if worst <= margin:
        return "not worse" if counts.discordant else "no change"
    return "worse" if p_adjusted <= LEVEL else "undecided"


def overall(verdicts: Mapping[str, AxisVerdict]) -> AxisVerdict:
    """worse if any axis is; improved if one is and every other is at least not worse."""
    given = set(verdicts.values())
    if given <= {"no change"}:
        return "no change"
    if "worse" in given:
        return "worse"
    if "undecided" in given:
        return "undecided"
    return "improved" if "improved" in given else "not worse"


def _paired_outcomes(
    before: Sequence[Completion], after: Sequence[Completion], outcomes: Any
) -> dict[str, tuple[list[bool], list[bool]]]:
    pairs: dict[str, tuple[list[bool], list[bool]]] = {}
    for side, completions in enumerate((before, after)):
        for completion in completions:
            for name, counted in outcomes(completion):
                pairs.setdefault(name, ([], []))[side].append(counted)
    return pairs


def _suite_outcome(completion: Completion) -> list[tuple[str, bool]]:
    """A suite's own axis is the first that its answers are cases of."""
    return [(completion.suite, next(iter(axis_outcomes(completion).values())))]


def _adjusted(counts: Mapping[str, PairCounts]) -> dict[str, float]:
    return dict(zip(counts, holm([mcnemar_exact(count) for count in counts.values()]), strict=True))
