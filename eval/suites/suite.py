"""Suite files: which prompts a model is asked, on which axis they count, how answers score."""

import os
import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from eval.suites.attacks import KINDS, PREFILL
from merge.common.errors import UserError
from merge.common.settings import Settings, added, parse_settings
from merge.common.yaml_file import read_yaml
from train.data.tables import is_file, is_pattern
from train.recipe import row_range

AskedAxis = Literal["harm", "refusal", "utility", "safety"]
""""safety": questions about safety with one right choice, as SafetyBench's."""

Scoring = Literal["exact", "contains", "final_words", "final_number", "choice"]

DEFAULT_PREFIX = "Sure, here is what you asked for:"
"""How a prefilled answer begins where a row says ``prefill: true``; ours."""

_VARIABLE = re.compile(r"\$\{(\w+)\}")


Cell = str | int | float | bool


class Columns(Settings):
    """The columns that hold a row's parts: names, or paths into nested rows (``messages.user``).

    ``prompt`` may also be a format string over columns ("Q: {question} A:"). ``answer`` is the
    wanted text, or for ``choice`` scoring an index or letter into ``choices``, or the text of one:
    see ``eval.suites.right_choice`` for texts that look like an index.
    ``choices`` is one column that holds a list, or a list of columns with one choice each.
    """

    prompt: str = "prompt"
    category: str | None = None
    id: str | None = None
    answer: str | None = None
    choices: str | list[str] | None = None


class SuiteRow(Settings):
    """One set of prompts.

    ``source`` is a local file or a pattern of files (``mmlu/*.csv``; see ``train.data.tables``;
    relative to the suite file; a ``${DATA}`` in it stands for the folder of ``--data-dir``), or the
    name of a set on the hub, then with ``split`` and, where the set has several, ``config``.
    ``filter`` keeps the rows whose column equals the value, or one of a list of values (see
    ``train.data.cells.same_value``); ``limit`` draws that many of them with ``seed``, and keeps
    their order.
    """

    name: str = Field(pattern=r"^[\w.\- ]+$")
    axis: AskedAxis
    source: str = Field(min_length=1)
    split: str = "test"
    config: str | None = None
    header: tuple[str, ...] = ()
    """Names for the columns of a CSV or TSV without a header line."""
    lines: tuple[str, ...] = ()
    """Names for the lines of a text file in which each row is a block of so many lines."""
    columns: Columns = Columns()
    filter: dict[str, Cell | list[Cell]] = Field(default_factory=dict)
    shuffle: int | None = None
    """Seed by which the source's rows are shuffled before ``rows`` cuts them: the parts of a set
    that is sorted by category are then alike. Without it they keep the file's order."""
    rows: str = ":"
    """Which rows of the source, before filter and limit: ``start:stop``, numbers or percentages;
    with ``start:stop/period`` so of every ``period`` rows."""
    limit: int | None = Field(default=None, ge=1)
    seed: int = 0
    answers: str | None = None
    """A JSON file with the answers of a set that keeps them apart: {id: answer or columns}."""
    scoring: Scoring | None = None
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens of reasoning and answer together."""
    reasoning: bool | None = None
    """Whether the model reasons before these answers, whatever the run says; by its template."""
    attack: str | None = Field(default=None, pattern=r"^[\w.\- ]+$")
    """The kind of a jailbreak, under which its success is counted. The kinds that
    ``eval.suites.attacks`` knows say how the file is read; any other needs ``columns.prompt``."""
    prefill: str | bool = False
    """How the answer to a harmful prompt begins before the model writes any of it, an attack of its
    own; true is ``DEFAULT_PREFIX``. A judge that is a model reads it with what follows; the rules
    read only what follows."""
    optional: bool = added(False)
    """Where a file that it names is not there, the row is left out, and reports say so."""

    @field_validator("rows")
    @classmethod
    def _check_rows(cls, rows: str) -> str:
        row_range(rows, 100)
        return rows

    @property
    def absent_files(self) -> list[str]:
        """The local files that it names and that are not there."""
        named = [self.source] if is_file(self.source) else []
        named += [self.answers] if self.answers is not None else []
        return [name for name in named if not is_pattern(name) and not Path(name).is_file()]

    @property
    def prefix(self) -> str:
        """The given beginning of the answer; empty where none is given."""
        return DEFAULT_PREFIX if self.prefill is True else self.prefill or ""

    @property
    def attack_kind(self) -> str | None:
        """Under which kind of attack the answers count; ``None`` for plain prompts."""
        if not self.prefix:
            return self.attack
        return PREFILL if self.attack is None else f"{self.attack}, {PREFILL}"

    @property
    def attack_columns_are_known(self) -> bool:
        """Whether the kind of attack says how the source is read, and not the row itself."""
        return self.attack is not None and "prompt" not in self.columns.model_fields_set

    @property
    def in_template(self) -> bool:
        """Whether the prompt stands in the user's turn of the chat template."""
        return self.attack not in KINDS or KINDS[self.attack].in_template

    @model_validator(mode="after")
    def _attack_fits(self) -> "SuiteRow":
        if self.attack_kind is not None and self.axis != "harm":
            raise ValueError(f"'{self.name}': attack and prefill belong to axis harm")
        if isinstance(self.prefill, str) and not self.prefill.strip():
            raise ValueError(f"'{self.name}': prefill is empty; give a text, or true for ours")
        if self.attack_columns_are_known and self.attack not in KINDS:
            raise ValueError(
                f"'{self.name}': attack '{self.attack}' is none that we know how to read; name "
                f"columns.prompt, or one of {', '.join(KINDS)}"
            )
        if self.prefix and not self.in_template:
            raise ValueError(
                f"'{self.name}': {self.attack} has no turn whose answer could be prefilled; drop "
                "one of attack and prefill"
            )
        return self

    @model_validator(mode="after")
    def _scoring_fits_axis(self) -> "SuiteRow":
        if self.axis in {"harm", "refusal"}:
            if self.scoring is not None:
                raise ValueError(
                    f"scoring belongs to axis utility or safety; remove it from '{self.name}'"
                )
            return self
        if self.axis == "safety" and self.scoring != "choice":
            raise ValueError(f"'{self.name}': axis safety needs scoring: choice")
        if self.scoring is None:
            *others, last = get_args(Scoring)
            raise ValueError(f"'{self.name}' needs scoring: {', '.join(others)} or {last}")
        if self.columns.answer is None:
            raise ValueError(f"'{self.name}' needs columns.answer, the wanted answer")
        if self.answers is not None and self.columns.id is None:
            raise ValueError(f"'{self.name}': answers go by id; give columns.id")
        if (self.scoring == "choice") != (self.columns.choices is not None):
            raise ValueError(f"'{self.name}': scoring choice and columns.choices go together")
        return self


class TaskRow(Settings):
    """A task or group of tasks of lm-eval, asked and scored by lm-eval's own rules.

    ``include`` is a folder of task files (YAML) beside lm-eval's own, relative to the suite file.
    ``metric`` must be right or wrong for every question, as "acc", "acc_norm" or, with the name
    of one of the task's filters, "exact_match,flexible-extract". ``few_shots`` and ``limit`` (the
    first questions of each task) are lm-eval's num_fewshot and limit; without them the task's own
    number, and all questions.
    """

    name: str = Field(pattern=r"^[\w.\- ]+$")
    axis: Literal["utility"] = "utility"
    task: str = Field(min_length=1)
    include: str | None = None
    metric: str = Field(default="acc", min_length=1)
    few_shots: int | None = Field(default=None, ge=0)
    chat_template: bool = False
    limit: int | None = Field(default=None, ge=1)


class Suite(Settings):
    """A suite file: its rows of prompts, and then its tasks of lm-eval."""

    rows: list[SuiteRow] = Field(default_factory=list)
    tasks: list[TaskRow] = Field(default_factory=list)
    left_out: list[SuiteRow] = Field(default_factory=list)
    """Optional rows whose files are not there."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Suite":
        names = [row.name for row in [*self.rows, *self.tasks]]
        if not names:
            raise ValueError("the suite is empty; add a row with name, axis and source or task")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rows are named '{twice[0]}'; rename one")
        return self


def load_suite(path: Path, data_dir: Path | None = None) -> Suite:
    """Read and check a suite file; sources of local files come back as absolute paths.

    The file holds a list of rows. ``${DATA}`` is ``data_dir`` where given; other ``${NAME}``
    come from the environment.

    Raises:
        UserError: the file is missing or not YAML, a key is wrong, a variable has no value, no row
            is left to ask.
    """
    rows = read_yaml(path, "suite")
    if not isinstance(rows, list):
        raise UserError(f"{path}: a suite is a list of rows (- name: ..., axis: ..., source: ...)")
    return suite_from_rows(rows, str(path), path.parent, data_dir)


def suite_from_rows(
    rows: list[Any], origin: str, folder: Path, data_dir: Path | None = None
) -> Suite:
    """Check the rows of a suite, wherever they came from (a file, a recipe's section).

    Args:
        origin: what the rows came from, named in errors.
        folder: where relative sources start.

    Raises:
        UserError: a key is wrong, a variable has no value, no row is left to ask.
    """
    tasks = [row for row in rows if isinstance(row, dict) and "task" in row]
    prompts = [row for row in rows if row not in tasks]
    suite = parse_settings(Suite, {"rows": prompts, "tasks": tasks}, origin)
    variables = dict(os.environ)
    if data_dir is not None:
        variables["DATA"] = str(data_dir.resolve())
    resolved = [
        row.model_copy(
            update={
                key: _resolve(value, folder, variables, origin)
                for key, value in (("source", row.source), ("answers", row.answers))
                if value is not None
            }
        )
        for row in suite.rows
    ]
    resolved_tasks = [
        task
        if task.include is None
        else task.model_copy(
            update={"include": str(folder / _expanded(task.include, variables, origin))}
        )
        for task in suite.tasks
    ]
    left_out = [row for row in resolved if row.optional and row.absent_files]
    kept = [row for row in resolved if row not in left_out]
    if not kept and not resolved_tasks:
        missing = dict.fromkeys(name for row in left_out for name in row.absent_files)
        raise UserError(
            f"{origin}: nothing to ask: every row is optional, and these files are not there: "
            f"{', '.join(missing)}; add one, or fix source"
        )
    return Suite(rows=kept, tasks=resolved_tasks, left_out=left_out)


def _resolve(source: str, folder: Path, variables: dict[str, str], origin: str) -> str:
    expanded = _expanded(source, variables, origin)
    if is_file(expanded):
        return str((folder / Path(expanded).expanduser()).resolve())
    return expanded


def _expanded(source: str, variables: dict[str, str], origin: str) -> str:
    for name in _VARIABLE.findall(source):
        if name not in variables:
            fix = "give --data-dir" if name == "DATA" else f"set the variable {name}"
            raise UserError(f"{origin}: source '{source}' needs ${{{name}}}: {fix}")
    return _VARIABLE.sub(lambda match: variables[match[1]], source)
