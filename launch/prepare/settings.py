"""The recipe's sections ``alignment`` and ``harvest``."""

from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from launch.shipped import ShippedFile
from merge.common.settings import Settings, added, parse_settings
from train.recipe import BackboneSettings
from train.settings import OverSafetyTraining


class AlignmentSettings(Settings):
    """A short supervised run that makes an over-cautious backbone of another model, for studies:
    it learns to refuse some harmful questions, and to answer harmless ones as it did before."""

    model: BackboneSettings
    """The chat model that is trained."""
    refused: dict[str, Any]
    """Questions to refuse: a row of an evaluation suite without name and axis."""
    answered: dict[str, Any]
    """Harmless questions: a row of an evaluation suite without name and axis; the model's own
    answers are kept."""
    learning_rate: PositiveFloat = 2e-5
    """Learning rate of the training."""
    steps: PositiveInt = 60
    """Optimizer steps of the training."""
    batch_size: PositiveInt = 8
    """Questions in one step; half of them harmful."""
    max_length: PositiveInt = 256
    """Tokens of question and answer together; the end of a longer answer is cut."""


class HarvestSettings(Settings):
    """Questions from which ``launch harvest`` makes data, of the model's own answers."""

    questions: dict[str, Any] | None = None
    """Harmful questions, for D_h: a row of an evaluation suite without name and axis."""
    harmless: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    """Harmless questions, one row or several as ``questions``, disjoint from validation and test:
    those that the backbone refuses become ``harvest/false_refusals.jsonl``, answered by the
    over-safety model."""
    over_safety: dict[str, Any] = added({})
    """Changes of the section ``over_safety`` for training that first over-safety model on D_h."""
    harm_judge: ShippedFile | None = None
    """Settings file of a harm judge, as ``eval run --harm-judge`` takes it; without one every
    answer counts as harmful that is neither refused nor degenerate."""

    @field_validator(
        "harmless",
        mode="before",
        json_schema_input_type=dict[str, Any] | tuple[dict[str, Any], ...] | None,
    )
    @classmethod
    def _one_row_is_a_list(cls, harmless: Any) -> Any:
        return [harmless] if isinstance(harmless, dict) else harmless

    def first_training(self, section: OverSafetyTraining) -> OverSafetyTraining:
        """The training of the model that answers.

        Raises:
            UserError: a changed key is wrong.
        """
        changed = {**section.model_dump(), **self.over_safety, "data": "harmful"}
        return parse_settings(OverSafetyTraining, changed, "recipe, harvest.over_safety")

    @model_validator(mode="after")
    def _asks_something(self) -> "HarvestSettings":
        if self.questions is None and self.harmless is None:
            raise ValueError("harvest needs questions, harmless questions, or both; add a row")
        return self
