"""The whole road with an over-safety patch of the backbone's false refusals, on a tiny world."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.pipeline.test_pipeline import TINY
from train.data.examples import data_hash, read_examples
from train.recipe import DataSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HARVEST = [
    "harvest={harmless: {source: '${output}/world/look_alikes.jsonl', max_new_tokens: 24}, "
    "over_safety: {steps: 60, learning_rate: 3.0e-3}}",
    "false_refusals={path: '${output}/harvest/false_refusals.jsonl'}",
    "over_safety.data=false_refusals", "importance.data={safety: false_refusals}",
    "safety.guards.margin_samples=4", "world.steps=250", "search=null", "ablations={}",
    "eval.single_patches=false", "eval.decodings={}",
]  # fmt: skip


def launch(folder: Path, command: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    words = ["-m", "launch", command, "launch/recipes/demo.yaml", f"output={folder}"]
    return subprocess.run(
        [sys.executable, *words, *TINY, *HARVEST, *overrides], capture_output=True, text=True
    )


def test_the_road_from_harvest_to_report(tmp_path: Path) -> None:
    """Trained and measured on the harvested pairs; what could answer harm is gone at the end."""
    folder = tmp_path / "run"
    harvested = launch(folder, "harvest")
    assert harvested.returncode == 0, harvested.stderr
    file = folder / "harvest/false_refusals.jsonl"
    assert str(file) in harvested.stdout.replace("\n", "")
    assert not (folder / "over_safety.first").exists() and (folder / "openings.json").is_file()
    pairs = read_examples(DataSettings(path=str(file)))
    asked = [json.loads(line) for line in (folder / "world/look_alikes.jsonl").open()]
    assert {pair.question for pair in pairs} <= {row["prompt"] for row in asked}
    done = launch(folder, "run", "keep_intermediates=true")
    assert done.returncode == 0, done.stderr
    over, safety = (
        json.loads((folder / role / "patch.json").read_text()) for role in ("over_safety", "safety")
    )
    assert over["data_hash"] == data_hash(pairs) == safety["measured_hash"]
    world = DataSettings(path=str(folder / "world/harmful.jsonl"))
    assert safety["data_hash"] == data_hash(read_examples(world))
    assert safety["margins"]
    again = launch(folder, "run")
    assert again.returncode == 0, again.stderr
    assert not (folder / "over_safety").exists() and not (folder / "harvest").exists()
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["keep_intermediates"] is False
