"""What rounding to the model's dtype erased of the patches: how much, and what can be done.

Only a delta other than 0 can be erased: many are exactly 0, for example the embeddings of tokens
that the training data does not hold. Stochastic rounding also leaves many entries at their old
bits, but moves the others by as much more: nothing is lost by it, and nothing needs a warning.
"""

from collections.abc import Collection, Mapping

from merge.io.patch_directory import LETTERS, Role
from merge.settings import MergeSettings, RoundingName, method_of

MOST = 0.5
"""A patch of which more is erased has lost most of what it says."""
PATCH_NAMES: dict[Role, str] = {"safety": "safety patch", "over_safety": "over-safety patch"}
"""For people."""
_SCALES: dict[Role, str] = {"safety": "alpha", "over_safety": "beta"}


def erased_share(report: Mapping[str, float], patch: str) -> float | None:
    """Which part of a patch's kept entries with a delta other than 0 rounding has erased.

    Args:
        report: counts of one tensor, or of several added up, as in merge.json.
        patch: "S" or "O".

    Returns:
        A fraction of 1, 0 where there are no such entries; None where the counts are absent, as in
        an older version's merge.json.
    """
    nonzero = report.get(f"nonzero_{patch}")
    if nonzero is None:
        return None
    return report[f"erased_count_{patch}"] / nonzero if nonzero else 0.0


def mostly_erased(summary: Mapping[str, float], rounding: RoundingName) -> dict[Role, float]:
    """The patches of which rounding erased most, each with its share as ``erased_share`` has it.

    Args:
        summary: the totals of a merge, as in merge.json.
        rounding: of that merge; by ``stochastic`` no patch is lost.
    """
    if rounding == "stochastic":
        return {}
    shares: dict[Role, float] = {
        role: erased_share(summary, patch) or 0.0 for role, patch in LETTERS.items()
    }
    return {role: share for role, share in shares.items() if share > MOST}


def erasure_warnings(
    summary: Mapping[str, float], settings: MergeSettings, dtypes: Collection[str]
) -> list[str]:
    """A line for each patch of which rounding erased most, with what helps.

    Args:
        dtypes: of the covered tensors, as safetensors writes them ("BF16").
    """
    coarse = sorted(set(dtypes) - {"F32"})
    method = method_of(settings)
    fixes = "train it further"
    if method.masked and not method.by_magnitude:
        fixes += ", select its large entries (score: magnitude)"
    if coarse:
        fixes = f"set rounding: stochastic, {fixes}"
        fixes += ", or train and merge on a copy of the backbone saved as float32"
    return [
        f"rounding to {' and '.join(coarse or ['F32'])} erased {100 * share:.1f} % of the nonzero "
        f"entries kept of the {PATCH_NAMES[role]}, which can do little: raise {_SCALES[role]}, "
        f"{fixes}"
        for role, share in mostly_erased(summary, settings.rounding).items()
    ]


def percent(share: float | None) -> str:
    """An erased share for people."""
    return "not counted" if share is None else f"{100 * share:.2f} %"
