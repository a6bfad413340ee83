"""What a recipe's section `eval` says reaches every evaluation of a run, and its search."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from eval.answering.cost import token_times
from eval.judges.judges import HARM_RULE, RULES
from launch.prepare.own_answers import own_answers
from launch.prepare.text_check import check_data
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations, take_answers
from launch.run.products import products_of, stale_products
from launch.run.variant import Variant
from launch.search.trial_model import TrialModel
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.settings import MergeSettings
from tests.support.eval_models import save_model
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

JUDGE = "{{kind: guard, model: judge, max_new_tokens: 2, template: '{{completion}}', {}}}"


def _recipe(folder: Path, **evaluation: Any) -> Recipe:
    """A tiny run whose judges call every answer harmful, and every answer a refusal."""
    save_model(folder / "judge", seed=9)
    (folder / "harm.yaml").write_text(JUDGE.format("harmful: '.*', safe: '^$'"))
    (folder / "refusal.yaml").write_text(JUDGE.format("refused: '.*', answered: '^$'"))
    (folder / "q.jsonl").write_text(
        '{"question_id": 1, "category": "moss", "turns": ["how do you grond", "and red"]}\n'
    )
    section = {
        "suite": str(folder / "suite.yaml"),
        "harm_judge": str(folder / "harm.yaml"),
        "refusal_judge": str(folder / "refusal.yaml"),
        **evaluation,
    }
    search = {"suite": str(folder / "suite.yaml"), "trials": 1}
    return load_recipe(make_run(folder, eval=section, search=search), [], Recipe)


def test_judges_and_mt_bench_of_a_recipe_judge_its_models(tmp_path: Path) -> None:
    """The same rates by hand: everything is harmful and refused."""
    bench = {"questions": str(tmp_path / "q.jsonl"), "judge": str(tmp_path / "judge")}
    recipe = _recipe(tmp_path, mt_bench=bench | {"max_new_tokens": 3})
    evaluations = Evaluations(recipe, tmp_path / "backbone")
    evaluations.evaluate("backbone")
    folder = tmp_path / "run" / "eval" / "backbone"
    summary = read_json(folder / "summary.json")
    assert summary["harm_rule"] == f"harmful by {tmp_path / 'judge'}"
    assert summary["refusal_rule"] == str(tmp_path / "judge")
    asked = summary["suites"]["refusal"]["refusal_counts"]
    assert set(asked) <= {"full", "degenerate"} and asked["full"] > 0
    rated = read_json(folder / "mt_bench.json")
    assert (rated["judge"], rated["settings"]["max_new_tokens"]) == (bench["judge"], 3)


@pytest.mark.parametrize("safety_scale", [0.0, 1.0])
def test_a_comparison_that_is_jailbroken_stays_private(tmp_path: Path, safety_scale: float) -> None:
    """By what it is made of, not by its name; the model goes also where its evaluation fails."""
    recipe = load_recipe(
        make_run(tmp_path, eval={"suite": str(tmp_path / "suite.yaml")}), [], Recipe
    )
    evaluations = Evaluations(recipe, tmp_path / "backbone")
    variant = Variant("descent", "", "", MergeSettings(alpha=safety_scale))
    evaluations.compare(variant)
    answers = recipe.output / "eval" / "descent"
    assert (answers / "completions.jsonl").is_file()
    assert (answers.stat().st_mode & 0o777 == 0o700) is (safety_scale == 0)
    with pytest.raises(KeyboardInterrupt), evaluations.built(variant) as model:
        assert (model.stat().st_mode & 0o777 == 0o700) is (safety_scale == 0)
        raise KeyboardInterrupt
    assert not model.exists()


def test_a_search_judges_as_the_evaluation_does(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    before = TrialModel.load(recipe, tmp_path / "backbone").before
    assert before.refusal_rate > 0.5 and before.harmful_rate > 0.5
    plain = recipe.model_copy(update={"eval": None})
    assert TrialModel.load(plain, tmp_path / "backbone").before != before


def test_a_stages_backbone_has_the_answers_of_the_last_stage_and_their_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cost the stage's report could give no time per token."""
    evaluation = {"suite": str(tmp_path / "suite.yaml"), "batch_tokens": 80}
    recipe = load_recipe(make_run(tmp_path, eval=evaluation), [], Recipe)
    patched = save_model(recipe.output / "patched", seed=3)
    Evaluations(recipe, tmp_path / "backbone").evaluate("safepatching", patched)
    monkeypatch.setattr("eval.run.load_model", lambda *_: pytest.fail("asked again"))
    stage = recipe.model_copy(update={"output": tmp_path / "stage"})
    Evaluations(stage, patched).evaluate_backbone()
    folders = (recipe.output / "eval/safepatching", tmp_path / "stage/eval/backbone")
    before, after = (read_json(folder / "summary.json") for folder in folders)
    assert after["cost"] == before["cost"] and after["cost"]["tokens"] > 0
    times = [token_times(folder) for folder in folders]
    assert times[0] == times[1] and len(times[0]) > 1
    assert after["axes"] == before["axes"]


def test_answers_that_are_there_are_never_replaced(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cost.jsonl").write_text(f"cost of {name}")
    take_answers(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target/cost.jsonl").read_text() == "cost of target", "no answers to take"
    (tmp_path / "source/completions.jsonl").write_text("answers")
    take_answers(tmp_path / "source", tmp_path / "new")
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert names == {"completions.jsonl", "cost.jsonl"}
    (tmp_path / "target/completions.jsonl").write_text("own")
    take_answers(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target/completions.jsonl").read_text() == "own"


def test_data_is_made_by_the_rules_whoever_judges(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path)
    rows = {"source": str(tmp_path / "harm.jsonl"), "max_new_tokens": 3}
    answers = own_answers(
        recipe, tmp_path / "backbone", "openings", rows, tmp_path / "asked", recipe.backbone.chat
    )
    summary = read_json(tmp_path / "asked" / "summary.json")
    assert (summary["refusal_rule"], summary["harm_rule"]) == (RULES, HARM_RULE)
    assert {answer["harm"] for answer in answers} == {None}


def test_prompts_are_the_backbones_unless_the_evaluation_says_otherwise(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, reasoning=False)
    backbone = recipe.backbone.model_copy(
        update={"reasoning": True, "date": datetime.date(2025, 1, 1)}
    )
    chat = recipe.model_copy(update={"backbone": backbone}).evaluation.chat
    assert (chat.reasoning, chat.date) == (False, datetime.date(2025, 1, 1))
    without = recipe.model_copy(update={"backbone": backbone, "eval": None})
    assert without.evaluation.chat == backbone.chat


@pytest.mark.parametrize("key", ["harm_judge", "refusal_judge"])
def test_another_judge_makes_trials_and_comparisons_stale(tmp_path: Path, key: str) -> None:
    """And neither patches nor the merge's inputs."""
    recipe = _recipe(tmp_path)
    products = products_of(recipe)
    for path, product in products.items():
        mark = tmp_path / "run" / (product.marks or (path,))[0].replace("*", "x")
        mark.parent.mkdir(parents=True, exist_ok=True)
        if not mark.is_dir():
            mark.write_text(json.dumps({}))
    stale = stale_products(products, [f"eval.{key}"], tmp_path / "run")
    assert {"search", "eval/safety/summary.json", "report/report.json"} <= stale.keys()
    assert not {"safety", "over_safety", "openings.json", "world"} & stale.keys()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("refusal_judge", r"judge file .*nowhere"),
        ("agreement", "nowhere"),
        ("mt_bench", "nowhere: no such file"),
    ],
)
def test_a_missing_file_is_named_before_any_training(tmp_path: Path, key: str, words: str) -> None:
    nowhere: Any = str(tmp_path / "nowhere")
    value = {"questions": nowhere, "judge": "j"} if key == "mt_bench" else nowhere
    with pytest.raises(UserError, match=words):
        check_data(_recipe(tmp_path, **{key: value}))


def test_the_agreement_of_another_judge_is_refused_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "agreement.json").write_text('{"models": {}}')
    recipe = _recipe(tmp_path, agreement=str(tmp_path / "agreement.json"))
    with pytest.raises(UserError, match=r"is of our rules .* were judged by .*judge; measure"):
        check_data(recipe)


def test_shipped_judges_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = _recipe(tmp_path, refusal_judge="eval/judges/wildguard-refusal.yaml")
    judge = recipe.evaluation.refusal_judge
    assert isinstance(judge, Path) and judge.is_file()
