"""A search's prediction on the inspection's page: found, checked, and shown as it is."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from merge.common.errors import UserError
from merge.inspect.page import render
from merge.inspect.prediction import Prediction, find_prediction, read_prediction
from merge.settings import MergeSettings
from tests.merge.inspect.test_inspect import look, write_inputs

BEFORE = {"harmful_rate": 0.375, "refusal_rate": 0.3, "auc": 0.756, "auc_matched": None}
PARTS = [
    {"part": "S & O", "grouping": "layers", "scales": 48, "auc": 0.8125, "auc_matched": 0.79,
     "harmful_rate": 0.125, "refusal_rate": 0.32},
    {"part": "O", "grouping": "global", "scales": 1, "auc": 0.75, "auc_matched": None,
     "harmful_rate": 0.4, "refusal_rate": 0.2},
]  # fmt: skip
LAYERS = [
    {"layer": 1, "safety": {"harmful": 2.0, "harmless": -0.5},
     "over_safety": {"harmful": -1.0, "harmless": -0.25}},
    {"layer": 0, "safety": {"harmful": 0.5, "harmless": 0.75},
     "over_safety": {"harmful": 0.0, "harmless": 0.125}},
]  # fmt: skip
RECORD: dict[str, Any] = {
    "format": 1, "questions": {"harmful": 56, "harmless": 57}, "before": BEFORE,
    "parts": PARTS, "layers": LAYERS,
}  # fmt: skip


def write(path: Path, record: dict[str, Any] = RECORD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def command(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    flags = [
        f"--{name.replace('_', '-')}={folder / name}"
        for name in ("backbone", "safety", "over_safety", "out")
    ]
    line = [sys.executable, "-m", "merge", "inspect", *flags, *more]
    return subprocess.run(line, capture_output=True, text=True)


def page_of(record: dict[str, Any], folder: Path) -> str:
    write_inputs(folder, torch.float32, True, seed=1)
    numbers = look(folder, MergeSettings())
    prediction = read_prediction(write(folder / "prediction.json", record))
    return render({**numbers, "prediction": prediction.model_dump(mode="json")}, "model")


def test_the_page_shows_parts_and_layers(tmp_path: Path) -> None:
    page = page_of(RECORD, tmp_path)
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", page)]
    assert rows == [
        [],
        ["backbone", "", "0.756", "", "37.5", "", "30.0", ""],
        ["S &amp; O, scales by layer", "48", "0.812", "0.790", "12.5", "-25.0", "32.0", "+2.0"],
        ["O, one scale each", "1", "0.750", "", "40.0", "+2.5", "20.0", "-10.0"],
    ]
    assert "56 harmful and 57 harmless" in page
    # By layer: both margins of either patch, and what is between them.
    titles = re.findall(r"<title>layer (\d), (\w+): (\S+) nats</title>", page)
    cells = [(int(layer), row, float(value)) for layer, row, value in titles]
    wanted = []
    for role in ("safety", "over_safety"):
        for row in ("harmful", "harmless", "apart"):
            for layer in reversed(LAYERS):
                change = layer[role]
                value = change["harmful"] - change["harmless"] if row == "apart" else change[row]
                wanted.append((layer["layer"], row, value))
    assert cells == wanted


def test_without_layers_the_table_stands_alone(tmp_path: Path) -> None:
    page = page_of({**RECORD, "layers": [], "parts": []}, tmp_path)
    assert page.count("<tr>") == 2 and "refusal margins, " not in page


@pytest.mark.slow
def test_the_command_finds_and_writes_it(tmp_path: Path) -> None:
    """The run folder's own by itself, another where it is named, and none where there is none."""
    write_inputs(tmp_path, torch.float32, True, seed=1)
    assert command(tmp_path).returncode == 0
    assert "prediction" not in json.loads((tmp_path / "out/inspection.json").read_text())
    assert "<table" not in (tmp_path / "out/inspection.html").read_text()
    own = write(tmp_path / "search/prediction.json")
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/inspection.json").read_text())["prediction"] == RECORD
    assert "Is a repair within reach?" in (tmp_path / "out/inspection.html").read_text()
    other = {**RECORD, "questions": {"harmful": 5, "harmless": 4}}
    done = command(tmp_path, "--prediction", str(write(tmp_path / "other.json", other)))
    assert json.loads((tmp_path / "out/inspection.json").read_text())["prediction"] == other
    assert find_prediction(tmp_path / "safety", tmp_path / "over_safety") == own
    assert find_prediction(tmp_path / "safety", tmp_path / "elsewhere/over_safety") is None


@pytest.mark.slow
def test_a_wrong_file_is_one_error_before_anything_is_read(tmp_path: Path) -> None:
    """No inputs are there: had they been looked at first, they would be the error."""
    missing = command(tmp_path, "--prediction", str(tmp_path / "none.json"))
    torn = write(tmp_path / "search/prediction.json")
    torn.write_text(torn.read_text()[:-9])
    for done, words in ((missing, "none.json: there is no"), (command(tmp_path), "not valid JSON")):
        assert done.returncode == 2 and words in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "key 'format' = 2"),
        ({"before": {**BEFORE, "auc": float("nan")}}, "key 'before.auc' = nan"),
        ({"parts": [{**PARTS[0], "harmful_rate": 12.5}]}, "'parts.0.harmful_rate' = 12.5"),
        ({"parts": [{**PARTS[0], "grouping": "heads"}]}, "'parts.0.grouping' = 'heads'"),
        ({"layers": [{"layer": 0, "safety": LAYERS[0]["safety"]}]}, "'layers.0.over_safety' is"),
        ({"questions": None}, "key 'questions' = None"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        read_prediction(write(tmp_path / "p.json", {**RECORD, **change}))
    assert str(caught.value).startswith(str(tmp_path / "p.json"))


def test_later_keys_are_passed_over(tmp_path: Path) -> None:
    later = {**RECORD, "ridge": 0.1, "parts": [{**PARTS[1], "interval": [0, 1]}]}
    prediction = read_prediction(write(tmp_path / "p.json", later))
    assert prediction == Prediction.model_validate({**RECORD, "parts": [PARTS[1]]})
