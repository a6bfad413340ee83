"""Merges in memory of a model whose files hold each expert apart, against merged folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from launch.in_memory_model import BorrowedModel
from merge.build import build
from merge.engine.resources import MergeResources
from merge.in_memory import LoadedInputs
from merge.settings import MergeSettings
from tests.support.architectures import make_model
from tests.support.merge_models import write_patch


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("include", [None, ("*.experts.1.*", "*q_proj*"), ("*",)])
def test_a_borrowed_model_equals_the_merged_folder(
    include: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """Also where only some tensors of a converted parameter are covered, and back again."""
    backbone = make_model("mixtral", tmp_path / "backbone")
    weights = load_file(backbone / "model.safetensors")
    for seed, role in enumerate(("safety", "over_safety")):
        torch.manual_seed(seed)
        delta = {name: torch.randn_like(value) for name, value in weights.items()}
        write_patch(tmp_path / role, role, delta, {n: v.abs() for n, v in delta.items()})
    settings = MergeSettings(include=include, top_safety=0.6, top_over_safety=0.5, seed=3)
    places = (backbone, tmp_path / "safety", tmp_path / "over_safety")
    build(*places, tmp_path / "out", settings, MergeResources())
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = BorrowedModel(load(backbone), tokenizer, LoadedInputs.read(*places, settings), [])
    for wanted, folder in ((settings, tmp_path / "out"), (None, backbone)):
        model.take(wanted)
        expected = dict(load(folder).named_parameters())
        for name, value in model.model.named_parameters():
            assert torch.equal(value, expected[name])
