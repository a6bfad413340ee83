"""What a pair of patches is predicted to do, as a search's fit leaves it beside search.json.

The refusal margins of validation questions are linearised in the scales of the patches: rates and
AUC after the best scales of a part of the patches are predictions for questions held out from the
fit, without a merge and without an answer (issue 14, point 4).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt

from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.settings import Settings, parse_settings

FILE = Path("search") / "prediction.json"
"""In a run folder, beside its patches."""
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Change = Annotated[float, Field(allow_inf_nan=False)]


class _Record(Settings):
    """Keys that a later version adds are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Questions(_Record):
    """How many questions of either kind the prediction rests on."""

    harmful: NonNegativeInt
    harmless: NonNegativeInt


class Rates(_Record):
    """Fractions of the questions, and how well the refusal margin tells them apart."""

    harmful_rate: Fraction
    refusal_rate: Fraction
    auc: Fraction
    auc_matched: Fraction | None = None
    """Over questions whose harmful and harmless side have the same forms."""


class Part(Rates):
    """A part of the patches, scaled as fits best."""

    part: str
    grouping: Literal["global", "layers", "modules", "tensors"]
    scales: NonNegativeInt
    """How many were fitted."""


class LayerChange(_Record):
    """Changes of mean refusal margins, in nats per unit of a patch's scale."""

    harmful: Change
    harmless: Change


class Layer(_Record):
    """One decoder layer's entries of either patch alone."""

    layer: NonNegativeInt
    safety: LayerChange
    over_safety: LayerChange


class Prediction(_Record):
    """The content of prediction.json."""

    format: Literal[1]
    questions: Questions
    before: Rates
    """Rates of the backbone."""
    parts: tuple[Part, ...]
    layers: tuple[Layer, ...]


def read_prediction(path: Path) -> Prediction:
    """Read a prediction.json.

    Raises:
        UserError: the file is missing, or is no such record.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: there is no prediction; a search that fits scales writes {FILE} in its run "
            "folder"
        )
    return parse_settings(Prediction, read_json(path), str(path))


def find_prediction(safety: Path, over_safety: Path) -> Path | None:
    """The prediction of the run folder that both patch directories lie in, if it has one."""
    folder = safety.resolve().parent
    path = folder / FILE
    return path if over_safety.resolve().parent == folder and path.is_file() else None
