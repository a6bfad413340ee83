"""Damaged inputs and random cases: a clear error or a right result, and nothing else."""

import random
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge.build import build
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.methods import MethodName
from merge.plan import plan
from merge.settings import MergeSettings
from tests.merge.engine.test_exact import INCLUDE, expected, make_case, run_build

DAMAGES = 330


def _damage(data: bytearray, rng: random.Random) -> bytearray:
    """Cut, flip, repeat, or swap digits, mostly in the header, where it hurts."""
    kind = rng.randrange(5)
    place = rng.randrange(min(len(data), 900))
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[place:place] = data[place : place + rng.randrange(1, 40)]
    elif kind == 3:
        digits = [i for i, byte in enumerate(data[:900]) if chr(byte).isdigit()]
        data[rng.choice(digits)] = ord(rng.choice("0123456789-.e"))
    else:
        data[:8] = rng.randrange(2**63).to_bytes(8, "little")
    return data


@pytest.mark.slow
def test_damaged_inputs(tmp_path: Path) -> None:
    """330 damaged tensor files, indices and patch.json: an error of one line, or a model."""
    good, case = tmp_path / "good", tmp_path / "case"
    make_case(good, shards=2)
    files = sorted(path for path in good.rglob("*") if path.is_file())
    rng, refused = random.Random(1), 0
    shutil.copytree(good, case)
    for number in range(DAMAGES):
        file = files[number % len(files)]
        target = case / file.relative_to(good)
        target.write_bytes(_damage(bytearray(file.read_bytes()), rng))
        out = tmp_path / "out"
        try:
            build(
                case / "backbone",
                case / "safety",
                case / "over_safety",
                out,
                MergeSettings(include=INCLUDE),
                MergeResources(),
            )
            assert (out / "merge.json").exists()
        except UserError as error:
            refused += 1
            assert not (out / "merge.json").exists() and str(error)
        shutil.rmtree(out, ignore_errors=True)
        target.write_bytes(file.read_bytes())
    assert refused > DAMAGES / 2


# A tensor of the last kind takes several slices at the smallest memory limit.
SHAPE = st.one_of(
    st.just(()),
    st.tuples(st.integers(0, 40)),
    st.tuples(st.integers(0, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    st.tuples(st.just(3), st.integers(30_000, 60_000)),
)


@st.composite
def merge_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Any method at any rates; scales that stay in fp16's range."""
    rate, scale = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0])), st.floats(-2, 2)
    chosen = {
        "method": draw(st.sampled_from(get_args(MethodName))),
        "score": draw(st.sampled_from(["weight", "delta"])),
        "scope": draw(st.sampled_from(["tensor", "model"])),
        "top_safety": draw(rate),
        "top_over_safety": draw(rate),
        "retention": draw(st.one_of(st.floats(0.05, 1), st.just(1.0))),
        "alpha": draw(scale),
        "beta": draw(scale),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "rounding": draw(st.sampled_from(["nearest", "stochastic"])),
    }
    if chosen["method"] == "ties":
        chosen["beta"] = chosen["alpha"]
    if chosen["method"] == "by_set":
        for key in ("alpha_shared", "alpha_rest", "beta_shared", "beta_rest"):
            chosen[key] = draw(st.one_of(st.just(0.0), scale))
    return chosen


@st.composite
def merge_resources(draw: st.DrawFn) -> dict[str, Any]:
    """Threads, memory and output files: all that must not matter."""
    return {
        "threads": draw(st.integers(1, 5)),
        "memory_limit": draw(st.sampled_from([2**24, 2**25, 2**27])),
        "max_shard_size": draw(st.one_of(st.none(), st.integers(1024, 10_000))),
    }


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    patch_dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    gradients=st.booleans(),
    shapes=st.lists(SHAPE, min_size=1, max_size=5),
    levels=st.sampled_from([0.0, 1.0, 4.0, 1e4]),
    shards=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    chosen=merge_settings(),
    resources=merge_resources(),
)
def test_random_cases_equal_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    patch_dtype: torch.dtype,
    gradients: bool,
    shapes: list[tuple[int, ...]],
    levels: float,
    shards: int,
    seed: int,
    chosen: dict[str, Any],
    resources: dict[str, Any],
) -> None:
    """Shapes, dtypes, ties, shards, settings, threads and memory: bit for bit the reference."""
    folder = tmp_path_factory.mktemp("case")
    named = {f"w{number}": shape for number, shape in enumerate(shapes)} | {"norm": (5,)}
    shards = min(shards, len(named))
    case = make_case(folder, dtype, patch_dtype, gradients, shards, seed, named, levels)
    wanted = expected(case, gradients, **chosen)
    assert run_build(folder, "out", resources, **chosen) == wanted
    shutil.rmtree(folder)


def test_plan_counts_what_a_merge_does(tmp_path: Path) -> None:
    """The plan's bytes are the files' bytes, and it refuses what a merge refuses."""
    make_case(tmp_path)
    paths = (tmp_path / "backbone", tmp_path / "safety", tmp_path / "over_safety")
    chosen, resources = MergeSettings(include=INCLUDE), MergeResources()
    planned = plan(*paths, tmp_path / "out", chosen, resources)
    build(*paths, tmp_path / "out", chosen, resources)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert planned.write_bytes == written and planned.covered_tensors == 5
    assert planned.read_bytes == sum(
        path.stat().st_size for folder in paths for path in folder.rglob("*")
    )
    with pytest.raises(UserError, match="role over_safety"):
        plan(paths[0], paths[2], paths[1], tmp_path / "out2", chosen, resources)
