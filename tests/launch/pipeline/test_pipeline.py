"""The whole road on a tiny world: its files, its privacy, reruns, and that a seed repeats it."""

import fcntl
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM

from launch.run.trace.report import trace_report
from merge.common.provenance import recipe_hash

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TINY = [
    "world.nouns=8", "world.verbs=3", "world.hidden_size=32", "world.layers=2", "world.steps=60",
    "world.prompts=12", "world.harmful_pairs=40", "safety.steps=4", "over_safety.steps=4",
    "safety.guards.max_forget_loss=20", "importance.samples=9", "search.trials=3",
    "search.methods=[difference,dense]", "eval.decodings={self_cd: {method: self_cd}}",
]  # fmt: skip


def launch(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "launch", "run", "launch/recipes/demo.yaml",
            f"output={folder}", *TINY, *overrides,
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    done = launch(folder, "keep_intermediates=true")
    assert done.returncode == 0, done.stderr
    assert "Harmful" in done.stdout
    return folder


def test_every_stage_leaves_its_files(finished):
    report = json.loads((finished / "report/report.json").read_text())
    axes = {"harmful_rate", "refusal_rate", "utility", "degenerate_rate"}
    assert set(report["models"]) == {
        "backbone", "safety", "over_safety", "self_cd", "dense", "dense_instead",
        "intersection_instead", "safepatching",
    }  # fmt: skip
    for rates in report["models"].values():
        assert axes <= rates.keys()
        for rate in rates.values():
            assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1
            assert rate["n"] > 0
    for role in ("safety", "over_safety"):
        record = json.loads((finished / role / "patch.json").read_text())
        assert (record["format"], record["role"]) == (1, role)
    for run in ("train-safety", "train-over_safety", "merge", "search", "eval"):
        assert list((finished / "tensorboard" / run).rglob("events*")), run
    AutoModelForCausalLM.from_pretrained(finished / "patched")
    search = json.loads((finished / "search/search.json").read_text())
    assert len(search["trials"]) == 2 * 3
    assert [trial["chosen"] for trial in search["trials"]].count(True) >= 1
    lines = yaml.safe_load((finished / "search/chosen.yaml").read_text())
    merged = json.loads((finished / "patched/merge.json").read_text())
    assert lines["merge"].items() <= merged["settings"].items()
    for picture in ("search/front.svg", "report/trade-off.svg"):
        assert "prefers-color-scheme" in (finished / picture).read_text()


def test_the_report_leads_to_the_bytes_of_trained_patches_and_to_their_data(finished):
    root = trace_report(finished / "report/report.json", verify=True)
    assert root.all_mismatches() == []
    data = [node for node in root.walk() if node.what == "data"]
    assert data and {node.state for node in data} == {"unchanged"}
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    for file in ("safety/patch.json", "over_safety/patch.json", "patched/merge.json"):
        written = json.loads((finished / file).read_text())["written_by"]
        assert written["recipe_sha256"] == recipe_hash(recipe), file


def test_a_stage_that_another_process_is_at_is_refused(tmp_path):
    """Two runs of one folder would write the same files at once."""
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / ".world.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = launch(folder)
    assert done.returncode == 2
    assert "another process is at stage world" in done.stderr and "Traceback" not in done.stderr
    assert not (folder / "world").exists()


def test_the_over_safety_patch_and_its_answers_stay_private(finished):
    for folder in (finished / "over_safety", finished / "eval/over_safety"):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list((finished / "comparisons").glob("*"))


def test_a_rerun_without_keep_intermediates_deletes_them_and_changes_nothing(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = yaml.safe_load((folder / "recipe.yaml").read_text())
    config["output"] = str(folder)
    for section, key in (("backbone", "path"), ("data", "path"), ("eval", "suite")):
        config[section][key] = config[section][key].replace(str(finished), str(folder))
    config["search"]["suite"] = config["search"]["suite"].replace(str(finished), str(folder))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config))
    before = (folder / "patched/merge.json").read_bytes()
    again = launch(folder)
    assert again.returncode == 0, again.stderr
    assert "training" not in again.stderr
    assert not (folder / "over_safety").exists()
    assert (folder / "patched/merge.json").read_bytes() == before


def test_the_same_seed_repeats_the_report_and_another_recipe_is_refused(finished, tmp_path):
    folder = tmp_path / "run"
    done = launch(folder)
    assert done.returncode == 0, done.stderr
    reports = [json.loads((run / "report/report.json").read_text()) for run in (finished, folder)]
    assert reports[0]["models"] == reports[1]["models"]
    hashes = [json.loads((run / "patched/merge.json").read_text()) for run in (finished, folder)]
    weights = "model.safetensors"
    assert hashes[0]["outputs"][weights] == hashes[1]["outputs"][weights]
    other = launch(folder, "seed=1")
    assert other.returncode == 2
    assert "'seed' changed since world was made; delete" in other.stderr


def test_a_failed_training_ends_with_its_reason_and_status_2(finished, tmp_path):
    folder = tmp_path / "run"
    failed = launch(folder, f"backbone.path={finished}/world/backbone", "data.path=missing.jsonl")
    assert failed.returncode == 2
    assert "missing.jsonl" in failed.stderr
    assert "Traceback" not in failed.stderr
