"""The backbone's folder: what is refused before anything starts, and lazy tensors."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from train_helpers import make_backbone
from transformers import AutoModelForCausalLM

from merge.errors import UserError
from train.backbone import BackboneTensors, backbone_directory, load_tokenizer
from train.model import liger_patch
from train.recipe import BackboneSettings


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone(tmp_path_factory.mktemp("backbone") / "model")


@pytest.mark.parametrize("path", ["nowhere", "./no/where", "/no/where", "a/b/c"])
def test_missing_folder_is_not_looked_for_on_the_hub(path: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        backbone_directory(BackboneSettings(path=path))


def test_unreachable_hub_name_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"someone/model: .* mend backbone\.path"):
        backbone_directory(BackboneSettings(path="someone/model"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights"):
        BackboneTensors(tmp_path)


def test_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    settings = BackboneSettings(path=str(make_backbone(tmp_path / "model", vocab_size=90)))
    with pytest.raises(UserError, match="97 tokens and its model 90 embeddings"):
        load_tokenizer(tmp_path / "model", settings)


def test_missing_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path, BackboneSettings(path=str(tmp_path)))


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_lazy_tensors_equal_the_file(backbone: Path, tmp_path: Path, shard_size: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(backbone)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    tensors = BackboneTensors(tmp_path)
    for name, expected in load_file(backbone / "model.safetensors").items():
        assert name in tensors
        assert torch.equal(tensors.read(name, torch.float32), expected)
        part = tensors.read_flat(name, 3, 11, torch.bfloat16)
        assert torch.equal(part, expected.flatten()[3:11].bfloat16())
        assert tensors.read_flat(name, 5, 5, torch.float32).shape == (0,)
    assert "model.nothing" not in tensors


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="'weight' is I8"):
        BackboneTensors(tmp_path).read("weight", torch.float32)


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (False, "liger: its kernels run on GPUs only.*; leave liger out of the recipe"),
        (
            True,
            "cannot be imported .*; run 'pip install liger-kernel' on the GPU machine, or leave",
        ),
    ],
)
def test_liger_kernels_that_cannot_run_are_told_before_the_weights_load(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, message: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    with pytest.raises(UserError, match=message):
        liger_patch()
