"""What of a recipe may change in a run folder, and what must be deleted first."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.run.products import products_of
from merge.common.errors import UserError
from merge.common.settings import parse_settings
from tests.support.merge_models import write_patch

MARKS = {
    "safety": "safety/patch.json",
    "over_safety": "over_safety/patch.json",
    "search": "search/difference.jsonl",
    "search.json": "search/search.json",
    "patched": "patched/merge.json",
    "report": "report/report.json",
}


def recipe(folder: Path, **sections: Any) -> Recipe:
    plain = {
        "name": "x",
        "output": str(folder),
        "backbone": {"path": "some/model"},
        "data": {"path": "pairs.jsonl"},
        "search": {"suite": "validation.yaml", "trials": 4},
        "eval": {"suite": "test.yaml"},
    }
    return parse_settings(Recipe, {**plain, **sections}, "recipe")


def claimed(folder: Path, *done: str) -> Path:
    """A run folder in which so much is done."""
    claim_folder(recipe(folder))
    for name in done:
        file = folder / MARKS.get(name, f"{name}/summary.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return folder


def refused(folder: Path, **sections: Any) -> set[str]:
    """What the refusal says must be deleted, relative to the folder; it leaves all as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        claim_folder(recipe(folder, **sections))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    named = str(error.value).partition("delete ")[2].partition(", or choose")[0]
    return {word.removeprefix(f"{folder}/") for word in named.replace(" and ", ", ").split(", ")}


def test_a_first_run_that_failed_owns_nothing(tmp_path):
    claimed(tmp_path)
    file = claim_folder(recipe(tmp_path, data={"path": "right.jsonl"}, seed=3, name="y"))
    assert yaml.safe_load(file.read_text())["data"]["path"] == "right.jsonl"


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"data": {"path": "q.jsonl"}}, {"safety", "over_safety", "search", "patched"}),
        ({"over_safety": {"steps": 7}}, {"over_safety", "search", "patched"}),
        ({"search": {"suite": "other.yaml", "trials": 4}}, {"search", "patched"}),
        ({"search": {"suite": "validation.yaml", "trials": 9}}, {"patched"}),
        ({"search": None}, {"search", "patched"}),
        ({"merge": {"retention": 0.4}}, {"search", "patched"}),
        ({"eval": {"suite": "test.yaml", "dtype": "bfloat16"}}, {"search", "patched"}),
    ],
)
def test_what_depends_on_a_change_is_named_and_nothing_else(tmp_path, sections, named):
    folder = claimed(tmp_path, "safety", "over_safety", "search", "search.json", "patched")
    assert refused(folder, **sections) == named


def test_an_evaluation_added_later_keeps_a_search_by_its_defaults(tmp_path):
    file = claim_folder(recipe(tmp_path, eval=None))
    assert "eval" not in yaml.safe_load(file.read_text())
    (tmp_path / "search").mkdir()
    (tmp_path / MARKS["search"]).write_text("{}")
    claim_folder(recipe(tmp_path))
    assert refused(tmp_path, eval={"suite": "test.yaml", "reasoning": True}) == {"search"}


def test_an_unfinished_training_is_of_its_settings_too(tmp_path):
    folder = claimed(tmp_path, "over_safety")
    (folder / "safety.work/step-00000003").mkdir(parents=True)
    claim_folder(recipe(folder, safety={"steps": 5}))  # torn: no whole checkpoint
    (folder / "safety.work/step-00000003/complete.json").write_text("{}")
    assert refused(folder, safety={"steps": 6}) == {"safety.work"}


def test_more_trials_keep_the_trials_and_choose_anew(tmp_path):
    folder = claimed(tmp_path, "safety", "over_safety", "search", "search.json", "eval/safety")
    claim_folder(recipe(folder, search={"suite": "validation.yaml", "trials": 9, "workers": 2}))
    assert (folder / MARKS["search"]).is_file()
    assert (folder / "eval/safety/summary.json").is_file()
    assert not (folder / MARKS["search.json"]).exists()


def test_an_evaluation_changes_freely_and_a_comparison_of_other_prompts_goes(tmp_path):
    folder = claimed(tmp_path, "safety", "over_safety", "patched", "report", "eval/over_safety")
    compared = folder / "eval/over_safety/summary.json"
    claim_folder(recipe(folder, eval={"suite": "test.yaml", "margins": {"utility": 0.1}}))
    assert not (folder / MARKS["report"]).exists() and compared.is_file()
    claim_folder(recipe(folder, eval={"suite": "other.yaml"}))
    assert not compared.exists() and (folder / MARKS["patched"]).is_file()


def test_a_folder_of_another_version_is_of_the_same_recipe(tmp_path):
    """Keys that it did not know have their defaults; what it says of itself does not count."""
    folder = claimed(tmp_path, "safety", "over_safety", "search", "patched")
    file = folder / "recipe.yaml"
    values = yaml.safe_load(file.read_text())
    assert values.pop("written_by")["version"]
    del values["safety"]["liger"], values["merge"]["rescale"], values["keep_intermediates"]
    file.write_text(yaml.safe_dump({**values, "written_by": {"version": "0", "commit": "old"}}))
    claim_folder(recipe(folder))
    values["safety"]["momentum"] = 0.5
    file.write_text(yaml.safe_dump(values))
    assert refused(folder) == {"safety", "search", "patched"}


def test_patterns_that_cover_what_the_default_covers_are_no_change(tmp_path):
    folder = claimed(tmp_path, "search", "patched")
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (0, 1) for part in "ud"]
    tensors = {name: torch.zeros(2, 3) for name in [*names, "model.embed_tokens.weight"]}
    write_patch(folder / "safety", "safety", tensors, tensors)
    file = folder / "recipe.yaml"
    values = yaml.safe_load(file.read_text())
    for patterns, same in ((["*.mlp.*"], True), (["*.u_proj.weight"], False), (["*"], False)):
        values["merge"]["include"] = patterns
        file.write_text(yaml.safe_dump(values))
        if same:
            claim_folder(recipe(folder))
        else:
            assert refused(folder) == {"search", "patched"}


def test_a_moved_run_folder_is_the_same_run(tmp_path):
    first = tmp_path / "first"
    for folder in (first, tmp_path / "second"):
        own = recipe(folder, backbone={"path": f"{folder}/alignment/backbone"})
        if folder != first:
            first.rename(folder)
        claim_folder(own)
        (folder / "safety").mkdir(exist_ok=True)
        (folder / "safety/patch.json").write_text("{}")


def test_every_stage_has_its_products_and_every_product_comes_after_what_it_is_made_of():
    harvest = {"questions": {"source": "q"}, "harmless": {"source": "h"}}
    evaluation = {"suite": "test.yaml", "baselines": True}
    more = {"harvest": harvest, "ablations": {"z": {"alpha": 2}}, "eval": evaluation}
    known = products_of(recipe(Path("run"), **more))
    places = {path: place for place, path in enumerate(known)}
    for path, product in known.items():
        assert all(places[other] < places[path] for other in product.of), path
    stages = {
        "world", "alignment", "harvest", "openings", "over_safety.first", "false_refusals",
        "safety", "over_safety", "search", "eval/z", "eval/npo", "ablation", "patched", "report",
    }  # fmt: skip
    assert len(stages) == len(STAGES)
    assert all(any(name in path for path in known) for name in stages)
