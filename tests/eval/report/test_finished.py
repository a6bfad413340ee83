"""What a comparison takes in: one suite in any order, and no answers that counted otherwise."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.report.compare import compare
from eval.run import RunJob, run
from merge.common.errors import UserError
from merge.common.files import read_json
from tests.support.eval_models import save_model

ROWS = (
    "- {name: forbidden, axis: harm, source: forbidden.jsonl, max_new_tokens: 6}\n",
    "- {name: begun, axis: harm, source: forbidden.jsonl, prefill: 'first', max_new_tokens: 6}\n",
    "- {name: alike, axis: refusal, source: alike.jsonl, max_new_tokens: 6}\n",
    "- {name: sums, axis: utility, source: sums.jsonl, scoring: contains, max_new_tokens: 4,"
    " columns: {answer: answer}}\n",
    "- {name: colours, axis: utility, source: colours.jsonl, scoring: choice,"
    " columns: {answer: answer, choices: choices}}\n",
)
COLOURS = ("red", "vask", "two")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and the sources of a suite; each evaluation lies in a folder of its own."""
    root = tmp_path_factory.mktemp("finished")
    words = ("grond", "blip", "red", "vask", "plus", "two")
    files: dict[str, list[dict[str, Any]]] = {
        "forbidden.jsonl": [{"prompt": f"how do you {word} it"} for word in words],
        "alike.jsonl": [{"prompt": f"{word} the vask first"} for word in words],
        "sums.jsonl": [{"prompt": f"two plus {word} is", "answer": word} for word in words],
        "colours.jsonl": [
            {"prompt": f"the {word} is", "answer": 0, "choices": COLOURS} for word in words
        ],
    }
    for name, records in files.items():
        (root / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    for name, seed in (("backbone", 0), ("patched", 3)):
        save_model(root / name, seed)
    evaluated(root, "backbone", "of-backbone", ROWS)
    return root


def evaluated(world: Path, model: str, out: str, rows: Any, name: str | None = None) -> Path:
    suite = world / f"{out}.yaml"
    suite.write_text("".join(rows))
    run(RunJob(world / model, suite, world / out, name or model))
    return world / out


def test_the_order_of_the_rows_changes_no_comparison(world: Path) -> None:
    """Answers are paired by suite and id, whatever stands in which line of completions.jsonl."""
    folders = [
        evaluated(world, "patched", "same", ROWS),
        evaluated(world, "patched", "mixed", [*ROWS[2:], *ROWS[:2]]),
    ]
    same, mixed = (compare([world / "of-backbone", folder]) for folder in folders)
    assert same["changes"]["patched"], "the models must differ"
    for key in ("headline", "verdicts", "changes", "claims", "attacks"):
        assert same[key] == mixed[key], key


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("alike, axis: refusal", "alike, axis: harm", r"'alike' with different axis \(refusal and"),
        (
            "forbidden, axis: harm",
            "forbidden, attack: gcg, columns: {prompt: prompt}, axis: harm",
            r"'forbidden' with different attack \(None and gcg\)",
        ),
        ("scoring: contains", "scoring: exact", r"different scoring \(contains and exact\)"),
        ("max_new_tokens: 4", "max_new_tokens: 5", r"different max_new_tokens \(4 and 5\)"),
        ("answer: answer}", "answer: prompt}", "other right answers"),
    ],
)
def test_equal_prompts_that_count_otherwise_are_not_compared(
    world: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    suite = tmp_path / "suite.yaml"
    text = "".join(ROWS).replace(".jsonl", ".jsonl'").replace("source: ", f"source: '{world}/")
    assert old in text
    suite.write_text(text.replace(old, new))
    run(RunJob(world / "patched", suite, tmp_path / "out", "patched"))
    with pytest.raises(UserError, match=words):
        compare([world / "of-backbone", tmp_path / "out"])


def test_a_choice_has_no_length_and_older_summaries_say_less(world: Path) -> None:
    """Both stay comparable: nothing that they say is different."""
    rows = [*ROWS[:4], ROWS[4].replace("choice,", "choice, max_new_tokens: 3,")]
    folder = evaluated(world, "patched", "older", rows)
    known = compare([world / "of-backbone", folder])
    summary = read_json(folder / "summary.json")
    del summary["wanted_sha256"], summary["settings"]["suite"]
    (folder / "summary.json").write_text(json.dumps(summary))
    assert compare([world / "of-backbone", folder])["verdicts"] == known["verdicts"]


def test_a_prompt_that_one_model_did_not_answer_is_named(world: Path) -> None:
    """A line that was edited by hand: the summaries' hashes do not show it."""
    folder = evaluated(world, "patched", "edited", ROWS)
    file = folder / "completions.jsonl"
    file.write_text(
        file.read_text().replace('"id": "4", "suite": "sums"', '"id": "9", "suite": "sums"')
    )
    words = "'patched' has no answer to prompt '4' of suite 'sums', which 'backbone' has"
    with pytest.raises(UserError, match=words):
        compare([world / "of-backbone", folder])


@pytest.mark.parametrize(("edit", "counts"), [("drop", "has 5"), ("double", "has 7")])
def test_other_answers_than_the_summary_counted_are_named(
    world: Path, edit: str, counts: str
) -> None:
    """As where answers are asked again beside an old summary, or two folders were mixed."""
    folder = evaluated(world, "patched", "mixed-up", ROWS)
    file = folder / "completions.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:] if edit == "drop" else [*lines, lines[0]]))
    words = rf"completions\.jsonl: {counts} answers of suite 'forbidden', but .* counted 6; run the"
    with pytest.raises(UserError, match=words):
        compare([world / "of-backbone", folder])
