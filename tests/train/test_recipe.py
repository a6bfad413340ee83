"""Recipes: every key checked, overrides, and defaults that differ between the roles."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from merge.common.errors import UserError
from train.data.batches import BatchPlan, micro_batches, order_seed
from train.patch.importance import choose_samples
from train.recipe import TrainRecipe, load_recipe
from train.settings import SafetyTraining

MINIMAL = {"name": "x", "backbone": {"path": "b"}, "data": {"path": "d.jsonl"}}


def load(directory: Path, *overrides: str, **sections: object) -> TrainRecipe:
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **sections}))
    return load_recipe(path, overrides, TrainRecipe)


def test_defaults_of_the_roles(tmp_path: Path) -> None:
    recipe = load(tmp_path, safety={"learning_rate": "2e-6"})
    assert recipe.safety.objective == "ascent" and recipe.safety.learning_rate == 2e-6
    assert recipe.over_safety.objective == "descent"
    assert recipe.output == Path("runs/x")
    assert recipe.importance.samples == 128


def test_the_largest_seed_is_drawn_from(tmp_path: Path) -> None:
    """By everything that takes it after the whole training, as the choice of samples does."""
    last = (1 << 63) - 1
    recipe = load(tmp_path, f"importance.seed={last}", f"safety.data_seed={last}")
    settings = recipe.importance.model_copy(update={"samples": 3})
    assert len(choose_samples(settings, 10)) == 3
    assert recipe.safety.data_seed == last
    assert sorted(BatchPlan(7, 7, last).batch(4)) == list(range(7))
    torch.manual_seed(last + 10_000_000)  # the loop adds a number a step and rank


def test_roles_see_the_data_in_different_orders() -> None:
    orders = [BatchPlan(50, 50, order_seed(0, role)).batch(0) for role in ("safety", "over_safety")]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(50))


def test_overrides_are_yaml_and_win(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "safety.guards.max_forget_loss=2.5",
        "safety.steps=7",
        "data.categories=[a, b]",
        "safety.guards.max_patch_norm=null",
        safety={"steps": 3},
    )
    assert recipe.safety.guards.max_forget_loss == 2.5 and recipe.safety.steps == 7
    assert recipe.data.categories == ("a", "b")


def test_override_leaves_a_section_of_the_same_anchor_alone(tmp_path: Path) -> None:
    shared = {"steps": 3}
    recipe = load(tmp_path, "safety.steps=7", safety=shared, over_safety=shared)
    assert "&id" in (tmp_path / "recipe.yaml").read_text()
    assert (recipe.safety.steps, recipe.over_safety.steps) == (7, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("safety.stepz=3", "unknown key 'safety.stepz': did you mean 'steps'"),
        ("safety.guards.windo=3", "'safety.guards.windo': did you mean 'window'"),
        ("safety.learning_rate=-1", "'safety.learning_rate' = -1"),
        ("seed=-1", "'seed' = -1"),
        ("importance.seed=-1", "'importance.seed' = -1"),
        (f"importance.seed={1 << 63}", f"'importance.seed' = {1 << 63}"),
        (f"over_safety.data_seed={1 << 63}", f"'over_safety.data_seed' = {1 << 63}"),
        ("safety.objective=dpo", "'safety.objective' = 'dpo'"),
        ("safety.batch_size=half", "'safety.batch_size"),
        (
            "safety={optimizer: sgd_normalised, adam_eps: 1e-3}",
            "key 'safety.optimizer' = 'sgd_normalised': its steps have a fixed length",
        ),
        ("safety.objective=ascent_mismatch_kl", "add a section 'harmless'"),
        ("safety.objective=derta", "safety.objective derta needs harmless pairs: add a section"),
        ("safety.derta.transition_share=1", "'safety.derta.transition_share' = 1"),
        ("safety.guards.max_retained_rise=1", "safety.guards.max_retained_rise needs retained"),
        ("data.rows=first", "write start:stop"),
        ("seed", "write overrides as key=value"),
        ("name.x=1", "'name' is a value, not a section"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_wrong_keys_and_values_are_named(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, override)
    assert message in str(error.value)


def test_an_objective_without_refusals_is_told_where_a_harvest_leaves_them(tmp_path: Path) -> None:
    harmless = {"path": "h.jsonl"}
    with pytest.raises(UserError, match=r"add a section 'refusals'.*/harvest/refusals\.jsonl"):
        load(tmp_path, "over_safety.objective=derta", harmless=harmless)
    load(tmp_path, "safety.objective=derta", "refusals.path=r.jsonl", harmless=harmless)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for text, message in (
        ("a: [", "not valid YAML"),
        ("3", "must hold keys"),
        ("name: x", "missing"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load_recipe(path, [], TrainRecipe)
    with pytest.raises(UserError, match="cannot be read"):
        load_recipe(tmp_path / "none.yaml", [], TrainRecipe)


def test_epochs_show_every_sample_once_and_differ() -> None:
    plan = BatchPlan(samples=13, batch_size=5, seed=5)
    epochs = [[plan.batch(epoch * 3 + step) for step in range(3)] for epoch in range(2)]
    for epoch in epochs:
        # No remainder of 3: batches as even as they can be.
        assert sorted(len(batch) for batch in epoch) == [4, 4, 5]
        assert sorted(index for batch in epoch for index in batch) == list(range(13))
    assert epochs[0] != epochs[1]


def test_batches_that_divide_the_data_are_those_of_older_versions() -> None:
    order = np.random.Generator(np.random.Philox(key=[5, 0])).permutation(12).tolist()
    plan = BatchPlan(samples=12, batch_size=4, seed=5)
    assert [plan.batch(step) for step in range(3)] == [order[:4], order[4:8], order[8:]]


def test_a_batch_of_all_is_the_whole_data(tmp_path: Path) -> None:
    safety = load(tmp_path, "safety.batch_size=all").safety
    assert (safety.batch_of(7), SafetyTraining(batch_size=5).batch_of(7)) == (7, 5)


def test_newer_keys_at_their_defaults_are_not_in_an_identity(tmp_path: Path) -> None:
    """Patches of older versions stay the patches of their recipes."""
    recipe = load(tmp_path, "safety.answer_tokens=null", "safety.guards.margin_samples=0")
    dump = recipe.safety.model_dump(mode="json")
    newer = ("answer_tokens", "answer_decay", "optimizer", "adam_eps")
    assert not dump.keys() & set(newer) and "learning_rate" in dump
    assert not any("margin" in key or key == "min_refusal" for key in dump["guards"])
    assert recipe.importance.model_dump() == {"samples": 128, "seed": 0}
    changed = load(tmp_path, "safety.answer_tokens=4", "safety.guards.margin_fall=1").safety
    dump = changed.model_dump(mode="json")
    assert (dump["answer_tokens"], dump["guards"]["margin_fall"]) == (4, 1.0)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_a_batch_in_equal_numbers_of_micro_batches(world: int) -> None:
    shares = [micro_batches(list(range(7)), 2, rank, world) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(index for share in shares for micro in share for index in micro) == list(range(7))


def test_variables_and_the_home_folder_are_put_in_everywhere(tmp_path, monkeypatch):
    """Also in the run folder's own path, which others name."""
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "r.yaml"
    file.write_text(
        "name: n\noutput: ${SCRATCH}/runs\nbackbone: {path: ~/models/b}\n"
        "data: {path: '${output}/d.jsonl', categories: ['~', 'a~/b']}\neval: {suite: ~/s.yaml}\n"
    )
    recipe = load_recipe(file, [], TrainRecipe)
    assert (str(recipe.output), recipe.data.path) == (
        "/scratch/me/runs",
        "/scratch/me/runs/d.jsonl",
    )
    assert recipe.backbone.path == f"{tmp_path}/models/b"
    assert recipe.eval["suite"] == f"{tmp_path}/s.yaml"
    assert recipe.data.categories == ("~", "a~/b")
    other = load_recipe(file, ["output=~/x", "data.path='${output}/${SCRATCH}'"], TrainRecipe)
    assert (other.output, other.data.path) == (tmp_path / "x", f"{tmp_path}/x//scratch/me")
    with pytest.raises(UserError, match=r"'output' = '\$\{output\}/x' names itself"):
        load_recipe(file, ["output='${output}/x'"], TrainRecipe)
    with pytest.raises(UserError, match="needs NOWHERE_SET"):
        load_recipe(file, ["output='${NOWHERE_SET}/x'"], TrainRecipe)
    for unclosed in ("x/${USER", "${a-b}/x", "${}/x"):
        with pytest.raises(UserError, match=r"holds a '\$\{' that is no \$\{NAME\}"):
            load_recipe(file, [f"data.path='{unclosed}'"], TrainRecipe)
    with pytest.raises(UserError, match="names no home folder"):
        load_recipe(file, ["output=~nobody_of_this_name/x"], TrainRecipe)
