"""The whole recipe: the training floor's sections, and those of evaluation, search and world."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from eval.settings import Dtype, Margins, parse_decoding
from launch.shipped import ShippedFile
from launch.slurm.settings import ClusterSettings
from merge.common.settings import Settings, added, parse_settings
from merge.settings import MergeSettings, ScoreName
from train.recipe import BackboneSettings, DataSettings, TrainRecipe
from train.settings import OverSafetyTraining, SafetyTraining

Rate = Annotated[float, Field(gt=0, le=1)]
SearchMethod = Literal[
    "difference", "intersection", "by_set", "dense", "task_arithmetic", "dare", "ties", "linear"
]
AblationName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
StageLabel = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]

_MODEL_NAMES = {"backbone", "safety", "over_safety", "safepatching", *get_args(SearchMethod)}
"""What the report's other models are called."""


class WorldSettings(Settings):
    """The size of the demo's world, and how its backbone is made."""

    nouns: PositiveInt = 30
    """Forbidden nouns, and as many harmless ones."""
    verbs: PositiveInt = 8
    """Neutral verbs, and as many alarming ones."""
    vocabulary_size: PositiveInt = 640
    """Tokens that its tokenizer may learn."""
    hidden_size: PositiveInt = 128
    """Width of the backbone; its MLPs are three times as wide."""
    layers: PositiveInt = 4
    """Decoder blocks of the backbone."""
    steps: PositiveInt = 400
    """Optimizer steps of the backbone's training."""
    batch_size: PositiveInt = 64
    """Samples in one of those steps."""
    learning_rate: PositiveFloat = 2e-3
    """Highest learning rate of that training, reached after a tenth of its steps."""
    harmful_pairs: PositiveInt = 400
    """Question-answer pairs in D_h."""
    prompts: PositiveInt = 120
    """Prompts of each suite in the validation part. The test part has twice as many, and so many
    utility questions that a loss of two points can be told from none."""


class AlignmentSettings(Settings):
    """A short supervised run that makes an over-cautious backbone of another model, for studies:
    it learns to refuse some harmful questions, and to answer harmless ones as it did before."""

    model: BackboneSettings
    """The chat model that is trained."""
    refused: dict[str, Any]
    """Questions to refuse: a row of an evaluation suite without name and axis."""
    answered: dict[str, Any]
    """Harmless questions, such another row; the model's own answers are kept."""
    learning_rate: PositiveFloat = 2e-5
    """Learning rate of the training."""
    steps: PositiveInt = 60
    """Optimizer steps."""
    batch_size: PositiveInt = 8
    """Questions in one step; half of them harmful."""
    max_length: PositiveInt = 256
    """Tokens of question and answer together; the end of a longer answer is cut."""


class EvalSettings(Settings):
    """On which prompts the models are compared at the end. Nothing is chosen on them."""

    suite: ShippedFile
    """The test prompts: a suite file, see ``docs/suites.md``."""
    data_dir: Path | None = None
    """Stands for ``${DATA}`` in suite files."""
    dtype: Dtype = "auto"
    """Data type in which the models answer; ``auto`` is that of the weights."""
    batch_tokens: PositiveInt = 16384
    """Rows times tokens of a batch of answers; smaller needs less memory."""
    margins: Margins = Margins()
    """How much worse an axis may get and still count as not worse."""
    single_patches: bool = True
    """Also evaluate the backbone with either patch alone, as the paper's table does."""
    decodings: dict[AblationName, dict[str, Any]] = Field(default_factory=dict)
    """By name a decoding (as ``eval run --decoding`` reads it) that the backbone answers with, for
    comparison: the baselines that need no training."""

    @field_validator("decodings")
    @classmethod
    def _are_decodings(cls, decodings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, values in decodings.items():
            parse_decoding(values, f"eval.decodings.{name}")
        return decodings


class SearchSettings(Settings):
    """A search over merge settings on the validation part."""

    suite: ShippedFile
    """The validation prompts; no prompt of the evaluation's suite may be among them."""
    methods: tuple[SearchMethod, ...] = ("difference",)
    """Each is searched with the same budget; the first one makes the patched model."""
    trials: PositiveInt = 40
    """Merges tried per method."""
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    """Fraction of the trials that is drawn at random before TPE takes over."""
    workers: PositiveInt = 1
    """Processes that share the trials, each with all inputs in memory; dealt to the GPUs in turn.
    Several do not repeat a search bit for bit, as one does."""
    screen: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of each set's prompts that a trial is asked first; where they show it to be clearly
    worse than an earlier one, it ends there. 0 asks all at once."""
    top_rates: tuple[Rate, Rate] = (0.02, 1.0)
    """Smallest and largest top rate of either patch, drawn on a logarithmic scale."""
    scores: Annotated[tuple[ScoreName, ...], Field(min_length=1)] = ("weight", "delta")
    """Which a method with masks may rank by."""
    retentions: tuple[Rate, Rate] = (0.3, 1.0)
    """Smallest and largest retention, drawn evenly."""
    patch_weights: tuple[PositiveFloat, PositiveFloat] = (0.3, 6.0)
    """Smallest and largest alpha and beta, drawn on a logarithmic scale."""
    layer_groups: PositiveInt = 1
    """In how many groups of neighbouring layers alpha and beta are multiplied by factors of their
    own; with 1 all layers are alike."""
    layer_factors: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Smallest and largest such factor, drawn on a logarithmic scale."""
    utility_margin: NonNegativeFloat = 0.02
    """A setting counts only if utility falls by no more than this (fraction of 1)."""
    degenerate_margin: NonNegativeFloat = 0.01
    """And if the degenerate rate rises by no more than this (fraction of 1)."""
    by: Literal["answers", "margins"] = added("answers")
    """What a trial asks for. ``answers`` are generated and judged. ``margins`` are forward passes
    alone, 20 to 50 times cheaper on a GPU: how near the model is to refusing each prompt; where
    that tells the backbone's own refusals badly, the search asks for answers after all."""
    answered: PositiveInt = added(6)
    """By margins: how many of the best merges of a method are asked for answers, by whose rates
    one is chosen."""
    max_divergence: PositiveFloat = added(0.1)
    """By margins: a merge counts only if it diverges from the backbone on harmless answers by no
    more than this (KL in nats per token)."""
    fit: Literal["none", "global", "layers", "modules", "tensors"] = added("none")
    """By margins: whether scales are fitted as well, to the margins' derivatives, and how finely
    at most; cross-validation chooses among this and all coarser ones. ``modules`` are the parts
    of a layer, its attention and its MLP. For the methods whose merge is linear in its scales:
    difference, intersection, dense, by_set."""
    fit_prompts: PositiveInt = added(256)
    """How many validation prompts are differentiated, evenly spaced; a backward pass each."""
    fit_starts: PositiveInt = added(1)
    """From how many merges the fit starts, the best trials: each has other masks."""
    fit_rounds: PositiveInt = added(3)
    """Linearisations: at the backbone, then where the last step led."""

    @model_validator(mode="after")
    def _margins_fit(self) -> "SearchSettings":
        if self.by == "answers" and self.fit != "none":
            raise ValueError(
                "fit needs the margins' derivatives: set by to margins, or fit to none"
            )
        if self.by == "margins" and self.workers > 1:
            raise ValueError("a search by margins is one process: set workers to 1")
        return self


class HarvestSettings(Settings):
    """Questions from which ``launch harvest`` makes data, of the model's own answers."""

    questions: dict[str, Any] | None = None
    """Harmful ones, for D_h: a row of an evaluation suite without name and axis."""
    harmless: tuple[dict[str, Any], ...] | None = Field(default=None, min_length=1)
    """Harmless ones, one such row or several, apart from validation and test: those that the
    backbone refuses become ``harvest/false_refusals.jsonl``, answered by the over-safety model."""
    over_safety: dict[str, Any] = added({})
    """What is changed in the section ``over_safety`` to train that model, on D_h."""
    harm_judge: ShippedFile | None = None
    """A harm judge's settings file, as ``eval run --harm-judge`` takes; without one every answer
    counts that is neither refused nor degenerate."""

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


class AblateSettings(Settings):
    """What ``launch ablate`` needs besides the run's own sections."""

    baselines: dict[AblationName, dict[str, Any]] = Field(
        default_factory=lambda: {
            "gradient_ascent": {"objective": "ascent"},
            "ascent_mismatch_kl": {"objective": "ascent_mismatch_kl"},
            "npo": {"objective": "npo"},
        }
    )
    """By name what is changed in the section ``safety`` to train a baseline, by one training."""
    harmless: DataSettings | None = None
    """Questions with good answers, for baselines with ``ascent_mismatch_kl``; by default the
    recipe's own. Without any, such a baseline is left out."""
    retention_seeds: Annotated[int, Field(ge=2)] = 5
    """Merges with the chosen settings that differ in the seed of the retention alone."""

    @field_validator("baselines")
    @classmethod
    def _are_trainings(cls, baselines: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, changes in baselines.items():
            parse_settings(SafetyTraining, changes, f"ablate.baselines.{name}")
        return baselines


class Recipe(TrainRecipe):
    """One run of the pipeline, from backbone to report."""

    merge: MergeSettings = MergeSettings()
    eval: EvalSettings | None = None
    search: SearchSettings | None = None
    ablations: dict[AblationName, dict[str, Any]] = Field(default_factory=dict)
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
    def _decodings_have_names_of_their_own(self) -> "Recipe":
        names = self.eval.decodings if self.eval else {}
        taken = sorted(names.keys() & {*_MODEL_NAMES, *self.ablations})
        if taken:
            raise ValueError(
                f"eval.decodings: '{taken[0]}' is another model of the report; rename it"
            )
        return self
