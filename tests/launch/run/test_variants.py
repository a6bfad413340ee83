"""The list of variants, for report and ablation, and curves: what each of them changes."""

from pathlib import Path
from typing import Any

import pytest

from launch.ablation.sensitivity import curves, retention_seeds
from launch.recipe import Recipe
from launch.run.variant import WholePatch
from launch.run.variant_list import baselines, check_ablation, compared, variants
from merge.settings import MergeSettings, ScaleRule
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

SCALE: dict[str, Any] = {
    "alpha": 1.5,
    "beta": 0.75,
    "retention": 0.7,
    "top_safety": 0.3,
    "top_over_safety": 0.4,
}


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    return make_run(
        folder,
        merge=SCALE,
        eval={"suite": str(folder / "suite.yaml"), "single_patches": False},
        ablate={"baselines": {"gradient_ascent": {"objective": "ascent"}}},
    )


def test_a_baseline_that_was_searched_is_shown_with_its_own_settings(recipe_file):
    recipe = load_recipe(recipe_file, [], Recipe)
    chosen = {
        "difference": MergeSettings(alpha=2, beta=3),
        "ties": MergeSettings(method="ties", alpha=0.5, beta=0.5),
        "dense": MergeSettings(method="dense", alpha=0.9),
    }
    rows = {row.name: row for row in variants(recipe, chosen)}
    assert rows["ties"].model == chosen["ties"] and rows["ties"].how == "its own search"
    assert rows["dense_searched"].model == chosen["dense"]
    assert rows["no_importance"].model == chosen["difference"].model_copy(
        update={"method": "dense"}
    )
    assert rows["dare"].how == "chosen, with method dare"
    assert rows["score_weight"].how == "as chosen"


def test_the_recipes_own_ablations_are_in_report_and_table(recipe_file):
    """Once each: not where a part of the method is the same, and by names that no other row has."""
    own = "{npo_like: {score: magnitude, alpha: 9}, flat: {method: dense}, npo: {beta: 7}}"
    overrides = [f"ablations={own}", "eval.single_patches=true", "ablate.baselines.npo={}"]
    recipe = load_recipe(recipe_file, overrides, Recipe)
    chosen = {"difference": MergeSettings(alpha=2), "ties": MergeSettings(method="ties")}
    reported = {row.name: row.model for row in compared(recipe, chosen)}
    full = chosen["difference"]
    assert [*reported][2:] == ["ties", "npo_like", "flat", "npo"]
    assert [*reported][:2] == ["safety", "over_safety"]
    changed = full.model_copy(update={"score": "magnitude", "alpha": 9})
    assert reported["npo_like"] == changed and reported["ties"] == chosen["ties"]
    table = variants(recipe, chosen)
    names = [row.name for row in table]
    assert len(names) == len(set(names)) and "flat" not in names
    rows = {row.name: row.model for row in table}
    assert rows["npo_like"] == changed
    assert rows["ablations.npo"] == full.model_copy(update={"beta": 7})
    assert rows["no_importance"] == reported["flat"]
    assert isinstance(rows["npo"], WholePatch)
    silent = recipe.model_copy(update={"eval": None})
    assert compared(silent, chosen) == []


def test_other_methods_leave_out_the_scales_of_sets(recipe_file):
    """A merge by set, also by layer, has the table's rows: parts of it by methods without sets."""
    recipe = load_recipe(recipe_file, [], Recipe)
    rule = ScaleRule(pattern="*.0.*", alpha=2.0, beta_rest=-1.0)
    chosen = MergeSettings(method="by_set", alpha_shared=0.5, alpha_rest=-0.1, scales=(rule,))
    rows = {row.name: row.model for row in variants(recipe, {"difference": chosen})}
    plain = MergeSettings(scales=(ScaleRule(pattern="*.0.*", alpha=2.0),))
    assert rows["intersection"] == plain.model_copy(update={"method": "intersection"})
    assert rows["dare"] == plain.model_copy(update={"method": "dare"})
    assert rows["no_retention"] == chosen.model_copy(update={"retention": 1.0})


def test_every_model_is_rounded_as_the_patched_one(recipe_file):
    """Else a comparison would be of roundings; the ablation has a row for rounding itself."""
    overrides = ["merge.rounding=stochastic", "ablate.baselines={npo: {objective: npo}}"]
    recipe = load_recipe(recipe_file, overrides, Recipe)
    rows = {row.name: row.model for row in variants(recipe, {"difference": recipe.merge})}
    merges = {
        name: model.merge if isinstance(model, WholePatch) else model
        for name, model in rows.items()
        if model is not None
    }
    roundings = {name: merge.rounding for name, merge in merges.items()}
    assert roundings.pop("nearest") == "nearest"
    assert set(roundings.values()) == {"stochastic"} and {"full", "npo", "over_safety"} <= set(
        roundings
    )


def test_baselines_differ_from_the_safety_training_in_what_is_named(recipe_file):
    overrides = ["ablate.baselines={npo: {objective: npo}, m: {objective: ascent_mismatch_kl}}"]
    recipe = load_recipe(recipe_file, [*overrides, "ablate.harmless={path: h.jsonl}"], Recipe)
    whole = {
        row.name: row.model
        for row in variants(recipe, {"difference": recipe.merge})
        if isinstance(row.model, WholePatch)
    }
    npo, mismatch = whole["npo"], whole["m"]
    changed = recipe.safety.model_copy(update={"objective": "npo"})
    assert npo == WholePatch("npo", "safety", changed, None, "nearest")
    assert mismatch.harmless is not None and mismatch.harmless.path == "h.jsonl"
    without = load_recipe(recipe_file, overrides, Recipe)
    assert "m" not in {row.name for row in variants(without, {"difference": recipe.merge})}


def test_a_baseline_that_learns_refusals_needs_them_and_keeps_the_other_guards(recipe_file):
    """Left out without the section; with it the safety patch's guards but for the one named."""
    overrides = ["ablate={harmless: {path: h.jsonl}}", "safety.guards={window: 3}"]
    names = [row.name for row in baselines(load_recipe(recipe_file, overrides, Recipe))]
    assert names == ["gradient_ascent", "ascent_mismatch_kl", "npo"]
    recipe = load_recipe(recipe_file, [*overrides, "refusals.path=r.jsonl"], Recipe)
    derta = baselines(recipe)[-1].model
    assert isinstance(derta, WholePatch) and derta.name == "derta"
    assert derta.harmless is not None and derta.harmless.path == "h.jsonl"
    guards = recipe.safety.guards.model_copy(update={"max_forget_loss": 1000})
    changes = {"objective": "derta", "guards": guards}
    assert derta.training == recipe.safety.model_copy(update=changes)


def test_a_baseline_that_is_left_out_is_named_once_with_what_it_needs(recipe_file, caplog):
    overrides = ["ablate={harmless: {path: h.jsonl}}", "ablate.baselines.a={objective: npo}"]
    overrides += ["ablate.baselines.b={objective: derta}"]
    recipe = load_recipe(recipe_file, overrides, Recipe)
    check_ablation(recipe)
    variants(recipe, {"difference": recipe.merge})
    (line,) = [line for line in caplog.messages if "left out" in line]
    assert line == "b: left out, as it needs a section 'refusals' in the recipe"


def test_curves_change_one_setting_and_only_those_that_count():
    chosen = MergeSettings(**SCALE, seed=5)
    for key, points in curves(chosen).items():
        for point in points:
            changed = {
                name
                for name, value in point.settings.model_dump().items()
                if value != getattr(chosen, name)
            }
            assert changed <= {key} and getattr(point.settings, key) == point.value <= 4
            wanted = point.position if key == "retention" else point.position * SCALE[key]
            most = 1 if key.startswith("top") else 99
            assert point.value == pytest.approx(min(wanted, most))
    assert curves(MergeSettings(method="task_arithmetic")).keys() == {"alpha", "beta"}
    ties = curves(MergeSettings(method="ties"))
    assert "beta" not in ties and all(p.settings.alpha == p.settings.beta for p in ties["alpha"])
    own = MergeSettings(scales=(ScaleRule(pattern="*layers.0.*", alpha=3),), alpha=2, beta=4)
    for point in curves(own)["alpha"]:
        assert point.settings.scales_of("layers.0.x") == (3 * point.position, 4)
        assert point.settings.scales_of("layers.1.x") == (2 * point.position, 4)
    for point in curves(own)["beta"]:
        assert point.settings.scales_of("layers.0.x") == (3, 4 * point.position)
    assert [each.seed for each in retention_seeds(chosen, 3)] == [5, 6, 7]
    by_set = MergeSettings(
        method="by_set", alpha=2, alpha_rest=-1, beta_shared=4, scales=own.scales
    )
    for point in curves(by_set)["alpha"]:
        scales = point.settings.set_scales_of("layers.1.x")
        assert scales == ((2 * point.position, 0, -point.position), (1, 4, 0))
        assert point.settings.scales_of("layers.0.x") == (3 * point.position, 1)
