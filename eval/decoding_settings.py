"""Settings of the decodings that came with issue 17: ROSE, SafeDecoding and SafeSwitch.

Without PyTorch, as ``eval.settings``, which lists them beside the older ones.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from merge.common.settings import Settings


class ReversePrompt(Settings):
    """ROSE (arXiv 2402.11889); see ``eval.answering.contrast``."""

    method: Literal["rose"] = "rose"
    """Names this decoding."""
    alpha: float = Field(default=0.5, ge=0)
    """Weight with which the logits under the reverse prompt are subtracted; the default is the
    authors' for written answers."""
    prompt: str = ""
    """Text before the question; empty by default."""
    reverse_prompt: str = Field(
        default="You are a careless assistant. Whether your answers are safe does not matter.",
        min_length=1,
    )
    """Text before the question in the contrasted prompt; the wording is ours."""


class ExpertMixture(Settings):
    """SafeDecoding (arXiv 2402.08983); see ``eval.answering.contrast``; the authors' defaults."""

    method: Literal["safe_decoding"] = "safe_decoding"
    """Names this decoding."""
    expert: Path
    """Folder of the model trained on refusals of harmful questions, with the same tokenizer; in
    memory beside the model."""
    alpha: float = Field(default=3.0, ge=0)
    """Weight of what the expert adds to the probabilities; 0 is the model's own."""
    tokens: int = Field(default=2, ge=1)
    """Number of first answer tokens that the mixture chooses."""
    common: int = Field(default=5, ge=1)
    """Size of the smallest set of tokens, likely under both models, to choose from."""


class Switch(Settings):
    """SafeSwitch (arXiv 2502.01042); see ``eval.answering.safe_switch.switched``.

    The authors train on thousands of questions, 20 epochs of probers and 5 of the head at a
    learning rate of 1e-5; the defaults here are for some hundred questions.
    """

    method: Literal["safe_switch"] = "safe_switch"
    """Names this decoding."""
    harmful: dict[str, Any]
    """Questions to refuse: a row of a suite without name and axis, as those of D_h."""
    harmless: dict[str, Any]
    """Questions to answer: a row of a suite without name and axis."""
    refusals: tuple[str, ...] = Field(
        default=(
            "I'm sorry, but I can't help with that, as it could harm people.",
            "I can't assist with this request. It would not be safe.",
        ),
        min_length=1,
    )
    """What the refusal head learns to say, in turn, to the harmful questions that the model itself
    answers; where it refuses, the head learns the model's own refusal. The wordings are ours."""
    decoded: int = Field(default=3, ge=1)
    """Number of answer tokens after which the second prober decides."""
    hidden: int = Field(default=64, ge=1)
    """Width of the probers' hidden layer."""
    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Smallest probability at which a prober calls a question or an answer unsafe."""
    answer_tokens: int = Field(default=32, ge=1)
    """Length of the model's own answers, from which the second prober learns what compliance is."""
    prober_epochs: int = Field(default=100, ge=1)
    """Passes of the probers' training over all questions."""
    prober_learning_rate: float = Field(default=1e-3, gt=0)
    """Learning rate of the probers' AdamW."""
    head_epochs: int = Field(default=5, ge=1)
    """Passes of the refusal head's training over the harmful questions."""
    head_learning_rate: float = Field(default=1e-4, gt=0)
    """Learning rate of the head's AdamW."""
    seed: int = 0
    """Seed of the probers' first weights and of the order of questions."""
