"""The merge equals a numpy reference bit for bit, however inputs, outputs and memory are cut."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge.build import build
from merge.common.errors import UserError
from merge.engine.checks import check_inputs
from merge.engine.inputs import FileSource
from merge.engine.resources import MergeResources
from merge.engine.slices import BLOCK
from merge.engine.tensor_merge import TensorMerger
from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch, write_tensors
from tests.support.merge_reference import Tensors, reference_merge

SETTINGS: dict[str, Any] = {
    "method": "difference", "score": "weight", "scope": "tensor", "top_safety": 0.3,
    "top_over_safety": 0.21, "retention": 0.7, "alpha": 1.3, "beta": 0.6, "seed": 5,
}  # fmt: skip
SHAPES = {"w2": (33, 40), "w10": (7,), "w1": (90, 3), "norm": (13,), "w0": (0, 4), "w3": ()}
Case = tuple[Tensors, dict[str, Tensors], dict[str, Tensors]]
INCLUDE = ("w*",)


def make_case(
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    patch_dtype: torch.dtype = torch.float32,
    gradients: bool = True,
    shards: int = 1,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] = SHAPES,
    levels: float = 4,
) -> Case:
    """Random inputs in ``folder``.

    Args:
        levels: how many distinct importances there are, about: few, so that ties are everywhere.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    backbone = {name: normal(shape).to(dtype) for name, shape in shapes.items()}
    deltas: dict[str, Tensors] = {}
    importances: dict[str, Tensors] = {}
    record = {"score": "gradient"} if gradients else {}
    for role in ("safety", "over_safety"):
        deltas[role] = {n: (normal(s) / 50).to(patch_dtype) for n, s in shapes.items()}
        importances[role] = {
            n: (normal(s).abs() * levels).round().to(patch_dtype) for n, s in shapes.items()
        }
        write_patch(folder / role, role, deltas[role], importances[role], shards, **record)
    write_tensors(folder / "backbone", "model", backbone, shards)
    return backbone, deltas, importances


def run_build(
    folder: Path, out: str = "out", resources: dict[str, Any] | None = None, **settings: Any
) -> dict[str, bytes]:
    """Build, and the bytes of every tensor of the output."""
    build(
        folder / "backbone",
        folder / "safety",
        folder / "over_safety",
        folder / out,
        MergeSettings(include=INCLUDE, **settings),
        MergeResources(**(resources or {})),
    )
    merged: dict[str, bytes] = {}
    for file in (folder / out).glob("*.safetensors"):
        merged |= {name: to_bytes(tensor) for name, tensor in load_file(file).items()}
    return merged


def to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def expected(case: Case, gradients: bool, **settings: Any) -> dict[str, bytes]:
    backbone, deltas, importances = case
    covered = [name for name in backbone if name.startswith("w")]
    merged = reference_merge(backbone, deltas, importances, covered, gradients, **settings)
    return {name: to_bytes(tensor) for name, tensor in merged.items()}


@pytest.mark.parametrize(
    ("dtype", "patch_dtype", "gradients"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float16, torch.float32, True),
        (torch.float32, torch.float32, True),
        (torch.float32, torch.float32, False),
    ],
)
def test_equals_reference(
    tmp_path: Path, dtype: torch.dtype, patch_dtype: torch.dtype, gradients: bool
) -> None:
    """Every method, score and scope, for every dtype, with ties: files and memory both."""
    case = make_case(tmp_path, dtype, patch_dtype, gradients)
    loaded = LoadedInputs.read(
        tmp_path / "backbone",
        tmp_path / "safety",
        tmp_path / "over_safety",
        MergeSettings(include=INCLUDE),
    )
    combinations = itertools.product(
        ("difference", "intersection"), ("weight", "delta", "magnitude"), ("tensor", "model")
    )
    rows = [*combinations, ("dense", "weight", "tensor"), ("safety", "weight", "model")]
    rows += [("over_safety", "delta", "tensor"), ("task_arithmetic", "weight", "tensor")]
    rows += [("dare", "weight", "tensor"), ("linear", "weight", "tensor")]
    rows += [("ties", "weight", "tensor"), ("ties", "weight", "model")]
    rows += [("by_set", "weight", "tensor"), ("by_set", "delta", "model")]
    rows += [("by_set", "magnitude", "tensor")]
    for number, (method, score, scope) in enumerate(rows):
        settings = {**SETTINGS, "method": method, "score": score, "scope": scope}
        if method == "ties":
            settings["beta"] = settings["alpha"]
        if method == "by_set":
            settings |= {"alpha_shared": -0.4, "alpha_rest": 0.9, "beta_rest": -1.7}
        wanted = expected(case, gradients, **settings)
        assert run_build(tmp_path, f"out{number}", **settings) == wanted, (method, score, scope)
        in_memory = dict(loaded.merge(MergeSettings(include=INCLUDE, **settings)))
        assert {name: array.tobytes() for name, array in in_memory.items()} == {
            name: wanted[name] for name in in_memory
        }


def test_in_memory_where_a_header_of_odd_length_shifts_the_values(tmp_path: Path) -> None:
    """Mapped values then lie at odd addresses; and the backbone comes back as it was."""
    case = make_case(tmp_path, torch.float32)
    for file in tmp_path.rglob("*.safetensors"):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = content[8 : 8 + length].rstrip() + b" "
        header += b" " * (1 - len(header) % 2)
        file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    settings = MergeSettings(include=INCLUDE, **SETTINGS)
    folders = [tmp_path / name for name in ("backbone", "safety", "over_safety")]
    loaded = LoadedInputs.read(folders[0], folders[1], folders[2], settings)
    assert any(entry.offset % 4 for entry in loaded.inputs.backbone.values())
    wanted = expected(case, True, **SETTINGS)
    merged = {name: array.tobytes() for name, array in loaded.merge(settings)}
    assert merged == {name: wanted[name] for name in merged} and len(merged) == 5
    assert {name: array.tobytes() for name, array in loaded.backbone()} == {
        name: to_bytes(case[0][name]) for name in merged
    }


@pytest.mark.parametrize("rates", [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (0.999, 0.5)])
@pytest.mark.parametrize("retention", [0.0, 0.5, 1.0])
def test_extreme_rates(tmp_path: Path, rates: tuple[float, float], retention: float) -> None:
    """Nothing, everything, and what lies between, rescaled where that is defined."""
    case = make_case(tmp_path)
    settings = {**SETTINGS, "top_safety": rates[0], "top_over_safety": rates[1]}
    settings |= {"retention": retention, "rescale": retention > 0}
    assert run_build(tmp_path, **settings) == expected(case, True, **settings)


def test_cutting_changes_nothing(tmp_path: Path) -> None:
    """Input shards, output shards, threads and memory limits leave every bit as it is."""
    make_case(tmp_path / "one")
    whole = run_build(tmp_path / "one", **SETTINGS)
    make_case(tmp_path / "three", shards=3)
    assert run_build(tmp_path / "three", **SETTINGS) == whole
    resources = {"max_shard_size": 1100, "threads": 3}
    assert run_build(tmp_path / "one", "small", resources, **SETTINGS) == whole
    assert len(list((tmp_path / "one" / "small").glob("*.safetensors"))) > 2


def test_slices_change_nothing(tmp_path: Path) -> None:
    """A tensor of several slices merges as one that fits, with ties across the slices."""
    generator = torch.Generator().manual_seed(1)
    shape = (3, BLOCK // 2 + 11)
    backbone = {"w": torch.randn(shape, generator=generator).to(torch.bfloat16)}
    for role in ("safety", "over_safety"):
        delta = {"w": torch.randn(shape, generator=generator) / 30}
        gradient = {"w": torch.randint(0, 3, shape, generator=generator).float()}
        write_patch(tmp_path / role, role, delta, gradient)
    write_tensors(tmp_path / "backbone", "model", backbone)
    paths = (tmp_path / "backbone", tmp_path / "safety", tmp_path / "over_safety")
    results = []
    for scope in ("tensor", "model"):
        settings = MergeSettings(include=INCLUDE, **{**SETTINGS, "scope": scope})
        for size in (BLOCK, 1 << 30):
            inputs = check_inputs(*paths, settings)
            merger = TensorMerger(inputs, FileSource(inputs), settings, size)
            chosen = merger.model_thresholds()["w"] if scope == "model" else merger.thresholds("w")
            parts: list[np.ndarray] = []

            def keep(_: int, __: np.ndarray, after: np.ndarray, to: list = parts) -> None:
                to.append(after.copy())

            report = merger.merge("w", chosen, keep)
            results.append((np.concatenate(parts).tobytes(), report))
    assert results[0] == results[1] == results[2] == results[3]


def test_scale_rules(tmp_path: Path) -> None:
    """Alpha and beta by tensor: the first rule that fits, and what it leaves out as for all."""
    case = make_case(tmp_path)
    rules = [{"pattern": "w1*", "beta": 3.0}, {"pattern": "w10", "alpha": 9.0}]
    merged = run_build(tmp_path, **{**SETTINGS, "scales": rules})
    everywhere = expected(case, True, **SETTINGS)
    ruled = expected(case, True, **{**SETTINGS, "beta": 3.0})
    assert merged == {n: ruled[n] if n.startswith("w1") else everywhere[n] for n in everywhere}


def test_a_patch_that_the_method_leaves_out_may_be_the_same_again(tmp_path: Path) -> None:
    """So a training by itself becomes a model, bit for bit, without a second one."""
    case = make_case(tmp_path)
    settings = {**SETTINGS, "method": "safety"}
    patch = tmp_path / "safety"
    merge_settings = MergeSettings(include=INCLUDE, **settings)
    build(tmp_path / "backbone", patch, patch, tmp_path / "out", merge_settings, MergeResources())
    merged = load_file(tmp_path / "out/model.safetensors")
    assert {n: to_bytes(t) for n, t in merged.items()} == expected(case, True, **settings)
    for method in ("difference", "over_safety"):
        with pytest.raises(UserError, match="swap the two folders"):
            check_inputs(
                tmp_path / "backbone", patch, patch, MergeSettings(method=method, include=INCLUDE)
            )
