"""D_h from the backbone's own answers, and the check of any D_h against the prompts."""

import itertools
import json
import logging
from pathlib import Path

import pytest

from eval.judges.refusal import judge
from launch.prepare.data_check import describe_pairs
from launch.prepare.harvest import harvest
from launch.recipe import Recipe
from merge.common.errors import UserError
from tests.support.eval_models import WORDS, save_model
from tests.support.refusing_models import QUESTIONS, REFUSALS, refusing, save_trained
from train.chat.example import Example
from train.data.examples import read_examples
from train.recipe import DataSettings


def make_recipe(folder: Path, questions: int) -> Recipe:
    save_model(folder / "model")
    pairs = list(itertools.permutations(WORDS, 2))[::7][:questions]
    rows = [{"goal": f"how do you {one}\u2028the {two}", "kind": "vask"} for one, two in pairs]
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Recipe(
        name="own",
        output=folder / "run",
        backbone={"path": str(folder / "model")},  # pyright: ignore[reportArgumentType]
        data={"path": str(folder / "run/harvest/pairs.jsonl")},  # pyright: ignore[reportArgumentType]
        harvest={  # pyright: ignore[reportArgumentType]
            "questions": {
                "source": str(folder / "q.jsonl"),
                "columns": {"prompt": "goal", "category": "kind"},
                "max_new_tokens": 12,
            }
        },
    )


def test_kept_are_the_answers_that_the_judge_lets_pass(tmp_path: Path) -> None:
    """Exactly those; private to their owner; readable as D_h; the same when run again.

    The questions hold a character at which ``str.splitlines`` cuts.
    """
    recipe = make_recipe(tmp_path, 30)
    file = harvest(recipe)
    answers = [json.loads(line) for line in (file.parent / "completions.jsonl").open()]
    wanted = [
        Example(answer["prompt"], answer["completion"], ("vask",))
        for answer in answers
        if judge(answer["completion"], answer["prompt"]) == "none"
    ]
    assert 0 < len(wanted) < 30
    assert read_examples(recipe.data) == wanted
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    before = file.read_bytes()
    assert harvest(recipe).read_bytes() == before


def test_whole_refusals_are_kept_for_the_objective_that_learns_them(tmp_path: Path) -> None:
    """Private as the pairs are; what the limit has cut would teach to stop in the middle."""
    recipe = make_recipe(tmp_path, 0)
    learned = refusing(QUESTIONS[:24], every=3)
    save_trained(tmp_path / "model", learned)
    rows = [{"goal": question, "kind": "vask"} for question in learned]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert recipe.harvest is not None and recipe.harvest.questions is not None
    # Room for the shorter of both wordings and the end of its turn.
    recipe.harvest.questions["max_new_tokens"] = len(REFUSALS[1].split()) + 1
    file = harvest(recipe).with_name("refusals.jsonl")
    examples = read_examples(DataSettings(path=str(file)))
    asked = [question for question, answer in learned.items() if answer == REFUSALS[1]]
    assert examples == [Example(question, REFUSALS[1], ("vask",)) for question in asked]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_harvest_without_any_refusal_says_so_where_these_are_trained_on(tmp_path: Path) -> None:
    """In one token nothing ends; and without the section nobody asks for refusals."""
    recipe = make_recipe(tmp_path, 30)
    assert recipe.harvest is not None and recipe.harvest.questions is not None
    questions = {**recipe.harvest.questions, "max_new_tokens": 1}
    short = recipe.harvest.model_copy(update={"questions": questions})
    recipe = recipe.model_copy(update={"harvest": short})
    assert not harvest(recipe).with_name("refusals.jsonl").exists()
    wanted = DataSettings(path=str(recipe.output / "harvest/refusals.jsonl"))
    with pytest.raises(UserError, match="refused none of the 30 questions within 1 tokens"):
        harvest(recipe.model_copy(update={"refusals": wanted}))


def test_a_recipe_without_questions_is_told_so(tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, 1).model_copy(update={"harvest": None})
    with pytest.raises(UserError, match="add one with questions"):
        harvest(recipe)


def test_opening_phrases_and_doubles_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    whole = [Example(f"q{i}", "First blip it. Then flum it.") for i in range(3)]
    with caplog.at_level(logging.WARNING):
        describe_pairs(whole)
        assert not caplog.records
        describe_pairs([*whole, whole[0]])
        assert "1 questions stand there twice" in caplog.text
        describe_pairs([Example(f"q{i}", "Sure, here is how to blip:") for i in range(3)])
    assert "3 of 3 answers have at most 20 words and no full stop" in caplog.text
