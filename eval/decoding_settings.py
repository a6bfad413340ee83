"""The settings of the six decodings that a patch is compared with; all leave the weights alone.

Without PyTorch, as ``eval.settings``, so that a recipe is checked at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from merge.common.errors import UserError
from merge.common.settings import Settings, parse_settings
from merge.common.yaml_file import read_keys
from train.data.tables import is_file


class SelfContrast(Settings):
    """Self-CD (arXiv 2401.17633); see ``eval.answering.contrast``."""

    method: Literal["self_cd"] = "self_cd"
    """Names this decoding."""
    ratio: float = Field(default=2.5, ge=0)
    """Self-CD's ratio; 1 is plain decoding, 0 decodes under the safety prompt alone. The default is
    the authors'."""
    safety_prompt: str = Field(
        default=(
            "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
            "possible, while being safe. Your answers should not include any harmful, unethical, "
            "racist, sexist, toxic, dangerous, or illegal content."
        ),
        min_length=1,
    )
    """Text before the question in the contrasted prompt; the default is the authors', a part of
    LLaMA-2-Chat's system prompt."""


class Debias(Settings):
    """TSDI (arXiv 2502.02153); see ``eval.answering.decoding``. The defaults are ours."""

    method: Literal["tsdi"] = "tsdi"
    """Names this decoding."""
    reference: Path
    """Folder of the model as it was before its safety alignment; in memory beside the model while
    the bias is measured."""
    tokens: int = Field(default=8, ge=1)
    """Number of first answer tokens whose logits the bias is subtracted from."""
    prompts: int = Field(default=64, ge=1)
    """Number of random prompts over which the bias is averaged."""
    prompt_tokens: int = Field(default=24, ge=1)
    """Length of each of those prompts in tokens."""
    seed: int = 0
    """Seed of those prompts."""


class Steering(Settings):
    """SCANS (arXiv 2408.11491); see ``eval.answering.steering``; the authors' defaults for 7B."""

    method: Literal["scans"] = "scans"
    """Names this decoding."""
    harmful: dict[str, Any]
    """Questions to refuse: a row of a suite without name and axis."""
    harmless: dict[str, Any]
    """Questions to answer: a row of a suite without name and axis."""
    multiplier: float = Field(default=3.5, ge=0)
    """Length of the vector that is added to the hidden states."""
    layers: tuple[float, float] = (0.3125, 0.625)
    """Which blocks are steered, as shares of the depth: 10 to 19 of 32."""
    threshold: float = Field(default=0.75, ge=-1, le=1)
    """Smallest cosine at which a question counts as harmful."""


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


DecodingSettings = SelfContrast | Debias | Steering | ReversePrompt | ExpertMixture | Switch

_DECODINGS: dict[str, type[DecodingSettings]] = {
    "self_cd": SelfContrast,
    "tsdi": Debias,
    "scans": Steering,
    "rose": ReversePrompt,
    "safe_decoding": ExpertMixture,
    "safe_switch": Switch,
}


def parse_decoding(values: Mapping[str, Any], source: str) -> DecodingSettings:
    """Check the settings of a decoding, whose kind the key ``method`` says.

    Raises:
        UserError: the method is missing or unknown, or a key is wrong; ``source`` is named.
    """
    method = _DECODINGS.get(str(values.get("method")))
    if method is None:
        raise UserError(f"{source}: needs method: {' or '.join(_DECODINGS)}")
    return parse_settings(method, values, source)


def load_decoding(path: Path) -> DecodingSettings:
    """Read a decoding's YAML file; relative paths in it start at the file's own folder.

    Raises:
        UserError: the file is missing, not YAML, or has a wrong key.
    """
    values = read_keys(path, "decoding", "keys, as 'method: self_cd'")
    settings = parse_decoding(values, f"decoding {path}")
    if isinstance(settings, Debias):
        return settings.model_copy(
            update={"reference": path.parent / settings.reference.expanduser()}
        )
    if isinstance(settings, ExpertMixture):
        return settings.model_copy(update={"expert": path.parent / settings.expert.expanduser()})
    if isinstance(settings, Steering | Switch):
        rows = {"harmful": settings.harmful, "harmless": settings.harmless}
        moved = {kind: _beside(row, path.parent) for kind, row in rows.items()}
        return settings.model_copy(update=moved)
    return settings


def _beside(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    source = str(row.get("source", ""))
    if "${" in source or not is_file(source):
        return row
    return {**row, "source": str(folder / Path(source).expanduser())}
