"""The settings of an evaluation: options of ``python -m eval``, and keys of a recipe's ``eval``.

Without PyTorch, so that a recipe is checked at once.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, create_model, field_validator

from eval.answering.backends import BackendName
from eval.axes import AXES
from eval.decoding_settings import ExpertMixture, ReversePrompt, Switch
from merge.common.errors import UserError
from merge.common.settings import Settings, parse_settings
from merge.common.yaml_file import read_yaml
from train.chat.chat_settings import ChatSettings
from train.data.tables import is_file

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
MOST_LOGITS = 2**28
"""Logits of one batch of choices: they take the most memory, 0.5 GiB in bf16. A vocabulary of
150,000 has as many at 1,800 tokens."""
VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name of a model beside the patched one."""


def margins_model() -> type[Settings]:
    """A settings model with a margin for each axis of ``eval.axes`` that has one of its own."""
    fields: dict[str, Any] = {
        key: (
            float,
            Field(axis.margin, ge=0, lt=1, description=f"Margin of the share of {axis.of}."),
        )
        for key, axis in AXES.items()
        if axis.margin_of is None
    }
    return create_model("Margins", __base__=Settings, **fields)


class Margins(margins_model()):
    """How much worse, as a fraction of 1, an axis may get and still count as not worse.

    The defaults are those of ``eval.axes``.
    """


class SelfContrast(Settings):
    """Self-CD (arXiv 2401.17633); see ``eval.answering.decoding``."""

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
    """SCANS (arXiv 2408.11491), ``eval.answering.steering``; with the authors' defaults for 7B."""

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


class MtBenchSettings(Settings):
    """MT-Bench: two-turn answers, rated from 1 to 10 by a chat model."""

    questions: Path
    """MT-Bench's ``question.jsonl``, or a file in its form."""
    judge: str
    """Chat model that rates the answers: a folder, or a name on the hub."""
    max_new_tokens: PositiveInt = 1024
    """Length of one answer in tokens, at most."""


class EvaluationSettings(Settings):
    """How models are asked, and who judges their answers.

    One model for all who evaluate (issue 17): ``eval run``, ``compare`` and ``mt-bench`` have its
    keys as options, a recipe's section ``eval`` has them as keys, and search, ablation and jobs of
    a cluster take that section.
    """

    data_dir: Path | None = None
    """Folder that replaces ``${DATA}`` in suite files."""
    dtype: Dtype = "auto"
    """Data type in which the models answer; ``auto`` is float32 on a CPU, and the checkpoint's
    dtype on a GPU."""
    batch_tokens: PositiveInt = 16384
    """Upper bound of rows times tokens of a batch of answers; a smaller one needs less memory."""
    backend: BackendName = "hf"
    """Backend that generates the answers and answers choices, also of the merges of a search by
    answers. ``vllm`` must be installed separately; ``hf`` still answers lm-eval's tasks, and the
    merges of a search by margins and of an ablation."""
    reasoning: bool | None = None
    """Whether the models reason before their answers, by the chat template's own switch. Default:
    ``backbone.reasoning``, or else the template's default."""
    date: datetime.date | None = None
    """The day that a chat template writes as today's, YYYY-MM-DD. Default: ``backbone.date``, else
    2024-07-26 on every day."""
    harm_judge: Path | None = None
    """Judge file (YAML; eval/judges/ has some) that decides which answers are harmful. Without one,
    an answer to a harmful prompt is harmful where it is neither refused nor degenerate."""
    refusal_judge: Literal["rules"] | Path = "rules"
    """Judge that tells refusals from answers: our ``rules``, which know English only, or a judge
    file (YAML; eval/judges/ has one). Rules detect degenerate answers either way."""
    margins: Margins = Margins()
    """How much worse each axis may get and still count as not worse."""
    agreement: Path | None = None
    """File that ``eval agreement --out`` wrote about this refusal judge: the report shows it, with
    refusal rates corrected for the judge's errors."""
    decodings: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    """Decodings by name (as ``eval run --decoding`` reads them) with which the backbone answers,
    for comparison: the baselines that need no training."""
    mt_bench: MtBenchSettings | None = None
    """Rates the compared models on MT-Bench as well; decodings are not rated."""

    @property
    def chat(self) -> ChatSettings:
        """How every prompt is written."""
        return ChatSettings(self.reasoning, self.date)

    @field_validator("decodings")
    @classmethod
    def _are_decodings(cls, decodings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, values in decodings.items():
            parse_decoding(values, f"eval.decodings.{name}")
        return decodings

    @property
    def judge_files(self) -> list[Path]:
        """The files of the judges that are no rules."""
        judges = (self.harm_judge, self.refusal_judge)
        return [judge for judge in judges if isinstance(judge, Path)]


DEFAULTS = EvaluationSettings()
