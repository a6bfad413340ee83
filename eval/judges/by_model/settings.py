"""A judge file: which model judges, how it is asked, and how its verdict is read.

    kind: classifier                      # or guard, or scorer
    model: LibrAI/longformer-harmful-ro   # a folder or a name on the hub
    harmful: LABEL_1                      # a harm judge's classes; a refusal judge has refused,
    safe: LABEL_0                         # answered and, where it tells them, partial

What a class's key holds depends on the kind. A ``classifier`` has labels. A ``guard`` writes its
judgement as text, in which regular expressions are looked for. A ``scorer`` is asked which of some
words comes next, each a single token, and the likeliest is its verdict.

Llama Guard brings its question in its own chat template; models without one need ``template``, the
text of their model card with ``{prompt}`` and ``{completion}`` in it.
"""

import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveInt, model_validator

from merge.common.files import sha256_json
from merge.common.settings import Settings, added, parse_settings
from merge.common.yaml_file import read_keys

Kind = Literal["classifier", "guard", "scorer"]


class JudgeSettings(Settings):
    """What all judge files have; see the module."""

    kind: Kind
    """How the model judges."""
    model: str
    """A folder, relative to the file's own, or a name on the hub."""
    template: str | None = None
    """The question, with ``{prompt}`` and ``{completion}`` in it. Default: of a classifier the
    answer alone, else what the model's chat template makes of both."""
    policies: tuple[str, ...] = added(())
    """Texts for ``{policy}`` in the template, asked one by one: an answer that violates any of them
    is harmful."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens that a classifier reads at most."""
    max_new_tokens: PositiveInt = 32
    """Tokens that a guard writes at most."""
    batch_tokens: PositiveInt = 16384
    """Rows times tokens of a batch."""

    @property
    def classes(self) -> dict[str, str]:
        """By class its label, pattern or word; of two patterns that fit, the first one counts."""
        raise NotImplementedError

    @property
    def judging(self) -> dict[str, Any]:
        """All that a verdict depends on, besides the weights and what is judged."""
        return self.model_dump(mode="json", exclude={"batch_tokens"})

    @property
    def short_hash(self) -> str:
        """By which two files of one model are told apart: 12 digits of the SHA-256 of the above."""
        return sha256_json(self.judging, sort_keys=True)[:12]

    @model_validator(mode="after")
    def _template_fits(self) -> "JudgeSettings":
        template = self.template or ""
        if bool(self.policies) != ("{policy}" in template):
            raise ValueError("policies and {policy} in the template go together; give both")
        if self.template is not None and "{completion}" not in template:
            raise ValueError("the template has no {completion}; the answer goes there")
        if self.kind == "scorer" and self.template is None:
            raise ValueError("a scorer needs a template that ends where its word comes")
        if self.kind == "guard":
            for name, pattern in self.classes.items():
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"{name}: '{pattern}' is no pattern ({error})") from None
        return self


class HarmJudgeSettings(JudgeSettings):
    """A harm judge: is the answer harmful?"""

    harmful: str = Field(min_length=1)
    """Label, pattern or word of a harmful answer."""
    safe: str = Field(min_length=1)
    """And of any other."""

    @property
    def classes(self) -> dict[str, str]:
        # "safe" also stands in "unsafe", so the pattern for harmful goes first.
        return {"harmful": self.harmful, "safe": self.safe}


class RefusalJudgeSettings(JudgeSettings):
    """A refusal judge: does the answer refuse?"""

    refused: str = Field(min_length=1)
    """Label, pattern or word of a refusal."""
    answered: str = Field(min_length=1)
    """And of an answer."""
    partial: str | None = Field(default=None, min_length=1)
    """And of a refusal that then helps, where the model tells these."""

    @property
    def classes(self) -> dict[str, str]:
        partial = {} if self.partial is None else {"partial": self.partial}
        return {**partial, "full": self.refused, "none": self.answered}


JudgeT = TypeVar("JudgeT", bound=JudgeSettings)


def load_judge_file(path: Path, model: type[JudgeT]) -> JudgeT:
    """Read a judge file; a relative folder under ``model`` starts at the file's own folder.

    Args:
        model: what it judges, ``HarmJudgeSettings`` or ``RefusalJudgeSettings``.

    Raises:
        UserError: the file is missing, not YAML, or has a wrong key.
    """
    needed = [name for name, field in model.model_fields.items() if field.is_required()]
    values = read_keys(path, "judge file", f"keys ({', '.join(needed)})")
    settings = parse_settings(model, values, str(path))
    local = path.parent / settings.model
    return settings.model_copy(update={"model": str(local)}) if local.is_dir() else settings


def role_of(settings: JudgeSettings) -> str:
    """What errors and progress call a judge."""
    return "harm judge" if isinstance(settings, HarmJudgeSettings) else "refusal judge"
