"""Recipes are checked before any work: shipped ones hold, mistakes name the key and the fix."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.recipe import Recipe
from merge.common.errors import UserError
from train.recipe import TrainRecipe, load_recipe

RECIPES = sorted(Path("launch/recipes").rglob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_hold_on_both_floors(path, monkeypatch):
    monkeypatch.setenv("DATA", "/somewhere")
    load_recipe(path, [], Recipe)
    load_recipe(path, [], TrainRecipe)


def test_run_folder_and_environment_take_their_places(monkeypatch):
    monkeypatch.setenv("DATA", "/somewhere")
    recipe = load_recipe(RECIPES[0], ["output=elsewhere", "data.path=${DATA}/a.csv"], Recipe)
    assert recipe.backbone.path == "elsewhere/world/backbone"
    assert recipe.data.path == "/somewhere/a.csv"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("merge.retension=0.5", "did you mean 'retention'"),
        ("serach={}", "did you mean 'search'"),
        ("merge.retention=1.5", "less than or equal to 1"),
        ("ablations.wide.top_safty=1", "did you mean 'top_safety'"),
        ("ablations.dense={}", "choose another name"),
        ("ablations.../out={}", "should match pattern"),
        ("eval.decodings.baseline={method: self_cd, ratoi: 2}", "did you mean 'ratio'"),
        ("eval.decodings.safety={method: self_cd}", "another model of the report; rename it"),
        ("seed", "key=value"),
        ("data.path=${NOWHERE}/a", "environment variable"),
    ],
)
def test_mistakes_name_the_key_and_the_mend(override, wanted, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(UserError, match=wanted):
        load_recipe(RECIPES[0], [override], Recipe)


@pytest.mark.slow
def test_the_command_ends_with_one_line_and_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "launch", "run", "launch/recipes/demo.yaml", "sed=1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: recipe launch/recipes/demo.yaml: unknown key 'sed'")
    assert done.stderr.count("\n") == 1


def test_shipped_recipes_name_shipped_suites_from_any_folder(tmp_path, monkeypatch):
    """A file of the same path there counts first."""
    recipe = Path("launch/recipes/paper/llama-2-7b-chat.yaml").resolve()
    root = Path.cwd()
    monkeypatch.setenv("DATA", "/somewhere")
    monkeypatch.chdir(tmp_path)
    loaded = load_recipe(recipe, [], Recipe)
    assert loaded.eval is not None and loaded.eval.suite == root / "eval/suites/paper.yaml"
    (tmp_path / "eval/suites").mkdir(parents=True)
    (tmp_path / "eval/suites/paper.yaml").touch()
    loaded = load_recipe(recipe, [], Recipe)
    assert loaded.eval is not None and str(loaded.eval.suite) == "eval/suites/paper.yaml"
    missing = load_recipe(recipe, ["eval.suite=no.yaml"], Recipe)
    assert missing.eval is not None and str(missing.eval.suite) == "no.yaml"
