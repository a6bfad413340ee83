"""The whole recipe: the training floor's sections, and those of the folders of this floor."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import Field, field_validator, model_validator

from eval.settings import DEFAULTS, EvaluationSettings, VariantName
from launch.ablation.settings import AblateSettings
from launch.continual.settings import ContinualSettings
from launch.demo.settings import WorldSettings
from launch.prepare.settings import AlignmentSettings, HarvestSettings
from launch.run.settings import EvalSettings
from launch.search.settings import SearchMethod, SearchSettings
from launch.slurm.system.settings import ClusterSettings
from merge.common.settings import parse_settings
from merge.settings import MergeSettings
from train.recipe import TrainRecipe

_MODEL_NAMES = {"backbone", "safety", "over_safety", "safepatching", *get_args(SearchMethod)}
"""What the report's other models are called."""


class Recipe(TrainRecipe):
    """One run of the pipeline, from backbone to report."""

    merge: MergeSettings = MergeSettings()
    eval: EvalSettings | None = None
    search: SearchSettings | None = None
    ablations: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    """By name what is changed in the settings of the merge, all else kept, as in the paper's own
    ablation; each is evaluated beside the patched model."""
    harvest: HarvestSettings | None = None
    continual: ContinualSettings | None = None
    """Only for ``launch continual``."""
    ablate: AblateSettings | None = None
    """Only for ``launch ablate``; None takes the defaults."""
    world: WorldSettings | None = None
    alignment: AlignmentSettings | None = None
    """Makes ``${output}/alignment/backbone``, the ``backbone.path`` of such a recipe."""
    cluster: ClusterSettings | None = None
    """Only for ``launch submit``."""

    @property
    def evaluation(self) -> EvaluationSettings:
        """How the run asks its models, and who judges: the section ``eval``, or its defaults.

        Where that does not say how prompts are written, ``backbone`` does.
        """
        settings, chat = self.eval or DEFAULTS, self.backbone.chat
        reasoning = chat.reasoning if settings.reasoning is None else settings.reasoning
        return settings.model_copy(
            update={"reasoning": reasoning, "date": settings.date or chat.date}
        )

    def ablate_settings(self) -> AblateSettings:
        """The section ``ablate``, with the recipe's own harmless pairs where it names none."""
        settings = self.ablate or AblateSettings()
        return settings.model_copy(update={"harmless": settings.harmless or self.harmless})

    @field_validator("ablations")
    @classmethod
    def _are_settings(cls, ablations: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in ablations.items():
            if name in _MODEL_NAMES:
                raise ValueError(f"'{name}' is another model of the report; choose another name")
            parse_settings(MergeSettings, changes, f"ablations.{name}")
        return ablations

    @model_validator(mode="after")
    def _first_training_holds(self) -> "Recipe":
        if self.harvest is not None:
            self.harvest.first_training(self.over_safety)
        return self

    @model_validator(mode="after")
    def _scales_are_drawn_or_given(self) -> "Recipe":
        if self.search is not None and self.search.layer_groups > 1 and self.merge.scales:
            raise ValueError(
                "merge.scales would be replaced by what search.layer_groups draws; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _one_engine_searches(self) -> "Recipe":
        workers = self.search.workers if self.search is not None else 1
        is_array = self.cluster is not None and self.cluster.search_array
        if workers > 1 and self.evaluation.backend == "vllm" and not is_array:
            raise ValueError(
                "search.workers: one engine of vLLM answers on all visible GPUs; set it to 1, "
                "cluster.search_array to true, or eval.backend to hf"
            )
        return self

    @model_validator(mode="after")
    def _baselines_have_names_of_their_own(self) -> "Recipe":
        names = self.ablate_settings().baselines if self.eval and self.eval.baselines else {}
        decodings = self.eval.decodings if self.eval else {}
        taken = sorted(names.keys() & {*_MODEL_NAMES, *self.ablations, *decodings})
        if taken:
            raise ValueError(
                f"ablate.baselines: '{taken[0]}' is another model of the report; rename it"
            )
        return self

    @model_validator(mode="after")
    def _decodings_have_names_of_their_own(self) -> "Recipe":
        names = self.eval.decodings if self.eval else {}
        taken = sorted(names.keys() & {*_MODEL_NAMES, *self.ablations})
        if taken:
            raise ValueError(
                f"eval.decodings: '{taken[0]}' is another model of the report; rename it"
            )
        return self


def changed_values(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes in their place: sections key by key, anything else whole.

    A change to ``None`` takes a key away, so that its default holds.
    """
    result = dict(values)
    for key, change in changes.items():
        before = result.get(key)
        if change is None:
            result.pop(key, None)
        elif isinstance(before, dict) and isinstance(change, dict):
            result[key] = changed_values(before, change)
        else:
            result[key] = change
    return result
