"""Finished evaluations as a comparison reads them: comparable, and their answers in one order."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from eval.answering.completions import FILE_NAME, read_completions
from eval.rates import Completion
from eval.report.judge_errors import refusal_rule
from eval.statistics.summary import SUMMARY_NAME, Summary
from eval.suites.answers import AnswerId
from merge.common.errors import UserError
from merge.common.files import read_json

_COUNTED_BY = ("axis", "attack")
"""Keys of a suite's summary that say on which axis an answer counts."""
_SCORED_BY = ("scoring", "max_new_tokens", "task", "metric", "few_shots", "chat_template")
"""Keys of a suite's row that decide which answer is right, beside the prompts."""


def read_summary(directory: Path) -> Summary:
    """The summary of a finished evaluation.

    Raises:
        UserError: there is none, or it lacks what a comparison needs.
    """
    path = directory / SUMMARY_NAME
    if not path.is_file():
        raise UserError(
            f"{directory}: no {SUMMARY_NAME}; run `python -m eval run --out {directory}` to its end"
        )
    summary = read_json(path)
    missing = {"name", "axes", "suites", "prompts_sha256", "harm_rule"} - summary.keys()
    if missing:
        raise UserError(f"{path}: has no '{min(missing)}'; run the evaluation again")
    return cast(Summary, summary)


def read_answers(directory: Path, summary: Summary) -> list[Completion]:
    """The judged answers of a finished evaluation, in the order of its suite.

    Args:
        summary: of the same evaluation.

    Raises:
        UserError: the file is missing or broken, an answer in it is not judged, or it has not the
            answers that the summary counted.
    """
    path = directory / FILE_NAME
    # Older versions wrote no such keys.
    older: dict[str, Any] = dict.fromkeys(("answer", "margin", "attack", "goal", "prefix"))
    lines = [older | {**record} for record in read_completions(path)]
    names = [field.name for field in fields(Completion)]
    try:
        answers = [Completion(**{name: line[name] for name in names}) for line in lines]
    except KeyError as error:
        raise UserError(f"{path}: a line has no {error}; run the evaluation again") from None
    there = Counter(answer.suite for answer in answers)
    counted = {name: suite["n"] for name, suite in summary["suites"].items()}
    for name in sorted(there.keys() | counted.keys()):
        if there[name] != counted.get(name, 0):
            raise UserError(
                f"{path}: has {there[name]} answers of suite '{name}', but {SUMMARY_NAME} counted "
                f"{counted.get(name, 0)}; run the evaluation again"
            )
    return answers


def in_one_order(
    answers: Mapping[str, Sequence[Completion]], first: str
) -> dict[str, list[Completion]]:
    """The answers of every model in the order of the first one's, so that equal places are pairs.

    Args:
        answers: by model; ``check_comparable`` holds for their summaries.
        first: the model whose order the others get.

    Raises:
        UserError: a model has no answer to a prompt that another one answered.
    """
    order = [_id(answer) for answer in answers[first]]
    return {name: _ordered(name, given, first, order) for name, given in answers.items()}


def _ordered(
    name: str, given: Sequence[Completion], first: str, order: Sequence[AnswerId]
) -> list[Completion]:
    by_id = {_id(answer): answer for answer in given}
    for one, other, absent in (
        (name, first, set(order) - by_id.keys()),
        (first, name, by_id.keys() - set(order)),
    ):
        if absent:
            suite, prompt = min(absent)
            raise UserError(
                f"'{one}' has no answer to prompt '{prompt}' of suite '{suite}', which '{other}' "
                "has; run its evaluation again"
            )
    return [by_id[each] for each in order]


def _id(answer: Completion) -> AnswerId:
    return answer.suite, answer.id


def check_comparable(summaries: Mapping[str, Summary]) -> None:
    """See that all models were asked and judged alike.

    Summaries of older versions do not say everything: what one does not say is not compared.

    Raises:
        UserError: two had other prompts, right answers, ways of scoring, judges or openings.
    """
    first, *others = summaries
    for name in others:
        if summaries[name]["prompts_sha256"] != summaries[first]["prompts_sha256"]:
            raise UserError(
                f"'{first}' and '{name}' answered different prompts; run both with one suite"
            )
        _check_scored_alike(summaries, first, name)
        _check_judge_files(summaries, first, name)
        if summaries[name]["harm_rule"] != summaries[first]["harm_rule"]:
            raise UserError(
                f"'{first}' and '{name}' had different harm judges; run both with one --harm-judge"
            )
        if refusal_rule(summaries[name]) != refusal_rule(summaries[first]):
            raise UserError(
                f"'{first}' and '{name}' had different refusal judges; run both with one "
                "--refusal-judge"
            )
    _check_openings(summaries)


def _check_scored_alike(summaries: Mapping[str, Summary], first: str, name: str) -> None:
    one, other = summaries[first], summaries[name]
    for suite, known in _suite_settings(one).items():
        there = _suite_settings(other).get(suite, {})
        for key in known.keys() & there.keys():
            if known[key] != there[key]:
                raise UserError(
                    f"'{first}' and '{name}' answered suite '{suite}' with different {key} "
                    f"({known[key]} and {there[key]}); run both with one suite file"
                )
    wanted = {summary["wanted_sha256"] for summary in (one, other) if "wanted_sha256" in summary}
    if len(wanted) > 1:
        raise UserError(
            f"'{first}' and '{name}' had other right answers, choices or goals to the same "
            "prompts; run both with one suite and one state of its files"
        )


def _suite_settings(summary: Summary) -> dict[str, dict[str, Any]]:
    """By suite what decides how an answer counts, as far as the summary says it."""
    rows = {row["name"]: row for row in summary.get("settings", {}).get("suite", [])}
    settings: dict[str, dict[str, Any]] = {}
    for name, suite in summary["suites"].items():
        row = rows.get(name, {})
        # A choice has no length.
        ignored = "max_new_tokens" if row.get("scoring") == "choice" else None
        settings[name] = {key: suite.get(key) for key in _COUNTED_BY}
        settings[name] |= {key: row[key] for key in _SCORED_BY if key in row and key != ignored}
    return settings


def _check_judge_files(summaries: Mapping[str, Summary], first: str, name: str) -> None:
    """See that one judge was asked and read in one way; older summaries do not say."""
    before, after = (summaries[each].get("judge_settings", {}) for each in (first, name))
    for role in before.keys() & after.keys():
        if before[role] != after[role]:
            raise UserError(
                f"'{first}' and '{name}' had one {role} judge with different settings in its "
                f"file; run both again with one --{role}-judge"
            )


def _check_openings(summaries: Mapping[str, Summary]) -> None:
    by_model = {name: summary.get("openings") for name, summary in summaries.items()}
    measured = {
        name: openings["tokens"]
        for name, openings in by_model.items()
        if openings and openings["tokens"]
    }
    for name, tokens in measured.items():
        first = next(iter(measured))
        if tokens != measured[first]:
            raise UserError(
                f"the margins of '{first}' and '{name}' are of different refusal openings; run "
                "both with one --openings"
            )
