"""The recipe's section ``continual``."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from merge.common.settings import Settings

ContinualStageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]

_NO_GUARD = {"max_forget_loss": 1000, "margin_samples": 0}


class ContinualStageSettings(Settings):
    """One stage of continual alignment."""

    name: ContinualStageName
    """Name of the stage in the report, and of its folder in the run."""
    categories: tuple[str, ...] = Field(min_length=1)
    """Category patterns (shell-style) that select the pairs of D_h that this stage trains on, and
    the harm prompts that count as its own."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Other changes of this recipe for this stage, section by section; ``search: null`` removes a
    section."""


class ContinualSettings(Settings):
    """Patches one after another, for ``launch continual``."""

    stages: tuple[ContinualStageSettings, ...] = Field(min_length=1)
    """The stages in order; the patched model of one is the backbone of the next."""
    baselines: dict[ContinualStageName, dict[str, Any]] = Field(
        default_factory=lambda: {
            objective: {"safety": {"objective": objective, "guards": _NO_GUARD}}
            for objective in ("npo", "ascent")
        }
    )
    """Changes of the recipe by the baseline's name. A baseline consists of the safety training
    alone; each of its stages starts from its own model of the stage before. The default sets no
    effective bound on the forget loss, because a later stage may begin beyond a lower one, and no
    bound on the refusal margin, which a later stage may never raise."""

    @model_validator(mode="after")
    def _names_differ(self) -> "ContinualSettings":
        names = [stage.name for stage in self.stages]
        for name in names:
            if names.count(name) > 1 or name == "backbone":
                raise ValueError(f"a stage cannot be called '{name}' as well; rename it")
        if "safepatching" in self.baselines:
            raise ValueError("a baseline cannot be called 'safepatching'; rename it")
        return self
