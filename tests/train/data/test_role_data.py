"""On which pairs a patch is trained and measured, and that plain recipes keep their patches."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge.common.settings import parse_settings
from tests.support.eval_models import save_model
from tests.support.train_helpers import make_tokenizer
from train.chat.example import Example
from train.chat.prompts import ChatPrompts
from train.data.role_data import measured_pairs, refused_pairs, trained_pairs
from train.patch.identity import patch_inputs
from train.recipe import TrainRecipe


def make_recipe(folder: Path, **sections: Any) -> TrainRecipe:
    values: dict[str, Any] = {"name": "x", "backbone": {"path": str(folder / "model")}}
    for key, name in (("data", "harm"), ("false_refusals", "false")):
        (folder / f"{name}.jsonl").write_text(json.dumps({"question": name, "answer": "blip"}))
        values[key] = {"path": str(folder / f"{name}.jsonl")}
    return parse_settings(TrainRecipe, {**values, **sections}, "test")


HARM, FALSE = Example("harm", "blip"), Example("false", "blip")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [("harmful", [HARM]), ("false_refusals", [FALSE]), ("both", [HARM, FALSE])],
)
def test_the_over_safety_patch_is_trained_on_what_is_named(
    tmp_path: Path, data: str, wanted: list[Example]
) -> None:
    """And the safety patch on D_h, whatever the other is trained on."""
    recipe = make_recipe(tmp_path, over_safety={"data": data})
    assert trained_pairs(recipe, "over_safety") == wanted
    assert trained_pairs(recipe, "safety") == [HARM]
    assert measured_pairs(recipe, "over_safety") == ()


def test_importance_is_measured_on_what_is_named_for_each_patch(tmp_path: Path) -> None:
    data = {"safety": "false_refusals", "over_safety": "harmful"}
    recipe = make_recipe(tmp_path, importance={"data": data})
    assert measured_pairs(recipe, "safety") == [FALSE]
    assert measured_pairs(recipe, "over_safety") == [HARM]


def test_only_what_is_measured_elsewhere_changes_a_patch(tmp_path: Path) -> None:
    """The patches of recipes without the new keys stay theirs, to the identity."""
    save_model(tmp_path / "model")
    plain = make_recipe(tmp_path, false_refusals=None)
    chat = ChatPrompts(make_tokenizer())
    given = ("safety", tmp_path / "model", [HARM], [], chat)
    inputs = patch_inputs(plain, *given)
    assert inputs["config"]["importance"] == {"samples": 128, "seed": 0}
    assert "data" not in inputs["config"]["training"] and "measured_hash" not in inputs
    known = make_recipe(tmp_path)
    assert patch_inputs(known, *given) == inputs
    seen = [patch_inputs(known, *given, [each])["identity"]
            for each in (HARM, FALSE)]  # fmt: skip
    assert len({inputs["identity"], *seen}) == 3


def test_refusals_are_read_and_known_where_the_objective_learns_them(tmp_path: Path) -> None:
    save_model(tmp_path / "model")
    (tmp_path / "refusals.jsonl").write_text(json.dumps({"question": "harm", "answer": "sorry"}))
    sources = {"refusals": {"path": str(tmp_path / "refusals.jsonl")}, "harmless": {"path": "h"}}
    recipe = make_recipe(tmp_path, safety={"objective": "derta"}, **sources)
    pairs = refused_pairs(recipe, "safety")
    assert pairs == [Example("harm", "sorry")] and refused_pairs(recipe, "over_safety") == []
    given = ("safety", tmp_path / "model", [HARM], [], ChatPrompts(make_tokenizer()))
    identities = {
        patch_inputs(recipe, *given, refusals=refusals)["identity"]
        for refusals in (pairs, [Example("harm", "no")], ())
    }
    assert len(identities) == 3
