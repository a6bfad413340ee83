"""Pairs of false refusals, against answers of transformers' own generation; and their stages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.judges.refusal import judge
from launch.pipeline.pipeline import Pipeline
from launch.pipeline.stages import STAGES, stages_of
from launch.prepare.false_refusals import harvest_false_refusals
from launch.prepare.first_patch import first_patch, prepare_first
from launch.prepare.preflight import check_data
from launch.recipe import Recipe
from merge.common.errors import UserError
from merge.common.settings import parse_settings
from tests.support.eval_models import WORDS
from tests.support.merge_models import write_patch
from tests.support.refusing_models import ANSWER, QUESTIONS, refusing, save_trained
from train.recipe import TrainRecipe, load_recipe

_TOKENS = 12
_LONG = " ".join(WORDS[6:18])
"""An answer that the limit of tokens cuts."""


def make_recipe(folder: Path, questions: list[str], **sections: Any) -> Recipe:
    """A recipe that harvests false refusals; its models are not there."""
    rows = [{"ask": question, "kind": "vask"} for question in questions]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.jsonl").write_text('{"question": "grond it", "answer": "blip it"}')
    row = {"source": str(folder / "q.jsonl"), "max_new_tokens": _TOKENS}
    row["columns"] = {"prompt": "ask", "category": "kind"}
    values = {
        "name": "own",
        "output": folder / "run",
        "backbone": {"path": str(folder / "model")},
        "data": {"path": str(folder / "pairs.jsonl")},
        "false_refusals": {"path": str(folder / "run/harvest/false_refusals.jsonl")},
        "harvest": {"harmless": row},
        "over_safety": {"data": "false_refusals"},
    }
    return parse_settings(Recipe, {**values, **sections}, "test")


def make_run(folder: Path, questions: list[str], **sections: Any) -> Recipe:
    """Its models too, and the first patch: it was trained to answer a third of the refusals."""
    plain = refusing(QUESTIONS, 3)
    patched = dict(plain)
    refused = [question for question, answer in plain.items() if answer != ANSWER]
    for number, question in enumerate(refused):
        patched[question] = (f"{ANSWER} two", _LONG, plain[question])[number % 3]
    backbone = save_trained(folder / "model", plain)
    weights = load_file(backbone / "model.safetensors")
    wanted = load_file(save_trained(folder / "patched", patched) / "model.safetensors")
    delta = {name: wanted[name] - weight for name, weight in weights.items()}
    importance = {name: torch.ones_like(weight) for name, weight in weights.items()}
    write_patch(first_patch(folder / "run"), "over_safety", delta, importance, score="gradient")
    return make_recipe(folder, questions, **sections)


def generated(folder: Path, patch: Path | None, questions: list[str]) -> list[tuple[str, bool]]:
    """Greedy answers by transformers' own generation, one at a time, and whether each has ended."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    if patch is not None:
        delta = load_file(patch / "delta.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter += delta[name]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answers = []
    for question in questions:
        turns = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        asked = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        options = {"max_new_tokens": _TOKENS, "do_sample": False, "pad_token_id": 0}
        output = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), **options)
        ids = output[0][asked.shape[1] :]
        answers.append((tokenizer.decode(ids, skip_special_tokens=True).strip(), 1 in ids))
    return answers


@pytest.mark.slow
def test_kept_are_answers_to_what_the_backbone_refuses(tmp_path: Path) -> None:
    """Those and no others; private; the patch that answered is gone; the same when run again."""
    recipe = make_run(tmp_path, QUESTIONS)
    plain = generated(tmp_path / "model", None, QUESTIONS)
    refused = [
        question
        for question, (answer, _) in zip(QUESTIONS, plain, strict=True)
        if judge(answer, question) in ("partial", "full")
    ]
    patched = generated(tmp_path / "model", first_patch(recipe.output), refused)
    wanted = [
        {"question": question, "answer": answer, "category": "vask"}
        for question, (answer, ended) in zip(refused, patched, strict=True)
        if judge(answer, question) == "none" and ended
    ]
    assert 0 < len(wanted) < len(refused) < len(QUESTIONS)
    file = harvest_false_refusals(recipe)
    assert [json.loads(line) for line in file.open()] == wanted
    assert file.stat().st_mode & 0o777 == 0o600
    for folder in (file.parent, *filter(Path.is_dir, file.parent.iterdir())):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not (recipe.output / "over_safety.first").exists()
    before = file.read_bytes()
    assert harvest_false_refusals(recipe).read_bytes() == before


@pytest.mark.slow
def test_what_is_kept_on_request_is_the_patch_and_not_the_model(tmp_path: Path) -> None:
    recipe = make_run(tmp_path, QUESTIONS[:40], keep_intermediates=True)
    harvest_false_refusals(recipe)
    assert (first_patch(recipe.output) / "patch.json").is_file()
    assert not (first_patch(recipe.output) / "model").exists()
    assert Pipeline(recipe).is_done("false_refusals")


@pytest.mark.slow
def test_nothing_left_is_one_line_with_the_counts(tmp_path: Path) -> None:
    """The backbone refuses none; or the model that answers refuses like it, or comes to no end."""
    plain = refusing(QUESTIONS, 3)
    recipe = make_run(tmp_path, [QUESTIONS[1]])
    assert plain[QUESTIONS[1]] == ANSWER
    with pytest.raises(UserError, match="refuses none of the 1 questions; give others"):
        harvest_false_refusals(recipe)
    refused = [question for question in QUESTIONS if plain[question] != ANSWER]
    rows = [{"ask": refused[1], "kind": "a"}, {"ask": refused[2], "kind": "a"}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"answers none of the 2 .*unfinished 1, refused 1"):
        harvest_false_refusals(recipe)
    assert not (recipe.output / "harvest/false_refusals.jsonl").exists()
    first_tokens = recipe.over_safety.model_copy(update={"answer_tokens": 4})
    file = harvest_false_refusals(recipe.model_copy(update={"over_safety": first_tokens}))
    (kept,) = [json.loads(line) for line in file.open()]  # the first tokens are not cut
    assert kept["question"] == refused[1]


def test_a_question_of_d_h_or_of_a_suite_is_named(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("[{name: v, axis: harm, source: v.jsonl}]")
    (tmp_path / "v.jsonl").write_text('{"prompt": "blip the  Vask"}')
    recipe = make_recipe(tmp_path, ["flum it", "Grond it", "blip the vask"])
    with pytest.raises(UserError, match=r"stands in both, 'questions' 2 = data 1; take"):
        check_data(recipe)
    recipe = make_recipe(
        tmp_path, ["flum it", "blip the vask"], eval={"suite": tmp_path / "suite.yaml"}
    )
    with pytest.raises(UserError, match=r"'questions' 2 = 'v' 1"):
        check_data(recipe)


def test_stages_and_what_they_wait_for(tmp_path: Path) -> None:
    """The patch that answers is trained before the answers, and these before what needs them."""
    recipe = make_recipe(tmp_path, ["flum it"], safety={"guards": {"margin_samples": 4}})
    assert stages_of(recipe) == [
        "openings", "over_safety_first", "false_refusals", "safety", "over_safety", "merge",
    ]  # fmt: skip
    assert "false_refusals" in STAGES["over_safety"].needs_of(recipe)
    assert "false_refusals" not in STAGES["safety"].needs_of(recipe)
    measured = {"importance": {"data": {"safety": "false_refusals"}}}
    assert "false_refusals" in STAGES["safety"].needs_of(make_recipe(tmp_path, ["a"], **measured))
    pipeline = Pipeline(recipe)
    assert not pipeline.is_done("over_safety_first")
    first_patch(recipe.output).mkdir(parents=True)
    (first_patch(recipe.output) / "patch.json").write_text("{}")
    assert pipeline.is_done("over_safety_first") and not pipeline.is_done("false_refusals")
    file = tmp_path / "run/harvest/false_refusals.jsonl"
    file.parent.mkdir()
    file.write_text('{"question": "a", "answer": "b"}')
    # A harvest that was killed before it deleted the patch goes on to do so.
    assert not pipeline.is_done("false_refusals")
    harvest_false_refusals(recipe)
    assert pipeline.is_done("false_refusals") and pipeline.is_done("over_safety_first")


def test_the_first_patch_has_a_recipe_of_its_own(tmp_path: Path) -> None:
    """Trained on D_h by its own settings, in a private folder, with the openings for its guard."""
    recipe = make_recipe(
        tmp_path,
        ["a"],
        over_safety={"data": "both", "steps": 2, "answer_tokens": 5},
        harvest={"harmless": {"source": "q.jsonl"}, "over_safety": {"steps": 7}},
        importance={"data": {"over_safety": "harmful"}, "samples": 9},
    )
    recipe.output.mkdir()
    (recipe.output / "openings.json").write_text("{}")
    prepare_first(recipe)
    folder = recipe.output / "over_safety.first"
    assert folder.stat().st_mode & 0o777 == 0o700
    first = load_recipe(folder / "recipe.yaml", [], TrainRecipe)
    assert (first.over_safety.steps, first.over_safety.answer_tokens) == (7, 5)
    assert first.over_safety.data == "harmful"
    assert (first.importance.samples, first.importance.data.over_safety) == (1, "own")
    assert first.output == folder
    assert (folder / "openings.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"harvest": {}}, "needs questions, harmless questions, or both"),
        ({"harvest": {"harmless": {"source": "a"}, "over_safety": {"stepz": 1}}}, "stepz"),
        ({"false_refusals": None}, "over_safety.data false_refusals needs pairs"),
        ({"over_safety": {"data": "mine"}}, "over_safety.data"),
    ],
)
def test_wrong_sections_are_named(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_recipe(tmp_path, ["a"], **sections)


def test_a_plain_recipe_is_written_as_before(tmp_path: Path) -> None:
    """Run folders of older versions go on: their recipe has none of the new keys."""
    recipe = make_recipe(
        tmp_path, ["a"], harvest={"questions": {"source": "q"}}, over_safety={}, false_refusals=None
    )
    values = recipe.model_dump(mode="json", exclude_none=True)
    assert "false_refusals" not in values and "data" not in values["over_safety"]
    assert values["importance"].keys() == {"samples", "seed"}
    assert values["harvest"].keys() == {"questions"}
