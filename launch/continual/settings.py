"""The recipe's section ``continual``."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from merge.common.settings import Settings

StageLabel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class StageSettings(Settings):
    """One stage of continual alignment."""

    name: StageLabel
    """Its name in the report and its folder in the run."""
    categories: tuple[str, ...] = Field(min_length=1)
    """Its harm (shell-style patterns): of the pairs in D_h that it trains on, and of the harm
    prompts that count as its own."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """What else it changes in this recipe, section by section; ``search: null`` takes one away."""


class ContinualSettings(Settings):
    """Patches one after another, for ``launch continual``."""

    stages: tuple[StageSettings, ...] = Field(min_length=1)
    """In order; the patched model of one is the backbone of the next."""
    baselines: dict[StageLabel, dict[str, Any]] = Field(
        default_factory=lambda: {
            objective: {"safety": {"objective": objective, "guards": {"max_forget_loss": 1000}}}
            for objective in ("npo", "ascent")
        }
    )
    """By name what is changed in the recipe to train a baseline by the safety training alone, each
    stage on top of the baseline's own model of the stage before. Without a bound on the forget
    loss: a later stage may begin beyond it."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ContinualSettings":
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1 or name == "backbone":
                raise ValueError(f"a stage cannot be called '{name}' as well; rename it")
        if "safepatching" in self.baselines:
            raise ValueError("a baseline cannot be called 'safepatching'; rename it")
        return self
