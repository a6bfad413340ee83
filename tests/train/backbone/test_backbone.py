"""The backbone's folder: what is refused before anything starts, and lazy tensors."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from merge.common.errors import UserError
from tests.support.train_helpers import make_backbone
from train.backbone.folder import backbone_directory, load_tokenizer
from train.backbone.tensors import BackboneTensors, open_backbone
from train.chat.vocabulary import refuse_unknown_ids
from train.job.loading import liger_patch
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
    with pytest.raises(UserError, match=r"someone/model: .* fix backbone\.path"):
        backbone_directory(BackboneSettings(path="someone/model"))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights"):
        BackboneTensors(tmp_path, None)


def test_tokens_without_an_embedding_are_refused_where_a_text_holds_them() -> None:
    """A tokenizer may know more tokens than its model, as long as no text is made of them."""
    refuse_unknown_ids([[3, 89], [], [0]], 90, "model")
    with pytest.raises(UserError, match="into token 90, and its model has 90 embeddings"):
        refuse_unknown_ids(iter([[3, 89], [90, 1]]), 90, "model")


def test_missing_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="tokenizer cannot be loaded"):
        load_tokenizer(tmp_path, BackboneSettings(path=str(tmp_path)))


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_lazy_tensors_equal_the_file(backbone: Path, tmp_path: Path, shard_size: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(backbone)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    tensors = open_backbone(tmp_path, BackboneSettings(path=str(tmp_path)))
    for name, expected in load_file(backbone / "model.safetensors").items():
        assert torch.equal(tensors.read(name, torch.float32), expected)
        part = tensors.read_flat(name, 3, 11, torch.bfloat16)
        assert torch.equal(part, expected.flatten()[3:11].bfloat16())
        assert tensors.read_flat(name, 5, 5, torch.float32).shape == (0,)


def test_quantized_weights_are_refused(backbone: Path, tmp_path: Path) -> None:
    weights = load_file(backbone / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    shutil.copy(backbone / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"'model\.norm\.weight' is I8"):
        open_backbone(tmp_path, BackboneSettings(path=str(tmp_path)))


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
