"""The stages of a continual alignment as recipes: each follows from the one before."""

import json
from pathlib import Path

import pytest
import yaml

from launch.continual.stage_recipes import (
    baseline_stages,
    check_test_suite,
    patch_stages,
    write_search_suite,
)
from launch.pipeline.pipeline import Pipeline
from launch.recipe import Recipe
from merge.common.errors import UserError
from train.recipe import load_recipe

DEMO = Path("launch/recipes/demo-continual.yaml")


def demo(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(DEMO, [f"output={folder}", *overrides], Recipe)


def test_each_stage_patches_the_model_of_the_stage_before(tmp_path):
    recipe = demo(tmp_path, "keep_intermediates=true")
    stages = patch_stages(recipe)
    assert [stage.recipe.backbone.path for stage in stages] == [
        f"{tmp_path}/world/backbone",
        f"{tmp_path}/stages/wepen/patched",
        f"{tmp_path}/stages/flork/patched",
    ]
    assert [stage.recipe.data.categories for stage in stages] == [
        ("wepen",),
        ("flork",),
        ("derken",),
    ]
    assert all(stage.recipe.world is None and stage.recipe.continual is None for stage in stages)
    assert all(stage.recipe.keep_intermediates for stage in stages)
    npo = baseline_stages(recipe, "npo")
    assert npo[1].recipe.backbone.path == f"{tmp_path}/baselines/npo/wepen/patched"
    assert npo[0].recipe.safety.objective == "npo" and npo[0].recipe.search is None
    assert (npo[0].recipe.safety.steps, recipe.safety.steps) == (13, 40)
    assert npo[0].recipe.safety.learning_rate == recipe.safety.learning_rate


def test_baselines_train_without_a_bound_unless_the_recipe_says_so(tmp_path):
    """A later stage begins where the bound of the first one ended, and may never raise a margin."""
    recipe = demo(
        tmp_path,
        "continual={stages: [{name: a, categories: [x]}]}",
        "safety.guards.margin_samples=8",
    )
    assert recipe.continual is not None
    sections = {}
    for name in recipe.continual.baselines:
        (stage,) = baseline_stages(recipe, name)
        sections[name] = stage.recipe.safety
    assert {name: section.objective for name, section in sections.items()} == {
        "npo": "npo",
        "ascent": "ascent",
    }
    assert recipe.safety.guards.max_forget_loss == 0.5
    assert all(section.guards.max_forget_loss == 1000 for section in sections.values())
    assert all(section.guards.margin_samples == 0 for section in sections.values())


def test_a_stage_changes_what_it_says_and_nothing_else(tmp_path):
    changes = "{search: {trials: 7}, merge: {alpha: 2}}"
    stages = f"continual.stages=[{{name: a, categories: [x], recipe: {changes}}}]"
    recipe = demo(tmp_path, stages, "merge.beta=3")
    (stage,) = patch_stages(recipe)
    assert stage.recipe.search is not None and recipe.search is not None
    assert stage.recipe.search.trials == 7
    assert stage.recipe.search.methods == recipe.search.methods
    assert (stage.recipe.merge.alpha, stage.recipe.merge.beta) == (2, 3)


FALSE_REFUSALS = (
    "harvest={questions: {source: q.jsonl}, harmless: {source: h.jsonl}, over_safety: {steps: 3}}",
    "false_refusals={path: '${output}/harvest/false_refusals.jsonl'}",
    "over_safety.data=false_refusals",
)


def test_each_stage_harvests_what_its_own_backbone_refuses_falsely(tmp_path):
    """D_h is harvested once for all stages, and a baseline, which trains on D_h alone, harvests
    nothing."""
    recipe = demo(tmp_path, *FALSE_REFUSALS)
    for stage in patch_stages(recipe):
        harvest = stage.recipe.harvest
        assert harvest is not None and harvest.questions is None
        assert harvest.harmless == ({"source": "h.jsonl"},)
        assert harvest.over_safety == {"steps": 3}
        assert stage.recipe.false_refusals is not None
        assert stage.recipe.false_refusals.path == (
            f"{stage.recipe.output}/harvest/false_refusals.jsonl"
        )
        stages = Pipeline(stage.recipe).stages()
        assert {"over_safety_first", "false_refusals"} <= set(stages) and "harvest" not in stages
    assert all(stage.recipe.harvest is None for stage in baseline_stages(recipe, "npo"))


def test_pairs_of_false_refusals_that_are_given_stay(tmp_path):
    given = "false_refusals={path: mine.jsonl}"
    (first, *_) = patch_stages(demo(tmp_path, given, "over_safety.data=both"))
    assert first.recipe.false_refusals is not None
    assert first.recipe.false_refusals.path == "mine.jsonl" and first.recipe.harvest is None


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("continual.stages=[]", "at least 1"),
        ("continual.stages=[{name: a, categories: []}]", "at least 1"),
        ("continual.stages=[{name: ../a, categories: [x]}]", "should match pattern"),
        ("continual.stages=[{name: backbone, categories: [x]}]", "rename"),
        ("continual.baselines.safepatching={}", "rename"),
        ("continual.baselines.npo.safty={}", "did you mean 'safety'"),
        ("eval=null", "needs an eval section"),
        ("continual=null", "add one with a list of stages"),
    ],
)
def test_mistakes_are_found_before_any_work(override, wanted, tmp_path):
    with pytest.raises(UserError, match=wanted):
        baseline_stages(demo(tmp_path, override), "npo")


def test_a_stage_searches_on_the_harm_so_far_and_on_nothing_later(tmp_path):
    """A row's limit is that of its categories together."""
    prompts = [{"prompt": f"p{n}", "category": c} for n, c in enumerate("abcab")]
    (tmp_path / "harm.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    rows = [
        {
            "name": "harm",
            "axis": "harm",
            "source": "harm.jsonl",
            "columns": {"category": "category"},
        },
        {"name": "few", "axis": "harm", "source": "harm.jsonl", "limit": 3}
        | {"columns": {"category": "category"}},
        {"name": "mild", "axis": "refusal", "source": "harm.jsonl"},
    ]
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(rows))
    listed = "[{name: one, categories: [a]}, {name: two, categories: ['[bx]']}]"
    stages = patch_stages(demo(tmp_path / "run", f"continual.stages={listed}"))
    asked = []
    for stage in stages:
        write_search_suite(stage, suite, None)
        from eval.suites.prompts import load_prompts
        from eval.suites.suite import load_suite

        assert stage.recipe.search is not None
        sets = load_prompts(load_suite(stage.recipe.search.suite))
        asked.append(sorted(p.text for s in sets if s.row.name == "harm" for p in s.prompts))
        few = [prompt.text for s in sets if s.row.name == "few" for prompt in s.prompts]
        assert len(few) == min(3, len(asked[-1])) and set(few) <= set(asked[-1])
        assert [len(s.prompts) for s in sets if s.row.axis == "refusal"] == [5]
    assert asked == [["p0", "p3"], ["p0", "p1", "p3", "p4"]]
    check_test_suite(stages, suite, None)
    (nobody,) = patch_stages(demo(tmp_path / "r", "continual.stages=[{name: n, categories: [q]}]"))
    with pytest.raises(UserError, match="no harm prompt has a category of stage 'n'"):
        write_search_suite(nobody, suite, None)
    with pytest.raises(UserError, match="no harm prompt has a category of stage 'n'"):
        check_test_suite([nobody], suite, None)
