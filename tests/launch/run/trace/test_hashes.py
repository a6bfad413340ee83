"""The hashes by which records know recipes and models, beside what they are hashes of."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from eval.answering.loading import model_identity
from launch.recipe import Recipe
from launch.run.trace.models import weights_hash
from merge.common.provenance import recipe_hash
from train.recipe import TrainRecipe, load_recipe

RECIPES = sorted(Path("launch/recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_floor_gives_a_recipe_the_hash_of_its_file(path, tmp_path, monkeypatch):
    """A training loads the sections of the floors above it as they stand, launch as its own."""
    monkeypatch.setenv("DATA", "/somewhere")
    recipe = load_recipe(path, [f"output={tmp_path}"], Recipe)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    assert recipe_hash(yaml.safe_load(file.read_text())) == recipe.sha256
    assert load_recipe(file, [], Recipe).sha256 == recipe.sha256
    assert load_recipe(file, [], TrainRecipe).sha256 == recipe.sha256


def test_a_recipe_is_another_one_by_what_changes_numbers_only():
    recipe = {"seed": 1, "output": "/a/run", "data": {"path": "/a/run/pairs.jsonl"}, "eval": {}}
    same = {
        "output": "/b",
        "data": {"path": "/b/pairs.jsonl"},
        "seed": 1,
        "name": "another",
        "cluster": {"partition": "gpu"},
        "written_by": {"commit": "0" * 40},
    }
    assert recipe_hash(recipe) == recipe_hash(same)
    plain = {"data": {"path": "${output}/pairs.jsonl"}, "seed": 1}
    assert recipe_hash(recipe) == hashlib.sha256(json.dumps(plain).encode()).hexdigest()
    for changes in ({"seed": 2}, {"seed": 0}, {"data": {"path": "/a/pairs.jsonl"}}):
        assert recipe_hash(recipe | changes) != recipe_hash(recipe)


def test_the_weights_of_merge_json_have_the_hash_of_an_evaluation(tmp_path):
    """Else a trace would take a model for another one, or another one for it."""
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        save_file({f"weight.{number}": np.arange(3 + number)}, tmp_path / name)
    placement = {f"weight.{number}": name for number, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": placement}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    outputs = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
    }
    backwards = dict(sorted(outputs.items(), reverse=True))
    assert weights_hash(backwards) == model_identity(tmp_path)["weights_sha256"]
