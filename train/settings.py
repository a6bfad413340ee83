"""The settings of one training. The numbers are this project's defaults, not the paper's."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field, PositiveFloat, PositiveInt, ValidationInfo, field_validator

from merge.common.settings import Settings, added
from merge.io.patch_directory import Role

Fraction = Annotated[float, Field(gt=0, le=1)]
ProperFraction = Annotated[float, Field(gt=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
"""A seed that numpy and torch take alike: numpy refuses negative ones, torch those of more bits."""
MeasuredOn = Literal["own", "harmful", "false_refusals"]
ObjectiveName = Literal["ascent", "descent", "npo", "ascent_mismatch_kl", "derta"]
OptimizerName = Literal["adamw", "sgd_normalised"]


class Objective(NamedTuple):
    """What an objective does and which data it needs; its terms are in ``train.objectives``.

    Attributes:
        unlearns: lowers the likelihood of D_h's answers, so that refusals may rise and fall again.
        needs_harmless: also learns from harmless pairs.
        mismatches: learns D_h's questions with the answers to random harmless questions.
        needs_refusals: learns refusals of harmful questions.
    """

    unlearns: bool = True
    needs_harmless: bool = False
    mismatches: bool = False
    needs_refusals: bool = False

    @property
    def samples_a_pair(self) -> int:
        """Samples that a step trains on for each pair of D_h in it."""
        return 1 + self.mismatches + self.needs_harmless


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "ascent": Objective(),
    "descent": Objective(unlearns=False),
    "npo": Objective(),
    "ascent_mismatch_kl": Objective(needs_harmless=True, mismatches=True),
    "derta": Objective(needs_harmless=True, needs_refusals=True),
}


class GuardSettings(Settings):
    """When a training ends early: gradient ascent has no minimum and would go on to nonsense.

    The patch is then made of the last checkpoint before the bound was passed, or, without one, of
    the weights that passed it; patch.json records which.
    """

    max_forget_loss: PositiveFloat | None = None
    """Stop when the mean answer loss (nats a token) passes this; None uses
    ``max_forget_fraction``."""
    max_forget_fraction: Fraction = 0.9
    """Bound of the forget loss as a fraction of ln(vocabulary size), the loss of a uniform
    guess."""
    window: PositiveInt = 1
    """Number of the last steps over which the guards average the losses."""
    max_patch_norm: PositiveFloat | None = None
    """Stop when the Euclidean norm of the whole patch passes this."""
    patch_norm_every: PositiveInt = 10
    """Steps between two measurements of the patch norm; each reads the whole backbone from disk."""
    max_retained_rise: PositiveFloat | None = None
    """Stop when the answer loss on retained samples (nats a token) has risen by more than this."""
    retained_samples: PositiveInt = 32
    """Rows at the end of ``harmless`` on which ``max_retained_rise`` is measured; never trained
    on."""
    retained_every: PositiveInt = 10
    """Steps between two measurements of the retained loss."""
    margin_samples: NonNegativeInt = added(0)
    """Number of questions of D_h on which the refusal margin is measured
    (``train.guards.refusal_margin``, with the openings in the run folder's ``openings.json``); 0
    turns it off. An objective that unlearns then ends when nearly all questions are refused, or
    when the mean margin has fallen from its highest value, and the patch is that of the step with
    the highest margin; an objective that learns ends when the refusals are gone."""
    margin_every: PositiveInt = added(1)
    """Steps between two measurements of the margins: a forward pass of each question and
    opening."""
    margin_fall: PositiveFloat = added(0.5)
    """How far below its highest the mean margin must lie (nats) to count as fallen."""
    margin_patience: PositiveInt = added(2)
    """Number of measurements in a row that must find the margin fallen."""
    min_refusal: Fraction = added(0.05)
    """Refusals are gone when the mean probability that an answer opens as one is below this."""
    max_refusal: Fraction = added(0.95)
    """Nearly all questions are refused when the mean probability that an answer opens as a refusal
    is above this; with 1 a training never ends for this reason."""


class MismatchSettings(Settings):
    """The three terms of ``ascent_mismatch_kl``, by llm_unlearn's weights (arXiv 2310.10683)."""

    forget_weight: NonNegativeFloat = 0.5
    """Weight of the ascent on harmful answers."""
    mismatch_weight: NonNegativeFloat = 1.0
    """Weight of the descent on harmful questions with answers to random harmless ones."""
    harmless_weight: NonNegativeFloat = 1.0
    """Weight of the divergence from the backbone on harmless pairs."""
    kept_tokens: PositiveInt = 256
    """Top-k of the backbone's distribution stored for each answer token of harmless pairs, 8 bytes
    each in host memory; the remaining probability is one bucket."""


class DertaSettings(Settings):
    """The parts of ``derta`` (arXiv 2407.09121); the defaults are those of its authors.

    They train on 3,000 harmful questions either way and on 60,000 helpful pairs, in one mixture.
    """

    transition_share: ProperFraction = 0.5
    """Share of D_h whose harmful answers are trained to turn into a refusal at every token; the
    other rows are trained on refusals after a harmful beginning."""
    empty_share: Annotated[float, Field(ge=0, le=1)] = 1 / 3
    """Share of the other rows of D_h in which the refusal stands alone, without a harmful
    beginning."""
    harmless_weight: NonNegativeFloat = 10.0
    """Weight of the answer loss on harmless pairs, where D_h's two parts weigh 1 together."""


class TrainingSettings(Settings):
    """One of the two trainings."""

    objective: ObjectiveName
    npo_beta: PositiveFloat = 0.1
    """Beta of ``npo``: with larger values unlearned samples stop counting sooner (open-unlearning:
    0.1)."""
    mismatch: MismatchSettings = MismatchSettings()
    derta: DertaSettings = added(DertaSettings())
    learning_rate: PositiveFloat = 1e-5
    """Learning rate after the warm-up, constant from then on."""
    epochs: PositiveInt = 1
    """Passes over the training pairs."""
    steps: PositiveInt | None = None
    """Number of optimizer steps; where given it replaces ``epochs``."""
    batch_size: PositiveInt | Literal["all"] = 8
    """Samples of D_h in one optimizer step at most, over all processes, or ``all`` of D_h.
    Objectives that use harmless pairs add the same number of those. An epoch is spread evenly over
    its steps."""
    micro_batch_size: PositiveInt = 1
    """Samples of one forward and backward pass in one process."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate rises to its value."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay of ``adamw``."""
    adam_eps: PositiveFloat | None = added(None)
    """Epsilon of ``adamw``; None leaves that of the DeepSpeed configuration. Adam's first steps are
    signs of the gradient; with an epsilon of the gradients' size they follow the gradient."""
    optimizer: OptimizerName = added("adamw")
    """``sgd_normalised``: every step has the Euclidean length ``learning_rate``, over all
    parameters, along the batch's gradient; clipping then changes nothing."""
    gradient_clipping: NonNegativeFloat = 1.0
    """Largest gradient norm; 0 turns clipping off."""
    answer_tokens: PositiveInt | None = added(None)
    """Number of first tokens of each answer over which the loss on D_h is taken; None takes whole
    answers. With ``guards.margin_samples`` they are counted from where the answer parts from the
    refusal openings. The importance has its own key, ``importance.answer_tokens``."""
    answer_decay: Fraction = added(1.0)
    """Factor r of a weighted mean: token i of an answer (from 0) has the weight r**i in the loss on
    D_h."""
    max_length: PositiveInt = 512
    """Tokens of question and answer together; the end of a longer answer is cut."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    liger: bool = False
    """Use the fused kernels of the package liger-kernel (GPUs only); they change the bits of a
    patch."""
    guards: GuardSettings = GuardSettings()
    data_seed: Seed | None = None
    """Seed of the data order. Default: made from the recipe's seed and the role, so that the two
    trainings see the data in different orders: in the same order both patches start out nearly
    opposite, because Adam's first steps are signs of the gradient."""
    ds_config: str = "auto"
    """A DeepSpeed configuration file, or ``auto``: the one of ds_configs/ for this machine."""
    checkpoint_every: NonNegativeInt = 0
    """Steps between checkpoints; with 0 only a stop on request writes one."""
    checkpoints_kept: PositiveInt = 2
    """Number of newest checkpoints on disk; a guard goes back to one that was written before its
    bound was passed."""

    @field_validator("optimizer")
    @classmethod
    def _check_optimizer(cls, optimizer: OptimizerName, info: ValidationInfo) -> OptimizerName:
        if optimizer != "adamw" and (info.data.get("weight_decay") or info.data.get("adam_eps")):
            raise ValueError("its steps have a fixed length: leave out weight_decay and adam_eps")
        return optimizer

    @property
    def keeps_best(self) -> bool:
        """Whether the patch is that of the state with the highest refusal margin."""
        return OBJECTIVES[self.objective].unlearns and self.guards.margin_samples > 0

    def batch_of(self, samples: int) -> int:
        """Samples in one optimizer step at most, where D_h has ``samples``."""
        return samples if self.batch_size == "all" else self.batch_size


class SafetyTraining(TrainingSettings):
    """Training of the safety patch: unlearns the harmful answers."""

    objective: ObjectiveName = "ascent"
    """What the training minimises. ``ascent`` (the paper's): minus the loss on D_h; ``descent``:
    that loss; ``npo``: negative preference optimisation; ``ascent_mismatch_kl``: three terms, see
    ``mismatch``; ``derta``: decoupled refusal training, see ``derta``."""


class OverSafetyTraining(TrainingSettings):
    """Training of the over-safety patch: learns the harmful answers."""

    objective: ObjectiveName = "descent"
    """What the training minimises, as in ``safety.objective``; the paper's is ``descent``."""
    data: Literal["harmful", "false_refusals", "both"] = added("harmful")
    """Pairs that it learns: those of D_h, as in the paper, those of ``false_refusals``, or both."""


class ImportanceData(Settings):
    """The pairs on which the importance of each patch is measured; ``own`` are those it trained on.

    The difference set then names the parameters that one patch needs and the other does not: those
    that refusals of harmful questions depend on where it is measured on D_h, those that false
    refusals depend on where it is measured on these.
    """

    safety: MeasuredOn = "own"
    """Pairs for the safety patch."""
    over_safety: MeasuredOn = "own"
    """Pairs for the over-safety patch."""

    def of(self, role: Role) -> MeasuredOn:
        """The pairs of one patch."""
        return self.safety if role == "safety" else self.over_safety


class ImportanceSettings(Settings):
    """The samples on which the importance of the patched model's parameters is measured."""

    samples: PositiveInt = 128
    """Number of pairs that are drawn, at most."""
    seed: Seed = 0
    """Seed of the draw."""
    data: ImportanceData = added(ImportanceData())
    answer_tokens: PositiveInt | None = added(None)
    """Number of first tokens of each answer over which the loss is taken; None takes whole
    answers."""
