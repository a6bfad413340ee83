"""The settings of an evaluation: options of ``python -m eval``, and keys of a recipe's ``eval``.

Without PyTorch, so that a recipe is checked at once.
"""

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, create_model, field_validator

from eval.answering.backends import BackendName
from eval.axes import AXES
from eval.decoding_settings import parse_decoding
from merge.common.settings import Settings
from train.chat.chat_settings import ChatSettings

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
