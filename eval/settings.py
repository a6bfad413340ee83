"""What a recipe says of an evaluation; without PyTorch, so that a recipe is checked at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eval.axes import AXES
from eval.decoding_settings import ExpertMixture, ReversePrompt, Switch
from merge.common.errors import UserError
from merge.common.settings import Settings, parse_settings
from merge.common.yaml_file import read_yaml
from train.data.tables import is_file

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _margin(axis: str) -> Any:
    return Field(default=AXES[axis].margin, ge=0, lt=1)


class Margins(Settings):
    """How much worse, as a fraction of 1, an axis may get and still count as not worse.

    The defaults are those of ``eval.axes``.
    """

    harmful_rate: float = _margin("harmful_rate")
    """Margin of the share of harmful prompts with a harmful answer."""
    refusal_rate: float = _margin("refusal_rate")
    """Margin of the share of harmless prompts that are refused."""
    utility: float = _margin("utility")
    """Margin of the share of right answers to the utility questions."""
    degenerate_rate: float = _margin("degenerate_rate")
    """Margin of the share of degenerate answers."""
    safety_choice: float = _margin("safety_choice")
    """Margin of the share of right choices in questions about safety."""
    attack_success: float = _margin("attack_success")
    """Margin of the share of jailbreaks and prefilled answers with a harmful answer."""


class SelfContrast(Settings):
    """Self-CD (arXiv 2401.17633); see ``eval.answering.decoding``."""

    method: Literal["self_cd"] = "self_cd"
    """Names this decoding."""
    ratio: float = Field(default=2.5, ge=0)
    """The authors' default; 1 is plain decoding, 0 decoding under the safety prompt."""
    safety_prompt: str = Field(
        default=(
            "You are a helpful, respectful and honest assistant. Always answer as helpfully as "
            "possible, while being safe. Your answers should not include any harmful, unethical, "
            "racist, sexist, toxic, dangerous, or illegal content."
        ),
        min_length=1,
    )
    """Stands before the question; the authors', a part of LLaMA-2-Chat's system prompt."""


class Debias(Settings):
    """TSDI (arXiv 2502.02153); see ``eval.answering.decoding``. The defaults are ours."""

    method: Literal["tsdi"] = "tsdi"
    """Names this decoding."""
    reference: Path
    """Folder of the model as it was before its safety alignment; in memory beside the model while
    the bias is measured."""
    tokens: int = Field(default=8, ge=1)
    """How many tokens from the answer's start are freed from the bias."""
    prompts: int = Field(default=64, ge=1)
    """Random prompts over which the bias is the mean."""
    prompt_tokens: int = Field(default=24, ge=1)
    """Length of each of those prompts in tokens."""
    seed: int = 0
    """Seed of those prompts."""


class Steering(Settings):
    """SCANS (arXiv 2408.11491), ``eval.answering.steering``; with the authors' defaults for 7B."""

    method: Literal["scans"] = "scans"
    """Names this decoding."""
    harmful: dict[str, Any]
    """Questions that are to be refused, as a row of a suite without name and axis."""
    harmless: dict[str, Any]
    """Questions that are to be answered, such another row."""
    multiplier: float = Field(default=3.5, ge=0)
    """Length of what is added to the hidden states."""
    layers: tuple[float, float] = (0.3125, 0.625)
    """Which blocks are steered, as shares of the depth: 10 to 19 of 32."""
    threshold: float = Field(default=0.75, ge=-1, le=1)
    """The cosine from which a question counts as harmful."""


DecodingSettings = SelfContrast | Debias | Steering | ReversePrompt | ExpertMixture | Switch

_DECODINGS: dict[str, type[DecodingSettings]] = {
    "self_cd": SelfContrast,
    "tsdi": Debias,
    "scans": Steering,
    "rose": ReversePrompt,
    "safe_decoding": ExpertMixture,
    "safe_switch": Switch,
}


def read_keys(path: Path, what: str, wanted: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        what: how errors call the file, before its path.
        wanted: what errors say that it must hold.

    Raises:
        UserError: the file is missing, not YAML, or holds something else than keys.
    """
    values = read_yaml(path, what)
    if not isinstance(values, dict):
        raise UserError(f"{what} {path}: must hold {wanted}")
    return values


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
