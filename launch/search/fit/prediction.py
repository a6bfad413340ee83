"""What two patches can do for a backbone, predicted from one linearisation (issue 14).

For the safety patch alone, the over-safety patch alone, both, and every set of entries: the rates
and the AUC that fitted scales of that part would give on questions that the fit has not seen. It
tells before any fit whether a repair is within reach; utility and language, which the fit must also
keep, are not asked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from eval.statistics.roc import Side, auc
from launch.search.fit.columns import Grouping, columns_of, sum_columns
from launch.search.fit.cross_validation import Candidate, Validated, validate
from launch.search.fit.objective import Linearised
from launch.search.margins.calibration import Calibration
from merge.common.files import atomic_write_json
from merge.engine.inputs import ROLES
from merge.io.block_names import block_of
from merge.io.patch_directory import Role
from merge.methods import MethodName
from merge.settings import SETS

PREDICTION_FILE = "prediction.json"
_FORMAT = 1
_TITLES: dict[tuple[Role, ...], str] = {
    ("safety",): "safety patch",
    ("over_safety",): "over-safety patch",
    ROLES: "both patches",
}


class PartRates(TypedDict):
    """Rates of the questions as fractions of 1, and how well margins tell harmful ones apart."""

    harmful_rate: float
    refusal_rate: float
    auc: float | None
    auc_matched: float | None
    """Among questions of the same form; None where no form has both kinds."""


class PartRecord(PartRates):
    """What one part of the patches can do."""

    part: str
    grouping: str
    scales: int


class MarginChange(TypedDict):
    """The change of the mean margin in nats per unit of scale."""

    harmful: float
    harmless: float


class LayerRecord(TypedDict):
    """What each patch changes in one decoder layer."""

    layer: int
    safety: MarginChange
    over_safety: MarginChange


class PredictionRecord(TypedDict):
    """The content of prediction.json; see ``merge inspect``."""

    format: int
    questions: dict[str, int]
    """How many there are, "harmful" and "harmless"."""
    before: PartRates
    parts: list[PartRecord]
    layers: list[LayerRecord]


@dataclass(frozen=True)
class Questions:
    """The questions whose margins were differentiated."""

    forms: np.ndarray
    """[questions], the form of each."""
    margins: np.ndarray
    """[questions], at the backbone, in nats."""
    harmful: np.ndarray
    """bool [questions]."""
    calibration: Calibration

    def rates(self, margins: np.ndarray) -> PartRates:
        """Rates and AUC of some margins of these questions."""
        harmful_rate, refusal_rate = self.calibration.rates(margins, self.harmful)
        harmful, harmless = (
            Side(margins[each], self.forms[each]) for each in (self.harmful, ~self.harmful)
        )
        return {
            "harmful_rate": harmful_rate,
            "refusal_rate": refusal_rate,
            "auc": auc(harmful, harmless),
            "auc_matched": auc(harmful, harmless, "matched"),
        }


def write_prediction(
    folder: Path,
    questions: Questions,
    names: Sequence[str],
    derivatives: np.ndarray,
    groupings: Sequence[Grouping],
) -> PredictionRecord:
    """Foretell what every part of the patches can do, and write it beside search.json.

    Args:
        names: of the covered tensors.
        derivatives: [questions, tensors, 2 patches, 3 sets], at the backbone.
        groupings: of the scales, from the fewest to the most.

    Returns:
        The file's content.
    """
    count = int(questions.harmful.sum())
    record: PredictionRecord = {
        "format": _FORMAT,
        "questions": {"harmful": count, "harmless": len(questions.harmful) - count},
        "before": questions.rates(questions.margins),
        "parts": [
            PartRecord(
                part=part,
                grouping=grouping,
                scales=len(fitted.candidate.columns),
                **questions.rates(fitted.margins),
            )
            for part, grouping, fitted in _parts(questions, names, derivatives, groupings)
        ],
        "layers": _layers(questions.harmful, names, derivatives),
    }
    atomic_write_json(folder / PREDICTION_FILE, record)
    return record


def _parts(
    questions: Questions,
    names: Sequence[str],
    derivatives: np.ndarray,
    groupings: Sequence[Grouping],
) -> Iterator[tuple[str, Grouping, Validated]]:
    """The parts by name, each with the held-out margins of its best fit."""
    for roles, title in _TITLES.items():
        for grouping in groupings:
            yield title, grouping, _best(questions, names, derivatives, grouping, "dense", roles)
    for number, part in enumerate(SETS):
        only = np.zeros_like(derivatives)
        only[..., number] = derivatives[..., number]
        fitted = _best(questions, names, only, "global", "dense", ROLES)
        yield f"both patches, the {part} sets", "global", fitted


def _best(
    questions: Questions,
    names: Sequence[str],
    derivatives: np.ndarray,
    grouping: Grouping,
    method: MethodName,
    roles: tuple[Role, ...],
) -> Validated:
    columns = columns_of(names, grouping, method, roles)
    summed = sum_columns(derivatives, names, columns, grouping, method)
    point = np.zeros(len(columns))
    problem = Linearised(point, questions.margins, summed, questions.harmful, questions.forms)
    nothing = np.zeros((len(columns), len(columns)))
    candidate = Candidate(grouping, tuple(columns), problem, nothing)
    return validate([candidate], questions.calibration)[0]


def _layers(
    harmful: np.ndarray, names: Sequence[str], derivatives: np.ndarray
) -> list[LayerRecord]:
    """By decoder layer the change of the mean margin by each patch, in nats per unit of scale."""
    blocks = [block_of(name) for name in names]
    layers = []
    for layer in sorted({block[1] for block in blocks if block is not None}):
        chosen = [block is not None and block[1] == layer for block in blocks]
        total = derivatives[:, chosen].sum(axis=(1, 3))
        safety, over_safety = (
            MarginChange(
                harmful=float(change[harmful].mean()), harmless=float(change[~harmful].mean())
            )
            for change in total.T
        )
        layers.append(LayerRecord(layer=layer, safety=safety, over_safety=over_safety))
    return layers
