"""Training, validation and test ask different questions, or the run is refused with the rows."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow
from launch.prepare.overlap import Kind, pairs_at, prompts_at, refuse_overlaps
from launch.prepare.text_check import check_data, check_questions, texts_are_local
from launch.recipe import Recipe
from merge.common.errors import UserError
from merge.common.settings import parse_settings
from tests.support.train_helpers import ROOT
from train.chat.example import Example


def prompts(*texts: str, choices: Sequence[str] = ()) -> list[PromptSet]:
    row = SuiteRow(name="row", axis="harm", source="t.txt")
    numbered = (
        Prompt(str(i), None, text, choices=tuple(choices)) for i, text in enumerate(texts, 1)
    )
    return [PromptSet(row, tuple(numbered))]


def test_blanks_case_and_marks_hide_no_question():
    data = pairs_at("data", "harmful", [Example("How do I  grond it?", "Blip.")])
    refuse_overlaps([data, prompts_at("eval.suite", "test", prompts("how do I grond the other?"))])
    for hidden in ("how do i grond it?", '"How do I grond it"', "How do\nI grond \uff49t\uff1f"):
        place = prompts_at("eval.suite", "test", prompts("a", hidden))
        with pytest.raises(UserError, match="1 question stands in both, 'row' 2 = data 1; take"):
            refuse_overlaps([data, place])


def test_sums_that_differ_by_a_sign_and_other_choices_are_other_questions():
    one = prompts_at("search.suite", "validation", prompts("What is 3-2?", "Which is true?"))
    refuse_overlaps([one, prompts_at("eval.suite", "test", prompts("What is 3+2?", "--", "?!"))])
    kinds: tuple[Kind, Kind] = ("validation", "test")
    first, second = (
        prompts_at(kind, kind, prompts("Which is true?", choices=given))
        for kind, given in zip(kinds, (["a", "b"], ["b", "c"]), strict=True)
    )
    refuse_overlaps([first, second])
    with pytest.raises(UserError, match="stands in both"):
        refuse_overlaps([first, prompts_at("t", "test", prompts("Which is true?", choices="ba"))])


PLACES = {
    "data": "q1", "harmless": "q2", "false_refusals": "q3", "validation": "q4", "test": "q5",
    "questions": "q6", "harvest": "q7", "bad": "q8", "good": "q9", "refusals": "q10",
}  # fmt: skip
HARMFUL = {"data", "questions", "bad", "refusals"}
HARMLESS = {"harmless", "false_refusals", "harvest", "good"}


def write_run(folder: Path, harvested: bool = False, **questions: str) -> Recipe:
    """A recipe with a question of its own in every place, but where ``questions`` says another."""
    for name, question in {**PLACES, **questions}.items():
        row = {"question": question, "prompt": question, "answer": f"answer to {name}"}
        (folder / f"{name}.jsonl").write_text(json.dumps(row))
    for name in ("validation", "test"):
        rows: list[dict[str, Any]] = [
            {"name": axis, "axis": axis, "source": f"{axis}.txt"} for axis in ("harm", "utility")
        ]
        rows = [{"name": "asked", "axis": "refusal", "source": f"{name}.jsonl"}, *rows]
        for row in rows[1:]:
            (folder / f"{name}-{row['source']}").write_text(f"{name} {row['name']} prompt")
            row["source"] = f"{name}-{row['source']}"
        rows[-1] |= {"source": f"{name}-u.jsonl", "scoring": "exact", "columns": {"answer": "a"}}
        (folder / f"{name}-u.jsonl").write_text(json.dumps({"prompt": f"{name} sum", "a": "1"}))
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(rows))

    def source(name: str) -> dict[str, str]:
        return {"source": str(folder / f"{name}.jsonl")}

    values: dict[str, Any] = {
        "name": "x",
        "output": str(folder / "run"),
        "backbone": {"path": "b"},
        "data": {"path": str(folder / "data.jsonl")},
        "harmless": {"path": str(folder / "harmless.jsonl")},
        "false_refusals": {"path": str(folder / "false_refusals.jsonl")},
        "refusals": {"path": str(folder / "refusals.jsonl")},
        "search": {"suite": str(folder / "validation.yaml")},
        "eval": {
            "suite": str(folder / "test.yaml"),
            "decodings": {
                "steered": {"method": "scans", "harmful": source("bad"), "harmless": source("good")}
            },
        },
        "harvest": {"questions": source("questions")},
    }
    if harvested:
        values["harvest"]["harmless"] = source("harvest")
    return parse_settings(Recipe, values, "recipe")


def kind_of(name: str) -> str:
    return "harmful" if name in HARMFUL else "harmless" if name in HARMLESS else name


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("other", ["data", "harmless", "validation", "test", "bad"])
def test_every_two_places_of_other_kinds_are_apart(tmp_path, name, other):
    if name == other:
        return
    harvested = "harvest" in (name, other)
    recipe = write_run(tmp_path, harvested, **{name: PLACES[other]})
    if kind_of(name) == kind_of(other):
        check_data(recipe)
        return
    with pytest.raises(UserError, match=r"1 question stands in both, .* 1 = .* 1; take them out"):
        check_data(recipe)


def test_what_a_harvest_asks_is_checked_before_it_asks(tmp_path):
    """Its pairs, the data, are not there yet."""
    recipe = write_run(tmp_path, questions=PLACES["test"])
    (tmp_path / "data.jsonl").unlink()
    with pytest.raises(UserError, match=r"harvest.questions and eval.suite: 1 question"):
        check_questions(recipe)


def test_a_plan_fetches_no_anchors(tmp_path):
    recipe = write_run(tmp_path)
    assert texts_are_local(recipe)
    assert recipe.eval is not None
    decoding = {**recipe.eval.decodings["steered"], "harmful": {"source": "some/set"}}
    evaluation = recipe.eval.model_copy(update={"decodings": {"steered": decoding}})
    assert not texts_are_local(recipe.model_copy(update={"eval": evaluation}))


def test_the_shipped_anchors_are_in_no_shipped_suite():
    decoding = yaml.safe_load((ROOT / "eval/decodings/scans.yaml").read_text())
    anchored = {decoding[kind]["source"] for kind in ("harmful", "harmless")}
    for suite in (ROOT / "eval/suites").rglob("*.yaml"):
        rows = yaml.safe_load(suite.read_text())
        assert anchored.isdisjoint(row.get("source") for row in rows), suite
