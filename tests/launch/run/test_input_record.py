"""A file that is edited under its old name is no longer what a run was made of (issue 15)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.run.input_record import FILE
from merge.common.errors import UserError
from merge.common.settings import parse_settings

PROJECT = Path(__file__).parents[3]
HARM = "- {name: jars, axis: harm, source: jars.txt}\n"
DONE = (
    "safety/patch.json", "over_safety/patch.json", "search/search.json", "patched/merge.json",
    "eval/safety/summary.json", "report/report.json",
)  # fmt: skip


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """One whose run is done, with all inputs in a folder beside it."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "pairs.jsonl").write_text('{"question": "may I glorp?", "answer": "glorp away"}\n')
    (inputs / "jars.txt").write_text("how do I lid a jar?\n")
    (inputs / "lids.txt").write_text("lid this jar\n")
    (inputs / "test.yaml").write_text(HARM)
    (inputs / "validation.yaml").write_text(HARM.replace("jars.txt", "lids.txt"))
    values: dict[str, Any] = {
        "name": "x",
        "output": str(tmp_path / "run"),
        "backbone": {"path": "some/model"},
        "data": {"path": str(inputs / "pairs.jsonl")},
        "search": {"suite": str(inputs / "validation.yaml")},
        "eval": {"suite": str(inputs / "test.yaml")},
    }
    recipe = parse_settings(Recipe, values, "recipe")
    claim_folder(recipe)
    for name in DONE:
        file = recipe.output / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return recipe


def edit(recipe: Recipe, name: str) -> None:
    file = recipe.output.parent / "inputs" / name
    file.write_text(file.read_text().replace("jar", "big jar").replace("glorp", "glump"))


def left(recipe: Recipe) -> set[str]:
    return {name for name in DONE if (recipe.output / name).is_file()}


def test_other_published_numbers_make_the_report_anew_and_nothing_else(recipe: Recipe) -> None:
    """The paper's table changes; no model is asked again."""
    file = recipe.output.parent / "inputs" / "published.yaml"
    file.write_text("moss: {title: jar, source: a leaf}\n")
    table: dict[str, Any] = {"backbone": "moss", "published": str(file)}
    values = recipe.model_dump(exclude_none=True)
    values["eval"] |= {"paper_table": table}
    recipe = parse_settings(Recipe, values, "recipe")
    claim_folder(recipe)
    (recipe.output / "report/report.json").write_text("{}")
    edit(recipe, "published.yaml")
    claim_folder(recipe)
    assert left(recipe) == {*DONE} - {"report/report.json"}


def _with(recipe: Recipe, **evaluation: Any) -> Recipe:
    """The same run with more keys in its section eval, claimed, and done once more."""
    values = recipe.model_dump(exclude_none=True)
    values["eval"] |= evaluation
    recipe = parse_settings(Recipe, values, "recipe")
    for name in DONE:  # a search by other judges would be refused
        (recipe.output / name).unlink()
    claim_folder(recipe)
    for name in DONE:
        (recipe.output / name).write_text("{}")
    return recipe


@pytest.mark.parametrize(
    ("key", "files"),
    [
        ("agreement", {"report/report.json"}),
        ("mt_bench", {"eval/safety/summary.json", "report/report.json"}),
    ],
)
def test_an_edited_measurement_or_question_makes_what_reads_it_anew(
    recipe: Recipe, key: str, files: set[str]
) -> None:
    file = recipe.output.parent / "inputs" / "measured.json"
    file.write_text('{"jar": 1}')
    value: Any = {"questions": str(file), "judge": "a/model"} if key == "mt_bench" else str(file)
    recipe = _with(recipe, **{key: value})
    edit(recipe, "measured.json")
    claim_folder(recipe)
    assert left(recipe) == {*DONE} - files


@pytest.mark.parametrize("key", ["harm_judge", "refusal_judge"])
def test_an_edited_judge_is_another_judge(recipe: Recipe, key: str) -> None:
    """Trials of a search were judged by the file as it was, and verdicts cost hours."""
    file = recipe.output.parent / "inputs" / "judge.yaml"
    file.write_text("{kind: guard, model: m, template: 'jar {completion}'}")
    recipe = _with(recipe, **{key: str(file)})
    edit(recipe, "judge.yaml")
    with pytest.raises(UserError, match=rf"the content of 'eval\.{key}' changed .*search"):
        claim_folder(recipe)
    for name in ("search/search.json", "patched/merge.json"):
        (recipe.output / name).unlink()
    claim_folder(recipe)
    assert left(recipe) == {"safety/patch.json", "over_safety/patch.json"}


def test_a_shipped_judge_is_recorded_and_the_rules_are_no_file(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path counts from the project; a file named rules beside the command is none."""
    monkeypatch.chdir(tmp_path)
    Path("rules").write_text("jar")
    _with(recipe, harm_judge="eval/judges/longformer.yaml", refusal_judge="rules")
    recorded = json.loads((recipe.output / FILE).read_text())
    shipped = PROJECT / "eval/judges/longformer.yaml"
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    assert recorded["eval.harm_judge"] == hashlib.sha256(digest.encode()).hexdigest()
    assert "eval.refusal_judge" not in recorded


def test_edited_questions_of_a_decoding_are_asked_anew(recipe: Recipe) -> None:
    """Rows that stand in the recipe itself, of which one file is missing for a while."""
    inputs = recipe.output.parent / "inputs"
    rows = {kind: {"source": str(inputs / f"{kind}.txt")} for kind in ("harmful", "harmless")}
    for kind in rows:
        (inputs / f"{kind}.txt").write_text(f"a {kind} jar?\n")
    recipe = _with(recipe, decodings={"steered": {"method": "scans", **rows}})
    summary = recipe.output / "eval/steered/summary.json"
    summary.parent.mkdir()
    summary.write_text("{}")
    (inputs / "harmful.txt").rename(inputs / "away")
    claim_folder(recipe)
    (inputs / "away").rename(inputs / "harmful.txt")
    claim_folder(recipe)
    assert summary.is_file()
    edit(recipe, "harmless.txt")
    claim_folder(recipe)
    assert not summary.is_file()


def test_the_same_content_leaves_everything(recipe: Recipe) -> None:
    for file in (recipe.output.parent / "inputs").iterdir():
        file.write_bytes(file.read_bytes())  # another date
    claim_folder(recipe)
    assert left(recipe) == set(DONE)


@pytest.mark.parametrize("name", ["test.yaml", "jars.txt"])
def test_an_edited_test_suite_is_asked_again(recipe: Recipe, name: str) -> None:
    """Whether the suite's own file or the prompts that it names: models and patches stay."""
    edit(recipe, name)
    claim_folder(recipe)
    assert left(recipe) == set(DONE) - {"eval/safety/summary.json", "report/report.json"}


def test_what_cannot_be_asked_again_is_not_given_up(recipe: Recipe) -> None:
    """With a deleted patch go the models that were compared; their rates must not go unasked."""
    (recipe.output / "over_safety/patch.json").unlink()
    edit(recipe, "test.yaml")
    with pytest.raises(UserError, match=r"'eval\.suite' changed .* delete .*eval/safety/summary"):
        claim_folder(recipe)
    (recipe.output / "eval/safety/summary.json").unlink()
    claim_folder(recipe)
    assert left(recipe) == {"safety/patch.json", "search/search.json", "patched/merge.json"}


@pytest.mark.parametrize(
    ("name", "key", "named"),
    [
        ("pairs.jsonl", "data.path", {"safety", "over_safety", "search", "patched"}),
        ("lids.txt", "search.suite", {"search", "patched"}),
    ],
)
def test_what_was_made_of_other_content_is_named(
    recipe: Recipe, name: str, key: str, named: set[str]
) -> None:
    edit(recipe, name)
    for _ in range(2):  # a refused attempt records nothing
        with pytest.raises(UserError, match=f"the content of '{key}' changed since") as error:
            claim_folder(recipe)
    words = str(error.value).partition("delete ")[2].partition(", or choose")[0]
    folders = words.replace(" and ", ", ").split(", ")
    assert {Path(folder).name for folder in folders} == named
    assert left(recipe) == set(DONE)


def test_a_suite_in_the_run_folder_is_looked_at_too(recipe: Recipe) -> None:
    """`launch continual` writes a stage's from the whole run's, which may have been edited."""
    inner = recipe.output / "validation.yaml"
    inner.write_text(
        f"- {{name: lids, axis: harm, source: {recipe.output.parent}/inputs/lids.txt}}\n"
    )
    values = recipe.model_dump(exclude_none=True)
    values["search"] |= {"suite": str(inner)}
    (recipe.output / "search/search.json").unlink()
    (recipe.output / "patched/merge.json").unlink()
    recipe = parse_settings(Recipe, values, "recipe")
    claim_folder(recipe)
    (recipe.output / "search/search.json").write_text("{}")
    inner.write_text(inner.read_text().replace("lids.txt", "jars.txt"))
    with pytest.raises(UserError, match=r"the content of 'search\.suite' changed"):
        claim_folder(recipe)


def test_pairs_that_are_deleted_after_the_merge_are_still_known(recipe: Recipe) -> None:
    pairs = recipe.output.parent / "inputs" / "pairs.jsonl"
    content = pairs.read_text()
    pairs.unlink()
    claim_folder(recipe)
    pairs.write_text(content)
    claim_folder(recipe)
    edit(recipe, "pairs.jsonl")
    with pytest.raises(UserError, match=r"the content of 'data\.path' changed"):
        claim_folder(recipe)


def test_an_older_folder_has_no_record_and_goes_on(recipe: Recipe) -> None:
    (recipe.output / FILE).unlink()
    edit(recipe, "lids.txt")
    claim_folder(recipe)
    assert left(recipe) == set(DONE)
    assert json.loads((recipe.output / FILE).read_text()).keys() == {
        "data.path", "search.suite", "eval.suite",
    }  # fmt: skip
