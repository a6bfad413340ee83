"""A look into patches: every count and sum against numpy on small random patches, with ties."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from merge.common.errors import UserError
from merge.inspect.inspection import RATES, inspect
from merge.inspect.units import MULTIPLES
from merge.settings import MergeSettings
from tests.merge.engine.test_exact import INCLUDE, make_case, run_build
from tests.support.merge_models import write_patch, write_tensors

ROLES = ("safety", "over_safety")
SHAPES = {
    "model.layers.0.mlp.up_proj.weight": (37, 11),
    "model.layers.0.self_attn.q_proj.weight": (16, 24),
    "model.layers.1.mlp.up_proj.weight": (300, 300),
}
Arrays = dict[str, np.ndarray]


def write_inputs(folder: Path, dtype: torch.dtype, gradients: bool, seed: int) -> dict[str, Arrays]:
    """Random inputs whose scores have many ties; the scores by role, in fp32."""
    draw = torch.Generator().manual_seed(seed)

    def coarse(shape: tuple[int, ...], steps: int) -> torch.Tensor:
        return torch.randint(-steps, steps + 1, shape, generator=draw) / 8

    backbone = {name: coarse(shape, 3).bfloat16() for name, shape in SHAPES.items()}
    backbone["model.norm.weight"] = torch.ones(11).bfloat16()
    write_tensors(folder / "backbone", "model", backbone)
    scores: dict[str, Arrays] = {}
    for role in ROLES:
        delta = {name: coarse(shape, 2).to(dtype) for name, shape in SHAPES.items()}
        importance = {name: coarse(shape, 6).abs().to(dtype) for name, shape in SHAPES.items()}
        write_patch(
            folder / role, role, delta, importance, score="gradient" if gradients else "ready"
        )
        scores[role] = {
            name: (
                ((backbone[name].float() + delta[name].float()).abs() if gradients else 1)
                * importance[name].float()
            ).numpy()
            for name in SHAPES
        }
    return scores


def look(folder: Path, settings: MergeSettings) -> dict[str, Any]:
    return inspect(folder / "backbone", folder / "safety", folder / "over_safety", settings)


def top(values: np.ndarray, rate: float) -> np.ndarray:
    """The k = int(rate * n) largest, ties to the lowest index."""
    chosen = np.zeros(values.size, bool)
    chosen[np.argsort(-values, kind="stable")[: int(rate * values.size)]] = True
    return chosen


def top_sets(scores: Arrays, rate: float, scope: str) -> Arrays:
    names = sorted(SHAPES)
    if scope == "tensor":
        return {name: top(scores[name].ravel(), rate) for name in names}
    joint = top(np.concatenate([scores[name].ravel() for name in names]), rate)
    ends = np.cumsum([scores[name].size for name in names])
    return dict(zip(names, np.split(joint, ends[:-1]), strict=True))


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize(
    ("dtype", "gradients"), [(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)]
)
def test_sets_of_every_a_and_b_are_those_of_sorting(scope, dtype, gradients, tmp_path):
    scores = write_inputs(tmp_path, dtype, gradients, seed=1)
    settings = MergeSettings(scope=scope, top_safety=0.15, top_over_safety=0.4, retention=0.1)
    numbers = look(tmp_path, settings)
    rates = numbers["rates"]
    assert rates == sorted({*RATES, 0.15, 0.4})
    sets = {role: [top_sets(scores[role], rate, scope) for rate in rates] for role in ROLES}
    for i in range(len(rates)):
        for j in range(len(rates)):
            s, o = (
                np.concatenate([chosen[name] for name in sorted(SHAPES)])
                for chosen in (sets["safety"][i], sets["over_safety"][j])
            )
            assert numbers["top_S"][i] == s.sum() and numbers["top_O"][j] == o.sum()
            assert numbers["overlap"][i][j] == (s & o).sum()
            assert numbers["difference_S"][i][j] == (s & ~o).sum()
            assert numbers["difference_O"][i][j] == (o & ~s).sum()
            assert numbers["jaccard"][i][j] == pytest.approx((s & o).sum() / max((s | o).sum(), 1))
    for name, report in numbers["tensors"].items():
        s = sets["safety"][rates.index(0.15)][name]
        o = sets["over_safety"][rates.index(0.4)][name]
        assert report["elements"] == s.size
        assert (report["top_S"], report["top_O"]) == (s.sum(), o.sum())
        assert (report["overlap"], report["difference_S"]) == ((s & o).sum(), (s & ~o).sum())
        for role, key in zip(ROLES, ("importance_S", "importance_O"), strict=True):
            assert report[key] == pytest.approx(scores[role][name].sum(dtype=np.float64))


def test_units_are_rows_and_columns_above_a_multiple_of_the_mean(tmp_path):
    scores = write_inputs(tmp_path, torch.float32, True, seed=2)
    units = look(tmp_path, MergeSettings())["units"]
    assert units["multiples"] == list(MULTIPLES)
    for side, axis in (("rows", 1), ("columns", 0)):
        counts = np.zeros((3, len(MULTIPLES)), int)
        for name in SHAPES:
            sums = [scores[role][name].astype(np.float64).sum(axis) for role in ROLES]
            for column, multiple in enumerate(MULTIPLES):
                s, o = (each / each.mean() > multiple for each in sums)
                counts[:, column] += [(s & ~o).sum(), (o & ~s).sum(), (s & o).sum()]
        assert units[side]["units"] == sum(shape[1 - axis] for shape in SHAPES.values())
        for kind, wanted in zip(("safety", "over_safety", "both"), counts.tolist(), strict=True):
            assert units[side][kind] == wanted
    assert any(sum(units["rows"][kind]) for kind in ("safety", "over_safety", "both"))


@pytest.mark.parametrize("score", ["weight", "magnitude"])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_the_counts_at_a_and_b_are_those_of_the_merge(scope, score, tmp_path):
    """The same top sets and overlaps as in merge.json, of empty tensors and single values too.

    The patches are bf16: their keys have 16 bits by magnitude and 32 by weight.
    """
    make_case(tmp_path, patch_dtype=torch.bfloat16)
    chosen: dict[str, Any] = {"scope": scope, "score": score, "top_safety": 0.3}
    chosen["top_over_safety"] = 0.07
    run_build(tmp_path, **chosen)
    merged = json.loads((tmp_path / "out/merge.json").read_text())["tensors"]
    tensors = look(tmp_path, MergeSettings(include=INCLUDE, **chosen))["tensors"]
    assert tensors.keys() == merged.keys()
    for name, report in merged.items():
        for key in ("elements", "top_S", "top_O", "overlap"):
            assert tensors[name][key] == report[key]


def test_wrong_values_are_refused(tmp_path):
    write_inputs(tmp_path, torch.float32, True, seed=4)
    bad = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    bad["model.layers.1.mlp.up_proj.weight"][299, 299] = float("nan")
    write_tensors(tmp_path / "over_safety", "delta", bad)
    with pytest.raises(UserError, match=r"delta.safetensors: tensor 'model.layers.1.*holds NaN"):
        look(tmp_path, MergeSettings())


@pytest.mark.slow
def test_the_command_writes_a_page_that_stands_alone(tmp_path):
    write_inputs(tmp_path, torch.float32, True, seed=5)
    done = subprocess.run(
        [
            sys.executable, "-m", "merge", "inspect", "--backbone", tmp_path / "backbone",
            "--safety", tmp_path / "safety", "--over-safety", tmp_path / "over_safety",
            "--out", tmp_path / "out", "--top-safety", "0.25", "--scope", "model",
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for file in ("inspection.html", "inspection.json"):
        assert str(tmp_path / "out" / file) in done.stderr
    page = (tmp_path / "out/inspection.html").read_text()
    for words in ("2402.05162", "2410.10862", "Jaccard", "up_proj", "over-safety takes"):
        assert words in page
    # The name of SVG's own language, and sources to read, are all that names another machine.
    rest = page.replace("http://www.w3.org/2000/svg", "")
    assert "src=" not in rest and "<script" not in rest and "@import" not in rest
    numbers = json.loads((tmp_path / "out/inspection.json").read_text())
    assert numbers["settings"]["top_safety"] == 0.25 and numbers["settings"]["scope"] == "model"
    assert page.count("<svg") == page.count("</svg>") > 4
