"""Merges in memory of a model whose files hold each expert apart, against merged folders."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from launch.in_memory.hf_model import InMemoryModel
from launch.run.variant import whole_patch
from merge.build import build
from merge.engine.resources import MergeResources
from merge.in_memory import LoadedInputs
from merge.io.patch_directory import Role
from merge.settings import MergeSettings
from tests.support.architectures import make_model
from tests.support.merge_models import write_patch
from train.recipe import ROLES


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def patch(backbone: Path, folder: Path, role: Role, seed: int) -> Path:
    """A patch of every tensor."""
    torch.manual_seed(seed)
    weights = load_file(backbone / "model.safetensors")
    delta = {name: torch.randn_like(value) for name, value in weights.items()}
    write_patch(folder, role, delta, {name: value.abs() for name, value in delta.items()})
    return folder


def assert_same(model: InMemoryModel, folder: Path) -> None:
    expected = dict(load(folder).named_parameters())
    for name, value in model.model.named_parameters():
        assert torch.equal(value, expected[name])


@pytest.mark.parametrize("include", [None, ("*.experts.1.*", "*q_proj*"), ("*",)])
def test_an_in_memory_model_equals_the_merged_folder(
    include: tuple[str, ...] | None, tmp_path: Path
) -> None:
    """Also where only some tensors of a converted parameter are covered, and back again."""
    backbone = make_model("mixtral", tmp_path / "backbone")
    first, second = (patch(backbone, tmp_path / role, role, n) for n, role in enumerate(ROLES))
    settings = MergeSettings(include=include, top_safety=0.6, top_over_safety=0.5, seed=3)
    places = (backbone, first, second)
    build(*places, tmp_path / "out", settings, MergeResources())
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    model = InMemoryModel(load(backbone), tokenizer, LoadedInputs.read(*places, settings), [])
    for wanted, folder in ((settings, tmp_path / "out"), (None, backbone)):
        model.load_merge(wanted)
        assert_same(model, folder)


def test_other_patches_begin_from_the_backbone_again(tmp_path: Path) -> None:
    """A whole patch changes every tensor; a merge of linear weights after it must keep none."""
    backbone = make_model("mixtral", tmp_path / "backbone")
    first, second = (patch(backbone, tmp_path / role, role, n) for n, role in enumerate(ROLES))
    other = patch(backbone, tmp_path / "other", "safety", 5)
    merges = [
        (whole_patch("safety", "nearest"), other, other),
        (MergeSettings(alpha=2), first, second),
    ]
    model = None
    for number, (settings, safety, over_safety) in enumerate(merges):
        folder = tmp_path / f"{number}"
        build(backbone, safety, over_safety, folder, settings, MergeResources())
        ranks = settings.method == "difference"
        loaded = LoadedInputs.read(backbone, safety, over_safety, settings, ranks)
        if model is None:
            tokenizer = AutoTokenizer.from_pretrained(backbone)
            model = InMemoryModel(load(backbone), tokenizer, loaded, [])
        else:
            model.change_inputs(loaded)
        model.load_merge(settings)
        assert_same(model, folder)
