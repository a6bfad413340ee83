"""From the rows of a suite to prompts: reading sources, picking columns, filtering, limiting."""

import json
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.suites.attacks import GOAL, KINDS, asked_columns, attack_rows
from eval.suites.right_choice import LETTERS, GivenAnswer, right_choices
from eval.suites.suite import Columns, Scoring, Suite, SuiteRow, TaskRow
from merge.common.errors import UserError
from merge.common.texts import usable
from train.data.cells import (
    MissingColumnError,
    as_text,
    cell,
    same_value,
    unfolded,
)
from train.data.formats import Layout, Row
from train.data.tables import is_pattern, read_table
from train.recipe import row_range


@dataclass(frozen=True)
class Prompt:
    """One question to the model.

    Attributes:
        id: unique within its suite: the id column, or the row's number in the source; for
            lm-eval's tasks "task/number".
        answer: the wanted answer; for ``choice`` scoring, the text of the right choice.
        goal: what an attack is after, where its file says that.
    """

    id: str
    category: str | None
    text: str
    answer: str | None = None
    choices: tuple[str, ...] = ()
    goal: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one suite row."""

    row: SuiteRow | TaskRow
    prompts: tuple[Prompt, ...]

    @property
    def scoring(self) -> Scoring | None:
        """How this project scores the answers; ``None`` also where lm-eval does."""
        return None if isinstance(self.row, TaskRow) else self.row.scoring


def attack_of(prompt_set: PromptSet) -> str | None:
    """Under which kind of attack the answers count; ``None`` for plain prompts."""
    return None if isinstance(prompt_set.row, TaskRow) else prompt_set.row.attack_kind


def load_prompts(suite: Suite) -> list[PromptSet]:
    """Read every row's prompts; all sources are checked before any model is loaded.

    Raises:
        UserError: a source is missing or broken, a column is missing, nothing is left to ask.
    """
    prompt_sets = [PromptSet(row, tuple(_prompts_of(row))) for row in suite.rows]
    if suite.tasks:
        from eval.suites.lm_eval_tasks import (
            task_prompts,  # seconds to import, and only tasks need it
        )

        prompt_sets += [PromptSet(task, tuple(task_prompts(task))) for task in suite.tasks]
    return prompt_sets


def _prompts_of(row: SuiteRow) -> list[Prompt]:
    where = f"suite '{row.name}' ({row.source})"
    records = list(enumerate(_with_answers(row, _read(row, where), where), start=1))
    if row.shuffle is not None:
        random.Random(row.shuffle).shuffle(records)
    records = [records[place] for place in row_range(row.rows, len(records))]
    for column, wanted in row.filter.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        records = [
            (number, record)
            for number, record in records
            if any(same_value(_cell(record, column, where), value) for value in values)
        ]
    if not records:
        condition = ", ".join(f"{key} = {value}" for key, value in row.filter.items())
        fix = f" with {condition}; fix filter" if condition else "; add some, or fix rows"
        raise UserError(f"{where}: no prompt{fix}")
    if row.limit is not None and row.limit < len(records):
        picked = random.Random(row.seed).sample(range(len(records)), row.limit)
        records = [records[index] for index in sorted(picked)]
    places = [_place(row, number, record, where) for number, record in records]
    prompts = [
        _prompt(row, number, record, place)
        for (number, record), place in zip(records, places, strict=True)
    ]
    if row.scoring == "choice":
        given = [
            _given(row.columns, record, prompt, place)
            for (_, record), prompt, place in zip(records, prompts, places, strict=True)
        ]
        prompts = [
            replace(prompt, answer=right)
            for prompt, right in zip(prompts, right_choices(given), strict=True)
        ]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError(f"{where}: column '{row.columns.id}' repeats an id; drop columns.id")
    return prompts


def _place(row: SuiteRow, number: int, record: Row, where: str) -> str:
    """What errors call a row of the source."""
    file = f", of file {record['file']}" if is_pattern(row.source) else ""
    return f"{where} row {number}{file}"


def _prompt(row: SuiteRow, number: int, record: Row, where: str) -> Prompt:
    """One prompt; where there are choices, its answer is still as the source writes it."""
    columns = row.columns
    text = _prompt_text(record, columns.prompt, where)
    if not text.strip():
        raise UserError(f"{where}: empty prompt; remove the row or fix columns.prompt")
    answer = None if columns.answer is None else _text(record, columns.answer, where).strip()
    if answer == "":
        raise UserError(f"{where}: empty answer; remove the row or fix columns.answer")
    return Prompt(
        id=str(number) if columns.id is None else _text(record, columns.id, where),
        category=None if columns.category is None else _name(record, columns.category, where),
        text=text.strip(),
        answer=answer,
        choices=_choices(record, columns.choices, where),
        goal=str(record[GOAL]) if row.attack_columns_are_known and GOAL in record else None,
    )


def _prompt_text(record: Row, column: str, where: str) -> str:
    """A column's text, or a format string filled with columns."""
    if column in record or "{" not in column:
        return _text(record, column, where)
    try:
        parts = list(string.Formatter().parse(column))
        filled = [
            literal + ("" if name is None else _filled(record, name, form, conversion, where))
            for literal, name, form, conversion in parts
        ]
    except ValueError as error:
        raise UserError(f"{where}: columns.prompt '{column}': {error}") from None
    return usable("".join(filled), f"{where}: columns.prompt '{column}'")


def _filled(record: Row, name: str, form: str | None, conversion: Any, where: str) -> str:
    """One field of a format string; its name may be a path, so ``str.format`` cannot do it."""
    if not name:
        raise ValueError("name a column in every {}")
    formatter = string.Formatter()
    value = formatter.convert_field(_cell(record, name, where), conversion)
    return formatter.format_field(value, form or "")


def _text(record: Row, column: str, where: str) -> str:
    return as_text(_cell(record, column, where), f"{where}: column '{column}'")


def _name(record: Row, column: str, where: str) -> str:
    """A category, which may be of any kind."""
    return usable(str(_cell(record, column, where)), f"{where}: column '{column}'")


def _choices(record: Row, column: str | list[str] | None, where: str) -> tuple[str, ...]:
    if column is None:
        return ()
    if isinstance(column, list):
        return tuple(_text(record, name, where) for name in column)
    choices = unfolded(_cell(record, column, where))
    if isinstance(choices, Mapping):  # ARC on the hub: {"text": [...], "label": ["A", ...]}
        choices = choices.get("text")
    if not isinstance(choices, list) or len(choices) < 2:
        raise UserError(f"{where}: column '{column}' must hold a list of at least two choices")
    return tuple(as_text(choice, f"{where}: column '{column}'") for choice in choices)


def _labels(record: Row, column: str | list[str] | None) -> list[str]:
    """The choices' own labels where the source has them (some of ARC's are "1" to "4")."""
    value = unfolded(cell(record, column)) if isinstance(column, str) else None
    return [str(label) for label in value["label"]] if isinstance(value, Mapping) else [*LETTERS]


def _given(columns: Columns, record: Row, prompt: Prompt, where: str) -> GivenAnswer:
    value = _cell(record, str(columns.answer), where)
    return GivenAnswer(
        text=prompt.answer or "",
        is_number=isinstance(value, int | float) and not isinstance(value, bool),
        choices=prompt.choices,
        labels=_labels(record, columns.choices),
        where=where,
    )


def _cell(record: Row, column: str, where: str) -> Any:
    try:
        value = cell(record, column)
    except MissingColumnError as error:
        raise UserError(f"{where}: {error}") from None
    if value is None:
        raise UserError(f"{where}: column '{column}' has no value; remove the row or fill it")
    return value


def _with_answers(row: SuiteRow, records: list[Row], where: str) -> list[Row]:
    """The records with the answers of a file of its own, where the row names one."""
    if row.answers is None or row.columns.id is None or row.columns.answer is None:
        return records
    try:
        answers = json.loads(Path(row.answers).read_text(encoding="utf-8"))
        known = [answers.get(str(_cell(record, row.columns.id, where))) for record in records]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: answers {row.answers} cannot be read ({error})") from None
    if None in known:
        missing = _cell(records[known.index(None)], row.columns.id, where)
        raise UserError(f"{where}: {row.answers} has no answer to id '{missing}'")
    return [
        {**record, **(answer if isinstance(answer, dict) else {row.columns.answer: answer})}
        for record, answer in zip(records, known, strict=True)
    ]


def _read(row: SuiteRow, where: str) -> list[Row]:
    layout = Layout(row.header, row.lines)
    if row.attack is not None and row.attack_columns_are_known:
        kind = KINDS[row.attack]
        columns = asked_columns(kind)
        rows = read_table(row.source, where, columns, row.split, row.config, layout)
        return attack_rows(kind, rows, where)
    return list(read_table(row.source, where, _asked(row.columns), row.split, row.config, layout))


def _asked(columns: Columns) -> list[str]:
    """The columns that hold a prompt, and its answer where one is wanted."""
    answer = [] if columns.answer is None else [columns.answer]
    if "{" not in columns.prompt:
        return [columns.prompt, *answer]
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(columns.prompt) if name]
    except ValueError:
        names = [columns.prompt]  # told with the first row
    return [*names, *answer]
