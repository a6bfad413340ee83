"""The recipe's section ``ablate``."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from eval.settings import VariantName
from merge.common.settings import Settings, parse_settings
from train.recipe import DataSettings
from train.settings import SafetyTraining


class AblateSettings(Settings):
    """What ``launch ablate`` needs besides the run's own sections."""

    baselines: dict[VariantName, dict[str, Any]] = Field(
        default_factory=lambda: {
            "gradient_ascent": {"objective": "ascent"},
            "ascent_mismatch_kl": {"objective": "ascent_mismatch_kl"},
            "npo": {"objective": "npo"},
            "derta": {"objective": "derta", "guards": {"max_forget_loss": 1000}},
        }
    )
    """By name what is changed in the section ``safety``, key by key, to train a baseline, by one
    training. ``derta`` without a bound on the forget loss, which it raises as it converges; it
    needs a section ``refusals`` as well, and is left out without."""
    harmless: DataSettings | None = None
    """Questions with good answers, for baselines with ``ascent_mismatch_kl`` or ``derta``; by
    default the recipe's own. Without any, such a baseline is left out."""
    retention_seeds: Annotated[int, Field(ge=2)] = 5
    """Merges with the chosen settings that differ in the seed of the retention alone."""

    @field_validator("baselines")
    @classmethod
    def _are_trainings(cls, baselines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in baselines.items():
            parse_settings(SafetyTraining, changes, f"ablate.baselines.{name}")
        return baselines
