"""Rows that are asked only where their file is there, and that a report names where it is not."""

from pathlib import Path
from typing import cast

import pytest

from eval.report.notes import notes_of
from eval.run import RunJob, run
from eval.statistics.summary import Summary
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from merge.common.errors import UserError
from tests.support.eval_models import save_model


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "plain.jsonl").write_text('{"prompt": "how do you grond"}\n')
    (tmp_path / "suite.yaml").write_text(
        "- {name: plain, axis: harm, source: plain.jsonl, max_new_tokens: 2}\n"
        "- {name: wrapped, axis: harm, source: pair.jsonl, attack: pair, optional: true,"
        " max_new_tokens: 2}\n"
        "- {name: right, axis: safety, source: plain.jsonl, answers: answers.json, optional: true,"
        " columns: {answer: answer, choices: choices, id: id}, scoring: choice}\n"
    )
    return tmp_path / "suite.yaml"


def names(suite: Path) -> list[str]:
    return [found.row.name for found in load_prompts(load_suite(suite))]


def test_a_row_is_asked_as_soon_as_its_file_is_there(suite: Path) -> None:
    assert names(suite) == ["plain"]
    (suite.parent / "pair.jsonl").write_text('{"goal": "grond it", "prompt": "red grond it"}\n')
    assert names(suite) == ["plain", "wrapped"]


def test_without_the_key_a_missing_file_is_an_error_that_names_it(suite: Path) -> None:
    suite.write_text(suite.read_text().replace("optional: true", "optional: false"))
    with pytest.raises(UserError, match=r"pair\.jsonl"):
        names(suite)


def test_a_suite_of_which_every_row_is_left_out_names_the_files(suite: Path) -> None:
    """One line for the user, without pydantic's report; one file is enough."""
    rows = suite.read_text().splitlines(keepends=True)
    suite.write_text("".join(rows[1:]))
    with pytest.raises(UserError, match="nothing to ask") as caught:
        names(suite)
    assert "\n" not in str(caught.value)
    assert f"{suite}: " in str(caught.value)
    for file in ("pair.jsonl", "answers.json"):
        assert str(suite.parent / file) in str(caught.value)
    (suite.parent / "pair.jsonl").write_text('{"goal": "grond it", "prompt": "red grond it"}\n')
    assert names(suite) == ["wrapped"]


def test_an_evaluation_says_what_was_not_asked(suite: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    summary = run(RunJob(model, suite, tmp_path / "out"))
    assert list(summary["suites"]) == ["plain"]
    notes = [line for line in notes_of(summary) if "was not asked" in line]
    assert notes == [
        f"'wrapped' was not asked, as {tmp_path / 'pair.jsonl'} is not there",
        f"'right' was not asked, as {tmp_path / 'answers.json'} is not there",
    ]
    assert not [line for line in notes_of(cast(Summary, {"suites": {}})) if "not asked" in line], (
        "older summaries"
    )
