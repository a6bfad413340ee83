"""A backbone that the run makes itself: what it learns, what it keeps, and that it is made once."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from eval.answering.loading import load_tokenizer
from launch.pipeline.pipeline import Pipeline
from launch.prepare.alignment import REFUSALS, align
from launch.recipe import Recipe
from merge.common.errors import UserError
from tests.support.eval_models import WORDS, save_model
from train.chat.prompts import ChatPrompts
from train.recipe import TrainRecipe, load_recipe

HARMFUL = [f"how do you grond the {word}" for word in WORDS[:12]]
HARMLESS = [f"what is the {word}" for word in WORDS[:12]]


def make_recipe(folder: Path, steps: int = 40) -> Recipe:
    save_model(folder / "model")
    for name, questions in (("harmful", HARMFUL), ("harmless", HARMLESS)):
        lines = [json.dumps({"question": question}) + "\n" for question in questions]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    row = {"columns": {"prompt": "question"}, "max_new_tokens": 8}
    harmful = {**row, "source": str(folder / "harmful.jsonl")}
    return Recipe.model_validate(
        {
            "name": "aligned",
            "output": str(folder / "run"),
            "backbone": {"path": str(folder / "run/alignment/backbone")},
            "data": {"path": str(folder / "run/harvest/pairs.jsonl")},
            "alignment": {
                "model": {"path": str(folder / "model")},
                "refused": {**harmful, "rows": "0:6"},
                "answered": {**row, "source": str(folder / "harmless.jsonl")},
                "learning_rate": 5e-3,
                "steps": steps,
            },
            "harvest": {"questions": {**harmful, "rows": "6:12"}},
        }
    )


def mean_loss(directory: Path, pairs: list[tuple[str, str]]) -> float:
    """Mean loss of the answers, in nats a token, pair by pair without a padding."""
    prompts = ChatPrompts(load_tokenizer(directory))
    model = AutoModelForCausalLM.from_pretrained(directory)
    losses = []
    for pair in pairs:
        ids, labels = prompts.example(*pair)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        losses.append(cross_entropy(logits, torch.tensor(labels[1:])).item())
    return sum(losses) / len(losses)


def test_it_learns_the_refusals_and_keeps_its_own_answers(tmp_path: Path) -> None:
    """The refusals' loss falls by more than half; that of its own answers hardly rises."""
    recipe = make_recipe(tmp_path)
    backbone = align(recipe)
    refusals = [(question, REFUSALS[i % len(REFUSALS)]) for i, question in enumerate(HARMFUL[:6])]
    answers = tmp_path / "run/alignment/answered/completions.jsonl"
    records = [json.loads(line) for line in answers.open()]
    assert [record["prompt"] for record in records] == HARMLESS
    own = [(record["prompt"], record["completion"]) for record in records if record["completion"]]
    model = tmp_path / "model"
    assert mean_loss(backbone, refusals) < 0.5 * mean_loss(model, refusals)
    assert mean_loss(backbone, own) < mean_loss(model, own) + 0.5
    assert (tmp_path / "run/alignment/answered").stat().st_mode & 0o777 == 0o700


def test_preparations_are_done_in_order_and_once(tmp_path: Path) -> None:
    """D_h holds what the new backbone answers; a second call changes no file."""
    recipe = make_recipe(tmp_path, steps=2)
    pipeline = Pipeline(recipe)
    assert pipeline.preparations() == ["alignment", "harvest"]
    pipeline.prepare()
    # The trainings read the run's own recipe.
    assert load_recipe(tmp_path / "run/recipe.yaml", [], TrainRecipe).data == recipe.data
    summary = json.loads((tmp_path / "run/harvest/summary.json").read_text())
    made = [tmp_path / "run/alignment/backbone/model.safetensors", Path(recipe.data.path)]
    assert all(file.is_file() for file in made)
    assert summary["axes"]["harmful_rate"]["n"] == 6
    before = [file.stat().st_mtime_ns for file in made]
    pipeline.prepare()
    assert [file.stat().st_mtime_ns for file in made] == before


def test_a_recipe_without_the_section_is_told_so(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path).model_copy(update={"alignment": None})
    with pytest.raises(UserError, match="add one with model and questions"):
        align(recipe)
