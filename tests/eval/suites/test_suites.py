"""The shipped suites and the reading of sources."""

import json
from collections import Counter
from pathlib import Path

import pytest

from eval.suites.prompts import load_prompts
from eval.suites.scoring import is_correct
from eval.suites.suite import Suite, SuiteRow, load_suite, suite_from_rows
from merge.common.errors import UserError


@pytest.mark.parametrize("path", sorted(Path("eval/suites").rglob("*.yaml")))
def test_shipped_suites_are_valid_and_cover_the_three_axes(path: Path):
    suite = load_suite(path, Path("data"))
    assert {row.axis for row in [*suite.rows, *suite.tasks]} >= {"harm", "refusal", "utility"}


@pytest.mark.slow
def test_the_tasks_of_the_paper_are_known_to_lm_eval():
    """By name; their data are on the hub."""
    from eval.suites.lm_eval_tasks import _manager

    tasks = [task.task for task in load_suite(Path("eval/suites/paper.yaml"), Path("data")).tasks]
    assert len(tasks) == 7
    assert set(tasks) <= set(_manager(None).all_tasks)


@pytest.mark.parametrize(
    ("completion", "answer", "scoring", "right"),
    [
        ("The answer is 12.", "2", "contains", False),
        ("it is 2 , I think", "2", "contains", True),
        ("  Red. ", "red", "exact", True),
        ("red vask", "red", "exact", False),
        ("3 + 4 = 7, so 1,007 eggs.", "we get #### 1007", "final_number", True),
        ("7 eggs, or 8", "7", "final_number", False),
        ("none", "7", "final_number", False),
    ],
)
def test_scoring(completion: str, answer: str, scoring: str, right: bool):
    assert is_correct(completion, answer, scoring) is right


@pytest.mark.parametrize(
    ("choices", "answer", "right"),
    [
        (["red", "blue"], 1, "blue"),
        (["red", "blue"], "B", "blue"),
        (["red", "blue"], "blue", "blue"),
        ({"text": ["red", "blue"], "label": ["1", "2"]}, "1", "red"),
        ({"text": ["red", "blue"], "label": ["1", "2"]}, 2.0, "blue"),
        (["red", "blue"], 0.0, "red"),
        (["red", "blue"], "b", "blue"),
        (["False", "True"], False, "False"),
        ([True, False], "FALSE", "false"),
        ([3, 4], 3.0, "3"),
        ('["red", "blue"]', 1, "blue"),
    ],
)
def test_the_right_choice_by_index_letter_text_or_own_label(tmp_path, choices, answer, right):
    source = tmp_path / "s.jsonl"
    source.write_text(json.dumps({"prompt": "colour?", "c": choices, "a": answer}))
    row = SuiteRow.model_validate(
        {
            "name": "s",
            "axis": "utility",
            "source": str(source),
            "scoring": "choice",
            "columns": {"choices": "c", "answer": "a"},
        }
    )
    assert load_prompts(Suite(rows=[row]))[0].prompts[0].answer == right


NUMBERS = ["1", "2", "3", "4"]


def _choice_keys(folder: Path, rows: list[tuple[list[str], object]]) -> list[str | None]:
    """The right choices of a set of (choices, answer)."""
    records = [{"prompt": "colour?", "c": choices, "a": answer} for choices, answer in rows]
    (folder / "s.json").write_text(json.dumps(records))
    row = {"name": "s", "axis": "utility", "source": "s.json", "scoring": "choice"}
    row |= {"columns": {"choices": "c", "answer": "a"}}
    prompts = load_prompts(suite_from_rows([row], "test", folder))[0].prompts
    return [prompt.answer for prompt in prompts]


@pytest.mark.parametrize(
    ("rows", "right"),
    [
        # MMLU's form, with the index as a number or as a text, and with letters.
        ([(NUMBERS, 2), (["red", "blue"], 1)], ["3", "blue"]),
        ([(NUMBERS, "2"), (["red", "blue"], "1")], ["3", "blue"]),
        ([(["C", "B", "A"], "A"), (["red", "blue"], "B")], ["C", "blue"]),
        # An answer that is neither makes all of them texts.
        ([(NUMBERS, "2"), (["red", "blue"], "blue")], ["2", "blue"]),
        ([(NUMBERS, "2"), (["3", "4"], "4")], ["2", "4"]),
        # A number is an index whatever the texts beside it are.
        ([(NUMBERS, 2), (["red", "blue"], "blue")], ["3", "blue"]),
    ],
)
def test_the_answers_of_a_set_are_read_alike(tmp_path: Path, rows, right):
    """A choice's text may look like an index or a letter by chance; no key may change by that."""
    assert _choice_keys(tmp_path, rows) == right


def test_answers_that_no_one_way_reads_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"row 2: answer 'blue' .* row 1, 'A', .* in one way"):
        _choice_keys(tmp_path, [(["red", "blue"], "A"), (["red", "blue"], "blue")])


@pytest.mark.parametrize("answer", ["\u00b2", "\u2460", "2", "0.5", "-1", "nan", True])
def test_an_answer_that_is_no_choice_is_told_with_its_row(tmp_path: Path, answer):
    source = tmp_path / "s.jsonl"
    source.write_text(json.dumps({"prompt": "colour?", "c": ["red", "blue"], "a": answer}))
    row = {"name": "s", "axis": "utility", "source": "s.jsonl", "scoring": "choice"}
    row |= {"columns": {"choices": "c", "answer": "a"}}
    with pytest.raises(UserError, match=r"row 1: answer .* is no choice"):
        load_prompts(suite_from_rows([row], "test", tmp_path))


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        (1, [0, 1, 2, 3, 4]),
        (True, [0, 1, 2, 3, 4]),
        ("1", [0, 1, 2, 3]),
        (1.5, [5]),
        ("x", [7]),
        ([1.5, "x"], [5, 7]),
    ],
)
def test_a_filter_knows_a_value_however_it_is_written(tmp_path: Path, wanted, kept):
    """Texts are compared letter by letter: "01" and "X" are names of their own. One of several
    values is enough."""
    values = [1, 1.0, "1", True, "TRUE", 1.5, "01", "x", "X"]
    rows = [{"prompt": str(number), "k": value} for number, value in enumerate(values)]
    (tmp_path / "s.json").write_text(json.dumps(rows))
    row = {"name": "s", "axis": "harm", "source": "s.json", "filter": {"k": wanted}}
    prompts = load_prompts(suite_from_rows([row], "test", tmp_path))[0].prompts
    assert [int(prompt.text) for prompt in prompts] == kept


def test_answers_that_are_kept_apart_come_by_id(tmp_path: Path):
    """SafetyBench's form; an answer that is missing is named."""
    records = [{"id": n, "prompt": "grond?", "c": ["yes", "no"]} for n in (2, 7)]
    (tmp_path / "s.json").write_text(json.dumps(records))
    answers = {"2": {"a": 1}, "7": {"a": 0}, "9": {"a": 1}}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    row = {"name": "s", "axis": "safety", "source": "s.json", "answers": "answers.json"}
    row |= {"scoring": "choice", "columns": {"choices": "c", "answer": "a", "id": "id"}}
    suite = suite_from_rows([row], "test", tmp_path)
    assert [prompt.answer for prompt in load_prompts(suite)[0].prompts] == ["no", "yes"]
    (tmp_path / "answers.json").write_text("{}")
    with pytest.raises(UserError, match="no answer to id '2'"):
        load_prompts(suite)


def test_parts_of_a_shuffled_set_are_alike_and_never_meet(tmp_path: Path):
    """A set sorted by category would give validation and test other categories."""
    source = tmp_path / "sorted.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": f"p{n}", "kind": n // 50}) + "\n" for n in range(200))
    )
    parts = []
    for rows in ("0%:40%", "40%:100%"):
        row = {"name": "s", "axis": "harm", "source": str(source), "rows": rows, "shuffle": 3}
        settings = SuiteRow.model_validate({**row, "columns": {"category": "kind"}})
        parts.append(load_prompts(Suite(rows=[settings]))[0].prompts)
    first, second = ({prompt.text for prompt in part} for part in parts)
    assert len(first) == 80 and len(second) == 120
    assert not first & second
    # The hypergeometric mean is 20 of each kind, its deviation 3.0.
    counts = Counter(prompt.category for prompt in parts[0])
    assert len(counts) == 4 and all(10 <= count <= 30 for count in counts.values())
