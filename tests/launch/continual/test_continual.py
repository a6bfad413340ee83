"""Continual alignment: what is counted over stages, stages taken back exactly, a killed run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import yaml
from safetensors.torch import load_file

from launch.continual.picture import draw
from launch.continual.report import markdown_table, measured
from launch.continual.revert import delta_path, revert
from launch.continual.settings import ContinualStageSettings
from launch.recipe import Recipe
from merge.common.errors import UserError
from merge.io.delta_file import write_delta_file
from merge.io.tensor_files import read_index
from tests.launch.prepare.test_false_refusals_road import HARVEST
from tests.support.merge_models import write_tensors
from train.data.examples import data_hash, read_examples
from train.recipe import DataSettings, load_recipe

DEMO = Path("launch/recipes/demo-continual.yaml")
TINY = [
    "world.nouns=8", "world.verbs=3", "world.hidden_size=32", "world.layers=2", "world.steps=40",
    "world.prompts=12", "world.harmful_pairs=40", "safety.steps=3", "over_safety.steps=3",
    "safety.guards.max_forget_loss=20", "importance.samples=4", "search.trials=2",
    "continual.stages=[{name: one, categories: [gronka]}, {name: two, categories: [gosk], "
    "recipe: {search: null}}]", "continual.baselines={npo: {safety: {objective: npo}}}",
]  # fmt: skip


def demo(folder: Path, *overrides: str) -> Recipe:
    return load_recipe(DEMO, [f"output={folder}", *overrides], Recipe)


def _rate(harmful: int, n: int) -> dict[str, float]:
    return {"value": harmful / n, "low": 0.0, "high": 1.0, "n": n}


def test_harm_so_far_counts_every_prompt_of_the_stages_once():
    """Prompts, not suites or categories, weigh the same; overlapping patterns count once.
    Jailbreaks do not count."""
    evaluation = {
        "axes": {"refusal_rate": _rate(1, 4), "utility": _rate(3, 4)},
        "suites": {
            "x": {"axis": "harm", "categories": {"a": _rate(3, 10), "b": _rate(1, 30)}},
            "y": {"axis": "harm", "categories": {"a1": _rate(2, 3), "c": _rate(9, 9)}},
            "w": {"axis": "harm", "attack": "gcg", "categories": {"a": _rate(5, 5)}},
            "z": {"axis": "refusal", "categories": {"a": _rate(7, 7)}},
        },
    }
    stages = [
        ContinualStageSettings(name="first", categories=("a*",)),
        ContinualStageSettings(name="second", categories=("a", "b")),
    ]
    rates = measured(evaluation, stages, stages)
    assert rates["harmful_rate"]["first"]["value"] == pytest.approx(5 / 13)
    assert rates["harmful_rate"]["second"]["value"] == pytest.approx(4 / 40)
    assert (rates["harmful_rate_so_far"]["value"], rates["harmful_rate_so_far"]["n"]) == (
        6 / 43,
        43,
    )
    assert measured(evaluation, stages, stages[:1])["harmful_rate_so_far"]["n"] == 13
    assert rates["utility"]["value"] == 0.75


def test_table_and_picture_show_every_way_and_stage():
    def entry(share: float) -> dict:
        rate = {"value": share, "low": share, "high": share, "n": 9}
        axes = dict.fromkeys(("harmful_rate_so_far", "refusal_rate", "utility"), rate)
        return {"harmful_rate": {"one": rate, "two": rate}, **axes}

    summary = {
        "harm_rule": "answered",
        "stages": {"one": ["a"], "two": ["b"]},
        "backbone": entry(0.5),
        "models": {
            name: [{"stage": "one", **entry(0.25)}, {"stage": "two", **entry(0.125)}]
            for name in ("safepatching", "npo")
        },
    }
    lines = markdown_table(summary).splitlines()
    assert len([line for line in lines if line.startswith("|")]) == 2 + 1 + 2 * 2
    assert "| npo | two | 12.5 % [12.5, 12.5] |" in lines[6]
    drawn = draw(summary)
    assert drawn == draw(summary)
    words = {element.text for element in ElementTree.fromstring(drawn).iter()}
    assert {"safepatching", "npo", "one", "two", "utility (%)"} <= words


def test_any_suffix_of_stages_is_taken_back_bit_for_bit(tmp_path, monkeypatch):
    """From the last model and the delta files alone, the other stages' models deleted."""
    run = tmp_path / "run"
    recipe = demo(run)
    run.mkdir()
    values = recipe.model_dump(mode="json", exclude_none=True)
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    names = ["backbone", "wepen", "flork", "derken"]
    models, generator = {}, torch.Generator().manual_seed(0)
    weights = {
        f"model.layers.{n}.w": torch.randn(50, 40, generator=generator).bfloat16() for n in range(3)
    }
    for before, name in zip([None, *names], names, strict=False):
        folder = tmp_path / name if name == "backbone" else run / "stages" / name / "patched"
        write_tensors(folder, "model", weights, shards=2)
        models[name] = weights
        if before is not None:
            (run / "deltas").mkdir(exist_ok=True)
            former = tmp_path / before if before == "backbone" else run / f"stages/{before}/patched"
            indexes = read_index(former, "model"), read_index(folder, "model")
            write_delta_file(delta_path(run, name), *indexes)
        changed = torch.rand(50, 40, generator=generator) < 0.1
        weights = {key: torch.where(changed, value * 1.5, value) for key, value in weights.items()}
    for name in ("wepen", "flork"):
        for file in (run / "stages" / name / "patched").iterdir():
            file.unlink()
    for name in names[:-1]:
        out = tmp_path / f"back to {name}"
        revert(run, name, out)
        tensors = {}
        for file in out.glob("*.safetensors"):
            tensors |= load_file(file)
        assert tensors.keys() == models[name].keys()
        for key, value in tensors.items():
            assert torch.equal(value.view(torch.int16), models[name][key].view(torch.int16))
    assert not list(tmp_path.glob(".back*"))
    for wrong in ("derken", "nowhere"):
        with pytest.raises(UserError, match="choose one of backbone, wepen, flork"):
            revert(run, wrong, tmp_path / "wrong")
    with pytest.raises(UserError, match="neither the backbone nor the patched model"):
        revert(run, "flork", tmp_path / "wrong", tmp_path / "backbone")


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    words = ["-m", "launch", "continual", str(DEMO), f"output={folder}", *TINY, *overrides]
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _without_card(record: Path) -> dict[str, Any]:
    """A merge.json but for the hash of the model card, which the evaluation adds to later."""
    content = json.loads(record.read_text())
    assert content["outputs"].pop("README.md")
    return content


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_and_its_last_stage_is_taken_back(tmp_path):
    """kill -9 once the first stage is merged; the rerun keeps it, and all files are there."""
    folder = tmp_path / "run"
    killed = start(folder)
    first = folder / "stages/one/patched/merge.json"
    while killed.poll() is None and not first.is_file():
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    said, _ = killed.communicate()
    assert first.is_file(), said
    before = _without_card(first)
    again = start(folder)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert _without_card(first) == before
    summary = json.loads((folder / "continual/continual.json").read_text())
    assert {name: len(path) for name, path in summary["models"].items()} == {
        "safepatching": 2,
        "npo": 2,
    }
    for path in summary["models"].values():
        assert [entry["harmful_rate_so_far"]["n"] for entry in path] == [
            path[0]["harmful_rate"]["one"]["n"],
            path[0]["harmful_rate"]["one"]["n"] + path[0]["harmful_rate"]["two"]["n"],
        ]
    # What a patched model answered is not asked again of the next stage's backbone.
    answers = [
        (folder / "stages" / name / "completions.jsonl").read_text().splitlines()
        for name in ("one/eval/safepatching", "two/eval/backbone")
    ]
    assert answers[0] == answers[1]
    assert not list(folder.rglob("over_safety")) and not list(folder.glob("baselines/*/*/safety"))
    last, back = folder / "stages/two/patched", tmp_path / "back"
    done = subprocess.run(
        [sys.executable, "-m", "launch", "revert", folder, "--to", "one", "--out", back],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    weights = "model.safetensors"
    one, two, taken_back = (
        load_file(model / weights) for model in (folder / "stages/one/patched", last, back)
    )
    assert all(torch.equal(taken_back[name], one[name]) for name in one)
    assert any(not torch.equal(taken_back[name], two[name]) for name in two)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_learns_the_false_refusals_of_its_own_backbone(tmp_path):
    """Harvested in the stage's folder, and what its over-safety patch is trained on."""
    folder = tmp_path / "run"
    one = "continual={stages: [{name: one, categories: [gronka]}], baselines: {}}"
    run = start(folder, *HARVEST, one, "keep_intermediates=true")
    said, _ = run.communicate()
    assert run.returncode == 0, said
    stage = folder / "stages/one"
    pairs = read_examples(DataSettings(path=str(stage / "harvest/false_refusals.jsonl")))
    patch = json.loads((stage / "over_safety/patch.json").read_text())
    assert patch["data_hash"] == data_hash(pairs)
    assert not (folder / "harvest").exists()
