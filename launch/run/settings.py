"""The recipe's section ``eval``."""

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from eval.settings import EvaluationSettings
from launch.shipped import ShippedFile, shipped


class EvalSettings(EvaluationSettings):
    """On which prompts the models are compared at the end, and how. Nothing is chosen on them.

    A search asks and judges in the same way, on prompts of its own.
    """

    suite: ShippedFile
    """The test prompts: a suite file, see ``docs/suites.md``."""
    single_patches: bool = True
    """Also evaluate the backbone with either patch alone, as the paper's table does."""

    @field_validator("harm_judge", "refusal_judge", "agreement")
    @classmethod
    def _may_be_shipped(
        cls, file: Literal["rules"] | Path | None
    ) -> Literal["rules"] | Path | None:
        return shipped(file) if isinstance(file, Path) else file
