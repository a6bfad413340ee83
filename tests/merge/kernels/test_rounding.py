"""Stochastic rounding keeps what small deltas add up to, and equals its definition bit for bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge.settings import MergeSettings
from tests.merge.engine.test_exact import SETTINGS, expected, make_case, run_build
from tests.support.merge_models import write_patch, write_tensors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_equals_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    """By method; a fp32 backbone is not rounded at all."""
    case = make_case(tmp_path, dtype)
    rows: list[dict[str, Any]] = [
        {"method": name} for name in ("difference", "dense", "task_arithmetic", "linear")
    ]
    rows.append({"method": "by_set", "alpha_shared": -0.4, "beta_rest": -1.7})
    for number, row in enumerate(rows):
        settings = {**SETTINGS, **row, "rounding": "stochastic"}
        merged = run_build(tmp_path, f"out{number}", **settings)
        assert merged == expected(case, True, **settings), row
        nearest = run_build(tmp_path, f"nearest{number}", **{**SETTINGS, **row})
        assert (merged == nearest) == (dtype == torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_subnormal_and_large_values_equal_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    """Subnormals round by their wider steps, and the largest values do not overflow."""
    tiny, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    values = torch.linspace(-3 * tiny, 3 * tiny, 4001, dtype=torch.float64).float()
    values = torch.cat([values, torch.tensor([most, -most, most / 2, 0.0])])
    steps = torch.rand(values.size(), generator=torch.Generator().manual_seed(0)) * tiny / 100
    steps[-4:] = torch.tensor([-most / 700, most / 700, most / 700, 1e-9])
    backbone, none = {"w": values.to(dtype)}, {"w": torch.zeros_like(values)}
    deltas, importances = {"safety": {"w": steps}, "over_safety": none}, {}
    for role, delta in deltas.items():
        importances[role] = {"w": torch.ones_like(values)}
        write_patch(tmp_path / role, role, delta, importances[role], score="gradient")
    write_tensors(tmp_path / "backbone", "model", backbone)
    settings = {**SETTINGS, "method": "safety", "retention": 1.0, "rounding": "stochastic"}
    merged = run_build(tmp_path, **settings)
    assert merged == expected((backbone, deltas, importances), True, **settings)


def test_entries_below_half_a_step_are_kept_on_average(tmp_path: Path) -> None:
    """A twentieth of a step: nearest loses all of it; the mean of 400,000 draws is right to four
    standard errors, and other seeds draw otherwise."""
    size, delta = 400_000, 2.0**-8 / 20
    backbone = {"w": torch.full((size,), 1.0, dtype=torch.bfloat16)}
    for role in ("safety", "over_safety"):
        patch = {"w": torch.full((size,), delta)}
        write_patch(tmp_path / role, role, patch, {"w": torch.ones(size)}, score="gradient")
    write_tensors(tmp_path / "backbone", "model", backbone)
    settings = {**SETTINGS, "method": "safety", "retention": 1.0, "alpha": 1.0}

    def merge(name: str, **more: Any) -> torch.Tensor:
        run_build(tmp_path, name, **{**settings, **more})
        (file,) = (tmp_path / name).glob("*.safetensors")
        return load_file(file)["w"].double()

    assert (merge("nearest") == 1).all()
    change = merge("stochastic", rounding="stochastic") - 1
    step = 2.0**-7
    assert set(change.unique().tolist()) == {0.0, step}
    error = np.sqrt(delta * (step - delta) / size)
    assert abs(change.mean().item() - delta) < 4 * error
    other = merge("other", rounding="stochastic", seed=6) - 1
    assert 0.002 < (other != change).double().mean().item() < 0.1


def test_the_default_leaves_no_key() -> None:
    """The settings' dump, which is part of a merge's identity, stays what it was."""
    assert "rounding" not in MergeSettings().model_dump()
