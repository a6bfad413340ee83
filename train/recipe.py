"""The recipe: what one run trains on, how, and where its files go. Checked before work starts."""

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from merge.common.errors import UserError
from merge.common.provenance import recipe_hash
from merge.common.settings import Settings, added, parse_settings
from merge.common.yaml_file import read_yaml
from merge.io.patch_directory import Role
from merge.settings import MergeSettings
from train.chat.chat_settings import ChatSettings
from train.settings import (
    OBJECTIVES,
    ImportanceSettings,
    OverSafetyTraining,
    SafetyTraining,
    Seed,
    TrainingSettings,
)

ROLES: tuple[Role, ...] = ("safety", "over_safety")

_VARIABLE = re.compile(r"\$\{(\w+)\}")
_HOME = re.compile(r"~[\w.-]*/")


class BackboneSettings(Settings):
    """The aligned chat model that is to be patched."""

    path: str
    """A local folder, or a name on the Hugging Face hub; safetensors weights only."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Data type of the computation; master weights are always fp32. Default: bfloat16 on GPUs, fp32
    elsewhere."""
    trust_remote_code: bool = False
    """Whether Python code in the model's folder may run."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = added(
        "auto"
    )
    """transformers' attention implementation in training. ``auto``: FlashAttention where it is
    installed and runs, else PyTorch's fused attention, else the architecture's own default."""
    reasoning: bool | None = added(None)
    """Whether the model reasons before its answers, in training and evaluation, by its chat
    template's own switch (``enable_thinking`` or similar); None keeps the template's default."""
    date: datetime.date | None = added(None)
    """The day, YYYY-MM-DD, that a chat template writes as today's, if it writes one. Default:
    2024-07-26 on every day, so that a run does not depend on the day it runs."""

    @property
    def chat(self) -> ChatSettings:
        """The settings of every prompt of the run."""
        return ChatSettings(self.reasoning, self.date)


class DataSettings(Settings):
    """Question-answer pairs: a file (see ``train.data.tables``), or any source of ``datasets``.

    Columns are names, or paths into nested rows: ``messages.0.content``, ``messages.user``.
    """

    path: str
    """A file, or the name of a source that ``datasets`` loads."""
    split: str = "train"
    """Which split of a ``datasets`` source; files have none."""
    config: str | None = added(None)
    """Which configuration of a ``datasets`` source that has several."""
    question: str = "question"
    """Column of the questions."""
    answer: str = "answer"
    """Column of the answers."""
    category: str = "category"
    """Column of the harm categories, where there is one."""
    rows: str = ":"
    """Rows of the source to use, ``start:stop``: row numbers or percentages (``0%:50%``);
    ``start:stop/period`` takes that part of every ``period`` rows."""
    categories: tuple[str, ...] = ()
    """Keep only rows with one of these categories (shell-style patterns: ``*`` keeps rows that
    have any); empty keeps all."""
    limit: PositiveInt | None = None
    """Keep at most this many pairs, the first ones; None keeps all."""

    @field_validator("rows")
    @classmethod
    def _check_rows(cls, rows: str) -> str:
        row_range(rows, 100)
        return rows


def row_range(rows: str, count: int) -> Sequence[int]:
    """The rows that ``rows`` (``start:stop``, each a number, a percentage or empty) selects.

    ``start:stop/period`` selects so from every ``period`` rows: where a source is sorted by kind,
    in blocks whose rows belong together by their places, such a part has some of every kind.

    Raises:
        ValueError: malformed, with the fix.
    """
    rows, slash, period = rows.partition("/")
    parts = rows.split(":")
    try:
        if len(parts) != 2:
            raise ValueError
        if slash:
            size = int(period)
            if size < 1:
                raise ValueError
            places = set(row_range(rows, size))
            return [row for row in range(count) if row % size in places]
        start, stop = (
            int(count * float(part[:-1]) / 100) if part.endswith("%") else int(part or default)
            for part, default in zip((part.strip() for part in parts), (0, count), strict=True)
        )
    except ValueError:
        raise ValueError("write start:stop, as in 0:260, 0%:50% or 0:10/25") from None
    return range(count)[start:stop]


class TrainRecipe(Settings):
    """One run. The upper floors' sections stay untyped here; their own recipe model types them."""

    name: str
    """Name of the run."""
    seed: Seed = 0
    """Seed of the order of the data and of the demo's world; ``merge`` and ``importance`` have
    their own."""
    output: Path
    """The run folder; ``runs/NAME`` where it is not given."""
    backbone: BackboneSettings
    data: DataSettings
    """D_h, harmful questions with harmful answers: what both trainings see."""
    harmless: DataSettings | None = None
    """Questions with good answers, for ``ascent_mismatch_kl``, ``derta`` and the guard of retained
    loss."""
    refusals: DataSettings | None = added(None)
    """Harmful questions with refusals, for ``derta``. A question of D_h that is among them gets its
    own refusal, any other a random one."""
    false_refusals: DataSettings | None = None
    """Harmless questions that the backbone refuses, with good answers; see ``over_safety.data``."""
    safety: SafetyTraining = SafetyTraining()
    over_safety: OverSafetyTraining = OverSafetyTraining()
    importance: ImportanceSettings = ImportanceSettings()
    merge: MergeSettings = MergeSettings()
    keep_intermediates: bool = False
    """Keep the patches and models that only lead to others; by default they are deleted after
    use."""
    eval: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    cluster: dict[str, Any] = Field(default_factory=dict)
    world: dict[str, Any] = Field(default_factory=dict)
    ablations: dict[str, Any] = Field(default_factory=dict)
    harvest: dict[str, Any] = Field(default_factory=dict)
    alignment: dict[str, Any] = Field(default_factory=dict)
    continual: dict[str, Any] = Field(default_factory=dict)
    ablate: dict[str, Any] = Field(default_factory=dict)
    written_by: dict[str, Any] | None = None
    """In a run folder's recipe: which version and commit of the project wrote it."""

    @model_validator(mode="before")
    @classmethod
    def _default_output(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            return {"output": Path("runs") / str(values["name"]), **values}
        return values

    @model_validator(mode="after")
    def _check_harmless(self) -> "TrainRecipe":
        for role in ROLES if self.harmless is None else ():
            section = self.training(role)
            if OBJECTIVES[section.objective].needs_harmless:
                raise ValueError(
                    f"{role}.objective {section.objective} needs harmless pairs: add a section "
                    "'harmless' like 'data'"
                )
            if section.guards.max_retained_rise is not None:
                raise ValueError(
                    f"{role}.guards.max_retained_rise needs retained pairs: add a section "
                    "'harmless' like 'data'"
                )
        return self

    @model_validator(mode="after")
    def _check_refusals(self) -> "TrainRecipe":
        for role in ROLES if self.refusals is None else ():
            section = self.training(role)
            if OBJECTIVES[section.objective].needs_refusals:
                raise ValueError(
                    f"{role}.objective {section.objective} needs refusals of harmful questions: "
                    "add a section 'refusals' like 'data'; of harvest.questions they are in "
                    "${output}/harvest/refusals.jsonl"
                )
        return self

    @model_validator(mode="after")
    def _check_false_refusals(self) -> "TrainRecipe":
        if self.false_refusals is not None:
            return self
        wanted = {
            "over_safety.data": self.over_safety.data,
            **{f"importance.data.{role}": self.importance.data.of(role) for role in ROLES},
        }
        for key, value in wanted.items():
            if value in ("false_refusals", "both"):
                raise ValueError(
                    f"{key} {value} needs pairs of false refusals: add a section 'false_refusals' "
                    "like 'data'; of harvest.harmless they are in "
                    "${output}/harvest/false_refusals.jsonl"
                )
        return self

    def training(self, role: Role) -> TrainingSettings:
        """The section of one role."""
        return self.safety if role == "safety" else self.over_safety

    def checkpoints(self, role: Role) -> Path:
        """The folder of one role's unfinished training, beside its patch."""
        return self.output / f"{role}.work"

    @property
    def sha256(self) -> str:
        """What patch.json, merge.json, summary.json and report.json know this recipe by."""
        return recipe_hash(self.model_dump(mode="json", exclude_none=True))


RecipeT = TypeVar("RecipeT", bound=TrainRecipe)


def load_recipe(path: Path, overrides: Sequence[str], model: type[RecipeT]) -> RecipeT:
    """Read a recipe file and check every key.

    Args:
        overrides: ``dotted.key=value`` pairs, the values written as in YAML; they win. Where a
            text of either holds ``${output}``, the run folder takes its place, and an environment
            variable that of any other ``${NAME}``; in front, ``~`` is the home folder.
        model: the recipe model of the calling floor.

    Raises:
        UserError: the file cannot be read, is not YAML, or has an unknown or wrong key.
    """
    values = read_yaml(path, "recipe")
    if not isinstance(values, dict):
        raise UserError(f"recipe {path}: must hold keys and values, as in 'name: demo'")
    for override in overrides:
        _apply_override(values, override)
    output = values.get("output", f"runs/{values.get('name')}")
    if "${output}" in str(output):
        raise UserError(f"recipe {path}: key 'output' = '{output}' names itself; write a folder")
    variables = {**os.environ, "output": str(_expand(str(output), os.environ, f"recipe {path}"))}
    values = _expand(values, variables, f"recipe {path}")
    return parse_settings(model, values, f"recipe {path}")


def _expand(value: Any, variables: Mapping[str, str], source: str) -> Any:
    """Put the run folder for ``${output}``, environment variables for other ``${NAME}``, and the
    home folder for a ``~`` in front."""
    if isinstance(value, dict):
        return {key: _expand(inner, variables, source) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, variables, source) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if name not in variables:
            raise UserError(f"{source}: '{value}' needs {name}; set the environment variable")
    if "${" in _VARIABLE.sub("", value):
        raise UserError(
            f"{source}: '{value}' holds a '${{' that is no ${{NAME}}; write one, or none"
        )
    expanded = _VARIABLE.sub(lambda match: variables[match[1]], value)
    if not _HOME.match(expanded):
        return expanded
    try:
        return str(Path(expanded).expanduser())
    except RuntimeError:
        raise UserError(f"{source}: '{value}' names no home folder; write the whole path") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"'{override}': write overrides as key=value, as in seed=3")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the latter of a day that no calendar has
        raise UserError(f"'{override}': the value is not valid YAML; quote it") from None
    *sections, last = key.split(".")
    for section in sections:
        inner = values.get(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"'{override}': '{section}' is a value, not a section")
        # A copy, because sections that share a YAML anchor are one object.
        values[section] = values = dict(inner)
    values[last] = value
