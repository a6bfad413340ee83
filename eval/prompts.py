"""From the rows of a suite to prompts: reading sources, picking columns, filtering, limiting."""

import csv
import io
import json
import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.suite import Scoring, Suite, SuiteRow, TaskRow, is_local
from merge.errors import UserError
from train.recipe import row_range

Record = Mapping[str, Any]

_LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class Prompt:
    """One question to the model.

    Attributes:
        id: unique within its suite: the id column, or the row's number in the source; for
            lm-eval's tasks "task/number".
        answer: the wanted answer; for ``choice`` scoring, the text of the right choice.
    """

    id: str
    category: str | None
    text: str
    answer: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one suite row."""

    row: SuiteRow | TaskRow
    prompts: tuple[Prompt, ...]

    @property
    def scoring(self) -> Scoring | None:
        """How this project scores the answers; ``None`` also where lm-eval does."""
        return None if isinstance(self.row, TaskRow) else self.row.scoring


def load_prompts(suite: Suite) -> list[PromptSet]:
    """Read every row's prompts; all sources are checked before any model is loaded.

    Raises:
        UserError: a source is missing or broken, a column is missing, nothing is left to ask.
    """
    prompt_sets = [PromptSet(row, tuple(_prompts_of(row))) for row in suite.rows]
    if suite.tasks:
        from eval.lm_harness import task_prompts  # seconds to import, and only tasks need it

        prompt_sets += [PromptSet(task, tuple(task_prompts(task))) for task in suite.tasks]
    return prompt_sets


def _prompts_of(row: SuiteRow) -> list[Prompt]:
    where = f"suite '{row.name}' ({row.source})"
    records = list(enumerate(_with_answers(row, _read(row, where), where), start=1))
    if row.shuffle is not None:
        random.Random(row.shuffle).shuffle(records)
    records = [records[place] for place in row_range(row.rows, len(records))]
    for column, wanted in row.filter.items():
        records = [
            (number, record)
            for number, record in records
            if str(_cell(record, column, where)) == str(wanted)
        ]
    if not records:
        condition = ", ".join(f"{key} = {value}" for key, value in row.filter.items())
        mend = f" with {condition}; mend filter" if condition else "; add some, or mend rows"
        raise UserError(f"{where}: no prompt{mend}")
    if row.limit is not None and row.limit < len(records):
        picked = random.Random(row.seed).sample(range(len(records)), row.limit)
        records = [records[index] for index in sorted(picked)]
    prompts = [_prompt(row, number, record, where) for number, record in records]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise UserError(f"{where}: column '{row.columns.id}' repeats an id; drop columns.id")
    return prompts


def _prompt(row: SuiteRow, number: int, record: Record, where: str) -> Prompt:
    columns = row.columns
    where = f"{where} row {number}"
    text = _text(record, columns.prompt, where)
    if not text.strip():
        raise UserError(f"{where}: empty prompt; remove the row or fix columns.prompt")
    choices = _choices(record, columns.choices, where)
    answer = None
    if columns.answer is not None:
        cell = _cell(record, columns.answer, where)
        labels = _labels(record, columns.choices)
        answer = _right_choice(cell, choices, labels, where) if choices else str(cell).strip()
        if not answer:
            raise UserError(f"{where}: empty answer; remove the row or fix columns.answer")
    return Prompt(
        id=str(number if columns.id is None else _cell(record, columns.id, where)),
        category=None if columns.category is None else str(_cell(record, columns.category, where)),
        text=text.strip(),
        answer=answer,
        choices=choices,
    )


def _text(record: Record, column: str, where: str) -> str:
    """A column's text, or a format string filled with columns."""
    if column in record or "{" not in column:
        return str(_cell(record, column, where))
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(column) if name is not None]
    except ValueError as error:
        raise UserError(f"{where}: columns.prompt '{column}': {error}") from None
    if "" in fields:
        raise UserError(f"{where}: columns.prompt '{column}': name a column in every {{}}")
    return column.format(**{name: _cell(record, name, where) for name in fields})


def _choices(record: Record, column: str | list[str] | None, where: str) -> tuple[str, ...]:
    if column is None:
        return ()
    if isinstance(column, list):
        return tuple(str(_cell(record, name, where)) for name in column)
    cell = _cell(record, column, where)
    if isinstance(cell, Mapping):  # ARC on the hub: {"text": [...], "label": ["A", ...]}
        cell = cell.get("text")
    if not isinstance(cell, list) or len(cell) < 2:
        raise UserError(f"{where}: column '{column}' must hold a list of at least two choices")
    return tuple(str(choice) for choice in cell)


def _labels(record: Record, column: str | list[str] | None) -> list[str]:
    """The choices' own labels where the source has them (some of ARC's are "1" to "4")."""
    cell = record.get(column) if isinstance(column, str) else None
    return [str(label) for label in cell["label"]] if isinstance(cell, Mapping) else [*_LETTERS]


def _right_choice(cell: Any, choices: tuple[str, ...], labels: list[str], where: str) -> str:
    text = str(cell).strip()
    if text in choices:
        return text
    if text in labels[: len(choices)]:
        return choices[labels.index(text)]
    if text.isdigit() and int(text) < len(choices):
        return choices[int(text)]
    raise UserError(f"{where}: answer '{text}' is no choice's text, letter, or index from 0")


def _cell(record: Record, column: str, where: str) -> Any:
    if column in record and record[column] is None:
        raise UserError(f"{where}: column '{column}' has no value; remove the row or fill it")
    if column not in record:
        raise UserError(f"{where}: no column '{column}'; it has: {', '.join(map(str, record))}")
    return record[column]


def _with_answers(row: SuiteRow, records: list[Record], where: str) -> list[Record]:
    """The records with the answers of a file of its own, where the row names one."""
    if row.answers is None or row.columns.id is None or row.columns.answer is None:
        return records
    try:
        answers = json.loads(Path(row.answers).read_text(encoding="utf-8"))
        found = [answers.get(str(_cell(record, row.columns.id, where))) for record in records]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{where}: answers {row.answers} cannot be read ({error})") from None
    if None in found:
        missing = records[found.index(None)][row.columns.id]
        raise UserError(f"{where}: {row.answers} has no answer to id '{missing}'")
    return [
        {**record, **(answer if isinstance(answer, dict) else {row.columns.answer: answer})}
        for record, answer in zip(records, found, strict=True)
    ]


def _read(row: SuiteRow, where: str) -> list[Record]:
    if not is_local(row.source):
        return _read_hub(row, where)
    path = Path(row.source)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{where}: cannot be read ({error}); check the path") from None
    return _parse(path.suffix, text, where)


def _parse(suffix: str, text: str, where: str) -> list[Record]:
    if suffix == ".txt":
        return [{"prompt": line} for line in text.splitlines() if line.strip()]
    if suffix in {".csv", ".tsv"}:
        delimiter = "\t" if suffix == ".tsv" else ","
        return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
    # Not splitlines(): it also cuts at U+2028, which JSON strings may hold.
    whole = suffix == ".json" and text.lstrip().startswith("[")
    records = []
    for number, part in enumerate([text] if whole else text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            found = json.loads(part)
        except ValueError as error:
            line = "" if whole else f" line {number}"
            raise UserError(f"{where}{line}: not valid JSON ({error})") from None
        records += found if whole else [found]
    if not all(isinstance(record, dict) for record in records):
        raise UserError(f"{where}: every line must be a JSON object")
    return records


def _read_hub(row: SuiteRow, where: str) -> list[Any]:
    import datasets  # seconds to import, and only sets from the hub need it

    try:
        return list(datasets.load_dataset(row.source, row.config, split=row.split))
    except Exception as error:  # the hub client raises dozens of unrelated types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{where}: no such file here, and the hub does not give it ({reason})"
        ) from None
