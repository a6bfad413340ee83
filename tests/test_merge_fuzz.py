"""Damaged inputs and random cases: a clear error or a right result, and nothing else."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from merge.build import build
from merge.errors import UserError
from merge.plan import plan
from merge.recipe import MergeSettings
from merge.resources import MergeResources
from tests.test_merge_exact import INCLUDE, SETTINGS, expected, make_case, run_build

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


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    patch_dtype=st.sampled_from([torch.bfloat16, torch.float32]),
    gradients=st.booleans(),
    shards=st.integers(1, 4),
    max_shard_size=st.one_of(st.none(), st.integers(1024, 6000)),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    rates=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    scope=st.sampled_from(["tensor", "model"]),
    score=st.sampled_from(["weight", "delta"]),
)
def test_random_cases_equal_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: torch.dtype,
    patch_dtype: torch.dtype,
    gradients: bool,
    shards: int,
    max_shard_size: int | None,
    threads: int,
    seed: int,
    rates: tuple[float, float, float],
    scope: str,
    score: str,
) -> None:
    """Any dtype, sharding, rate, scope and seed: bit for bit the numpy reference."""
    folder = tmp_path_factory.mktemp("case")
    case = make_case(folder, dtype, patch_dtype, gradients, shards, seed)
    chosen = {**SETTINGS, "scope": scope, "score": score, "seed": seed, "retention": rates[2]}
    chosen |= {"top_safety": rates[0], "top_over_safety": rates[1]}
    resources = {"max_shard_size": max_shard_size, "threads": threads}
    assert run_build(folder, "out", resources, **chosen) == expected(case, gradients, **chosen)


def test_plan_counts_what_a_merge_does(tmp_path: Path) -> None:
    """The plan's bytes are the files' bytes, and it refuses what a merge refuses."""
    make_case(tmp_path)
    paths = (tmp_path / "backbone", tmp_path / "safety", tmp_path / "over_safety")
    chosen, resources = MergeSettings(include=INCLUDE), MergeResources()
    found = plan(*paths, tmp_path / "out", chosen, resources)
    build(*paths, tmp_path / "out", chosen, resources)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert found.write_bytes == written and found.covered_tensors == 5
    assert found.read_bytes == sum(
        path.stat().st_size for folder in paths for path in folder.rglob("*")
    )
    with pytest.raises(UserError, match="role over_safety"):
        plan(paths[0], paths[2], paths[1], tmp_path / "out2", chosen, resources)
