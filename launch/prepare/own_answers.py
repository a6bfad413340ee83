"""What a model answers to questions that a recipe names: kept on disk, for its owner alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from eval.answering.completions import FILE_NAME, CompletionRecord, read_completions
from eval.run import RunJob, run
from eval.suites.suite import Suite, suite_from_rows
from launch.recipe import Recipe
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from train.chat.chat_settings import ChatSettings

PRIVATE_FILE = 0o600


def question_suite(recipe: Recipe, section: str, *questions: dict[str, Any]) -> Suite:
    """The suite of rows that a recipe's section writes without name and axis.

    Raises:
        UserError: a row has a mistake.
    """
    names = ("questions" + (f" {number + 1}" if number else "") for number in range(len(questions)))
    rows = [
        {"name": name, "axis": "harm", **row} for name, row in zip(names, questions, strict=True)
    ]
    data_dir = recipe.evaluation.data_dir
    return suite_from_rows(rows, f"recipe, {section}", Path.cwd(), data_dir)


def own_answers(
    recipe: Recipe,
    model: Path,
    section: str,
    questions: dict[str, Any] | Sequence[dict[str, Any]],
    folder: Path,
    chat: ChatSettings,
    harm_judge: Path | None = None,
) -> list[CompletionRecord]:
    """Ask a model, greedily; answers that ``folder`` holds from an earlier try stay.

    The rules judge refusals, whoever judges the evaluation: data must not change with the judge.

    Args:
        section: where in the recipe the questions stand, for errors.
        questions: a row of an evaluation suite, or several, without name and axis.
        folder: made with mode 0700.
        chat: how the model is asked.
        harm_judge: a judge file; by default there is no harm judge.

    Returns:
        The answers with their judgements, as in completions.jsonl, without their reasoning.

    Raises:
        UserError: a source is missing, or the row has a mistake.
    """
    rows = [questions] if isinstance(questions, dict) else questions
    suite = question_suite(recipe, section, *rows)
    settings = recipe.evaluation.model_copy(
        update={
            "reasoning": chat.reasoning,
            "date": chat.date,
            "harm_judge": harm_judge,
            "refusal_judge": "rules",
        }
    )
    make_directory(folder, PRIVATE_FOLDER)
    suite_file = folder / "suite.yaml"
    atomic_write_text(
        suite_file, yaml.safe_dump([row.model_dump(exclude_none=True) for row in suite.rows])
    )
    run(RunJob(model, suite_file, folder, settings=settings))
    return [_without_reasoning(record) for record in read_completions(folder / FILE_NAME)]


def _without_reasoning(record: CompletionRecord) -> CompletionRecord:
    judged = record["answer"]
    return record if judged is None else {**record, "completion": judged}
