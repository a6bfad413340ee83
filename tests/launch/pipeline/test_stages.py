"""The table of stages: its order, its parts and workers, and names that are not in it."""

from pathlib import Path

import pytest

from launch.ablation.patches import WORK
from launch.continual.baselines import baseline_table
from launch.continual.continual import WHOLE
from launch.pipeline.pipeline import Pipeline
from launch.pipeline.stages import STAGES, stages_of
from launch.pipeline.work import intermediates
from launch.recipe import Recipe
from launch.run.folder import MERGED
from launch.run.stage import StageTable, Training, find_stage
from merge.common.errors import UserError
from train.recipe import load_recipe

DEMO = Path("launch/recipes/demo.yaml")


def demo(folder: Path, *changes: str) -> Recipe:
    return load_recipe(DEMO, [f"output={folder}", *changes], Recipe)


@pytest.mark.parametrize("table", [STAGES, {**STAGES, **WHOLE}, baseline_table("npo")])
def test_every_stage_stands_after_what_it_needs(table: StageTable, tmp_path: Path) -> None:
    """Commands go through a table in its order, and trust that no stage is met before its needs."""
    recipe = demo(tmp_path, "importance.data={safety: false_refusals}", "false_refusals={path: x}")
    names = list(table)
    for name, stage in table.items():
        assert stage.name == name
        needed = [each for each in stage.needs_of(recipe) if each in table]
        assert all(names.index(each) < names.index(name) for each in needed), name


def test_a_part_or_worker_is_found_by_its_name_while_the_recipe_has_it(tmp_path: Path) -> None:
    """Jobs are recorded as ``search.0`` or ``ablation.npo``, and so looked up again."""
    workers = ("search.by=answers", "search.fit=none", "search.workers=2")
    recipe = demo(tmp_path, *workers, "ablate={baselines: {npo: {objective: npo}}}")
    second = find_stage(STAGES, "search.1", recipe)
    trained = find_stage(STAGES, "ablation.npo", recipe)
    assert second is not None and second.name == "search.1" and not second.is_done(recipe)
    assert trained is not None and isinstance(trained.run, Training)
    patch = tmp_path / WORK / "npo/safety/patch.json"
    assert not trained.is_done(recipe)
    patch.parent.mkdir(parents=True)
    patch.write_text("{}")
    assert trained.is_done(recipe)
    for name in ("search.2", "ablation.ascent", "merge.0", "nothing"):
        assert find_stage(STAGES, name, recipe) is None, name
    with pytest.raises(UserError, match=r"stage search\.2: .* has none; choose one of world, "):
        Pipeline(recipe).run_job("search.2")


def test_a_table_without_the_ablation_goes_on_to_the_merge(tmp_path: Path) -> None:
    """The merge waits for an ablation where one was asked for, and else for none."""
    recipe = demo(tmp_path)
    assert "ablation" in STAGES["merge"].needs_of(recipe)
    assert "ablation" not in Pipeline(recipe).stages()
    asked = Pipeline(recipe, STAGES).stages()
    assert asked.index("search") < asked.index("ablation") < asked.index("merge")


def test_what_is_compared_waits_for_no_search_that_a_recipe_does_not_have(tmp_path: Path) -> None:
    """The search's stage asks nothing of the test part: ``launch search`` ends before that."""
    searched, plain = demo(tmp_path), demo(tmp_path, "search=null")
    assert [stages_of(searched).count(name) for name in ("search", "comparisons")] == [1, 1]
    assert [stages_of(plain).count(name) for name in ("search", "comparisons")] == [0, 1]
    assert "comparisons" not in stages_of(
        demo(tmp_path, "search=null", "eval.single_patches=false", "ablations={}")
    )
    assert "comparisons" not in STAGES["search"].needs_of(searched)


def test_checkpoints_that_a_kill_left_go_with_the_merge(tmp_path: Path) -> None:
    """A training that is killed once its patch is written leaves them, and is not started again."""
    recipe = demo(tmp_path)
    (tmp_path / "patched").mkdir()
    (tmp_path / MERGED).write_text("{}")
    assert STAGES["merge"].is_done(recipe)
    (tmp_path / "over_safety.work/step-00000003").mkdir(parents=True)
    (tmp_path / "safety.work").mkdir()
    assert not STAGES["merge"].is_done(recipe)
    assert intermediates(recipe) == [tmp_path / "safety.work", tmp_path / "over_safety.work"]
    assert not intermediates(demo(tmp_path, "keep_intermediates=true"))
