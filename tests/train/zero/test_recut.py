"""Checkpoints cut anew: files as DeepSpeed writes them, of parameters that are known."""

from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from train.zero.ranks import World
from train.zero.recut import recut
from train.zero.snapshot import Snapshot

SIZES = {"a": (3, 4), "b": (1,), "c": (7,), "d": (5, 2)}
OLD_GROUPS = [["a", "b", "c"], ["d"]]
NEW_GROUPS = [["a"], ["c", "d", "b"]]
STATES = {"fp32": 1.0, "exp_avg": 100.0, "exp_avg_sq": 10000.0}


def parameter(name: str, factor: float) -> Tensor:
    shape = SIZES[name]
    start = list(SIZES).index(name) * 20
    return torch.arange(start, start + torch.Size(shape).numel()).view(shape) * factor


def partition(name: str, factor: float, rank: int, ranks: int) -> Tensor:
    """The rank's part of a parameter; what pads the last one is never to be read."""
    values = parameter(name, factor).flatten()
    length = ceil(values.numel() / ranks)
    padded = torch.full((length * ranks,), float("nan"))
    padded[: values.numel()] = values
    return padded[rank * length : (rank + 1) * length]


def write(
    folder: Path, ranks: int, prefix: str, kept: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
) -> None:
    for rank in range(ranks):
        flat = {
            state: [
                torch.cat([partition(name, factor, rank, ranks) for name in names])
                for names in OLD_GROUPS
            ]
            for state, factor in STATES.items()
        }
        moments = {
            group: {name: flat[name][group] for name in kept}
            | ({"step": torch.tensor(9.0)} if len(kept) > 1 else {})
            for group in range(len(OLD_GROUPS) if kept else 0)
        }
        content = {
            "loss_scaler": None,
            "dynamic_loss_scale": False,
            "overflow": False,
            "fp32_flat_groups": flat["fp32"],
            "optimizer_state_dict": {
                "state": moments,
                "param_groups": [{"lr": 0.5, "params": [0, 1]}],
            },
        }
        name = f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": content}, folder / name)
    shapes = [{name: torch.Size(SIZES[name]) for name in names} for names in OLD_GROUPS]
    name = "zero_pp_rank_0_mp_rank_00_model_states.pt"
    torch.save({"param_shapes": shapes}, folder / name)


@pytest.mark.parametrize("prefix", ["", "bf16_"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("written_by", [1, 2, 4])
def test_every_rank_gets_its_part_of_every_parameter(
    tmp_path: Path, written_by: int, ranks: int, prefix: str
) -> None:
    write(tmp_path, written_by, prefix)
    for rank in range(ranks):
        state = recut(tmp_path, written_by, NEW_GROUPS, rank, ranks)
        inner = state["optimizer_state_dict"]
        for group, names in enumerate(NEW_GROUPS):
            for kind, factor in STATES.items():
                expected = torch.cat([partition(name, factor, rank, ranks) for name in names])
                moments = inner["state"][group]
                part = state["fp32_flat_groups"][group] if kind == "fp32" else moments[kind]
                # The padding is 0, where the writer's was anything.
                assert torch.equal(part, expected.nan_to_num())
        assert inner["param_groups"] == [{"lr": 0.5, "params": [0, 1]}]
        first, second = (inner["state"][group]["step"] for group in (0, 1))
        # One tensor for both would count every step twice.
        assert first == second == 9 and first is not second


@pytest.mark.parametrize("kept", [(), ("exp_avg",)])
def test_an_optimizer_without_moments(tmp_path: Path, kept: tuple[str, ...]) -> None:
    """SGD's checkpoints hold no state, or only the sums of importance."""
    write(tmp_path, 2, "", kept)
    state = recut(tmp_path, 2, NEW_GROUPS, rank=1, ranks=3)
    expected = torch.cat([partition(name, 1.0, 1, 3) for name in NEW_GROUPS[1]])
    assert torch.equal(state["fp32_flat_groups"][1], expected.nan_to_num())
    moments = state["optimizer_state_dict"]["state"]
    assert [list(moments[group]) for group in moments] == ([["exp_avg"]] * 2 if kept else [])
    if kept:
        assert torch.equal(moments[1]["exp_avg"], expected.nan_to_num() * 100)


def test_a_snapshot_of_any_number_of_ranks_comes_back(tmp_path: Path) -> None:
    sizes = {name: parameter(name, 1.0).numel() for name in SIZES}
    for written_by, ranks in ((3, 2), (2, 4), (2, 2)):
        folder = tmp_path / f"{written_by}-{ranks}"
        folder.mkdir()
        for rank in range(written_by):
            masters = {name: partition(name, 1.0, rank, written_by) for name in SIZES}
            writer: Any = SimpleNamespace(copy_masters=masters.copy)
            snapshot = Snapshot(World(rank, written_by, rank, written_by))
            snapshot.save(folder)
            assert not (folder / f"best_rank_{rank}.safetensors").exists()
            snapshot.take(writer)
            snapshot.save(folder)
        for rank in range(ranks):
            restored: list[dict[str, Tensor]] = []
            reader: Any = SimpleNamespace(sizes=sizes, put_masters=restored.append)
            snapshot = Snapshot(World(rank, ranks, rank, ranks))
            snapshot.load(folder, written_by, reader)
            snapshot.restore(reader)
            for name in SIZES:
                expected = partition(name, 1.0, rank, ranks).nan_to_num()
                assert torch.equal(restored[0][name].nan_to_num(), expected)
