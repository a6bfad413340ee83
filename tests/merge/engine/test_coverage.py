"""What a merge covers by names and shapes alone, and what it says of the rest."""

import json
import logging
from pathlib import Path

import pytest
import torch

from merge.build import build
from merge.engine.coverage import linear_weights
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch, write_tensors

BLOCK = {
    "self_attn.q_proj.weight": (4, 4),
    "mlp.up_proj.weight": (6, 4),
    "mlp.experts.gate_up_proj": (3, 4, 6),
    "mlp.experts.gate_up_proj_bias": (3, 6),
    "conv.conv.weight": (4, 1, 3),
    "conv.in_proj.weight": (4, 4),
    "q_norm.weight": (2, 4),
    "input_layernorm.weight": (4,),
    "mixer.A_log": (4, 2),
}
LINEAR = {"self_attn.q_proj.weight", "mlp.up_proj.weight", "mlp.experts.gate_up_proj",
          "conv.in_proj.weight"}  # fmt: skip
OTHERS = {
    "model.embed_tokens.weight": (9, 4),
    "lm_head.weight": (9, 4),
    "mtp.layers.0.mlp.up_proj.weight": (6, 4),
    "vision_tower.layers.0.mlp.fc1.weight": (4, 4),
}
SHAPES = {f"model.layers.{n}.{name}": shape for n in range(2) for name, shape in BLOCK.items()}


def test_linear_weights_are_told_by_names_and_shapes() -> None:
    """No embedding, output layer, norm, bias, convolution, state, or block of another tower."""
    names = linear_weights({**SHAPES, **OTHERS})
    assert set(names) == {f"model.layers.{n}.{name}" for n in range(2) for name in LINEAR}


def merged(folder: Path, held: set[str], **settings: object) -> dict[str, float]:
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) for name, shape in {**SHAPES, **OTHERS}.items()}
    write_tensors(folder / "backbone", "model", weights)
    (folder / "backbone/config.json").write_text("{}")
    for role in ("safety", "over_safety"):
        delta = {name: torch.randn(weights[name].shape) for name in sorted(held)}
        write_patch(folder / role, role, delta, {name: v.abs() for name, v in delta.items()})
    places = (folder / "backbone", folder / "safety", folder / "over_safety", folder / "out")
    build(*places, MergeSettings(**settings), MergeResources())  # pyright: ignore
    return json.loads((folder / "out/merge.json").read_text())["coverage"]


@pytest.mark.parametrize("forgotten", [(), ("model.layers.1.mlp.up_proj.weight",)])
def test_the_share_counts_what_no_patch_holds(
    forgotten: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Against a plain sum of sizes; a block's weight that both patches forgot is warned of."""
    linear = {f"model.layers.{n}.{name}" for n in range(2) for name in LINEAR}
    with caplog.at_level(logging.INFO):
        record = merged(tmp_path, linear - set(forgotten))
    sizes = {name: torch.Size(SHAPES[name]).numel() for name in linear}
    covered = sum(size for name, size in sizes.items() if name not in forgotten)
    assert record["share"] == covered / sum(sizes.values())
    assert ("are in neither patch" in caplog.text) == bool(forgotten)
    assert f"{record['share']:.1%} of the linear weights" in caplog.text
    for name in ("lm_head.weight", *forgotten):
        assert name in record["untrained"]  # pyright: ignore


def test_fewer_tensors_may_be_named(tmp_path: Path) -> None:
    everything = {*SHAPES, *OTHERS}
    record = merged(tmp_path, everything, include=("*q_proj*", "lm_head*"))
    assert record["covered_linear_values"] == 2 * 16 and not record["untrained"]
    assert record["linear_values"] == 2 * (16 + 24 + 72 + 16)
