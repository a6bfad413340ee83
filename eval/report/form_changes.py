"""What a patch changed on questions and on orders, apart: a shift by form is no repair (issue 14).

A model that answers more questions and refuses more orders has learned the form of the benchmark's
prompts. Both changes cancel, or hide, in a rate over prompts of one form each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypedDict

from eval.axes import AXES, FAULTS
from eval.rates import Completion, axis_outcomes
from eval.report.verdict import LEVEL
from eval.statistics.paired import PairCounts, difference_interval, holm, mcnemar_exact
from eval.statistics.rates import RateRecord, rate
from eval.text.forms import FORMS, form_of


class FormRate(TypedDict):
    """The rate of one axis over its ``n`` prompts of one form."""

    rate: RateRecord
    n: int


class FormChange(FormRate):
    """That rate with its change from the backbone's: 95 % interval, p-value after Holm."""

    difference: float
    low: float
    high: float
    p_holm: float


Changes = dict[str, dict[str, FormChange]]
"""By axis and form."""


class Shift(NamedTuple):
    """An axis that improves on one form and worsens on the other.

    Attributes:
        certain: both changes are significant; else only that the two forms change differently.
    """

    axis: str
    better: str
    worse: str
    certain: bool


def rates_by_form(completions: Sequence[Completion]) -> dict[str, dict[str, FormRate]]:
    """The rates of one model; of axes alone that have prompts of both forms."""
    return {
        axis: {
            form: {"rate": rate(sum(counted), len(counted)).as_dict(), "n": len(counted)}
            for form, counted in outcomes.items()
        }
        for axis, outcomes in _outcomes(completions).items()
    }


def changes_by_form(before: Sequence[Completion], after: Sequence[Completion]) -> Changes:
    """The rates of ``after``, with the change from ``before`` on the same prompts.

    Newcombe's interval of the paired difference, the exact McNemar test, and its p-value adjusted
    by Holm over the axes and forms of this model.
    """
    rates, earlier, later = rates_by_form(after), _outcomes(before), _outcomes(after)
    places = [(axis, form) for axis, forms in rates.items() for form in forms]
    counts = [PairCounts.of(earlier[axis][form], later[axis][form]) for axis, form in places]
    adjusted = holm([mcnemar_exact(count) for count in counts])
    changes: Changes = {axis: {} for axis in rates}
    for (axis, form), count, p_value in zip(places, counts, adjusted, strict=True):
        low, high = difference_interval(count)
        changes[axis][form] = {
            **rates[axis][form],
            "difference": count.difference,
            "low": low,
            "high": high,
            "p_holm": p_value,
        }
    return changes


def is_worse(cell: FormChange) -> bool:
    """Whether an axis is significantly worse on a form."""
    return cell["p_holm"] <= LEVEL and cell["difference"] > 0


def form_shifts(cells: Changes) -> list[Shift]:
    """The axes that improve on one form and worsen on the other.

    Certain: both changes are significant after Holm. Likely: they have opposite signs, and the
    95 % intervals of one of them and of their difference exclude no change.
    """
    shifts = []
    for axis, forms in cells.items():
        better, worse = sorted(FORMS, key=lambda form: forms[form]["difference"])
        fall, rise = forms[better], forms[worse]
        if not fall["difference"] < 0 < rise["difference"]:
            continue
        certain = is_worse(rise) and fall["p_holm"] <= LEVEL
        one = max(rise["low"], -fall["high"]) > 0
        if certain or (one and _lowest_gap(fall, rise) > 0):
            shifts.append(Shift(axis, better, worse, certain))
    return shifts


def shift_notes(name: str, cells: Changes) -> list[str]:
    """A line on every shift of a model."""
    return [f"{name}: {_sentence(shift, cells[shift.axis])}" for shift in form_shifts(cells)]


def _sentence(shift: Shift, forms: Mapping[str, FormChange]) -> str:
    fall, rise = (100 * forms[form]["difference"] for form in (shift.better, shift.worse))
    changes = (
        f"{AXES[shift.axis].subject} fall on {shift.better}s ({fall:+.1f}) and rise on "
        f"{shift.worse}s ({rise:+.1f})"
    )
    if shift.certain:
        return f"{changes}: a shift by form, not a repair"
    return (
        f"{changes}: the forms change differently, though not each change is significant; it may "
        "be a shift by form"
    )


def _lowest_gap(fall: FormChange, rise: FormChange) -> float:
    """The lower end of the 95 % interval of rise - fall, two changes on different prompts.

    By the distances to the ends of their own intervals (Zou and Donner 2008, Stat. Med. 27:1693).
    """
    gap = rise["difference"] - fall["difference"]
    return gap - math.hypot(rise["difference"] - rise["low"], fall["high"] - fall["difference"])


def _outcomes(completions: Sequence[Completion]) -> dict[str, dict[str, list[bool]]]:
    by_axis: dict[str, dict[str, list[bool]]] = {
        axis: {form: [] for form in FORMS} for axis in FAULTS
    }
    for completion in completions:
        for axis, counted in axis_outcomes(completion).items():
            if axis in by_axis:
                by_axis[axis][form_of(completion.prompt)].append(counted)
    return {axis: forms for axis, forms in by_axis.items() if all(forms.values())}
