"""Which tensors of the files are which parameters: against transformers' own loading."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from merge.common.errors import UserError
from merge.engine.coverage import linear_weights, matching, name_patterns
from tests.support.architectures import ARCHITECTURES, make_model
from train.backbone.block_weights import block_weights
from train.backbone.parameter_map import ParameterMap
from train.backbone.skeleton import build_skeleton
from train.backbone.tensors import BackboneTensors, open_backbone
from train.recipe import BackboneSettings


def opened(folder: Path) -> BackboneTensors:
    return open_backbone(folder, BackboneSettings(path=str(folder)))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_parameters_equal_those_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    """Value for value, and back: the inverse gives the files' tensors again."""
    folder = make_model(kind, tmp_path)
    tensors = opened(folder)
    loaded = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    assert {name for group in tensors.map.groups for name in group.parameters} == set(loaded)
    for name, value in loaded.items():
        assert torch.equal(tensors.read(name, torch.float32), value)
        assert torch.equal(tensors.read_flat(name, 1, 3, torch.float32), value.flatten()[1:3])
    stored = load_file(folder / "model.safetensors")
    again = {
        name: value
        for group in tensors.map.groups
        for name, value in group.to_tensors(loaded, tensors.map.shapes).items()
    }
    assert set(stored) - set(again) == set(tensors.map.untrained)
    for name, value in again.items():
        assert torch.equal(value, stored[name])
    tensors.map.refuse_irreversible()


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_linear_weights_of_the_blocks_are_found_from_model_and_files_alike(
    kind: str, tmp_path: Path
) -> None:
    """Against the modules: every matrix of a linear layer or of experts, and no other tensor."""
    folder = make_model(kind, tmp_path)
    mapping = opened(folder).map
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    expected = set()
    for place, module in model.get_decoder().named_modules():
        inside = any(part.isdigit() for part in place.split("."))
        experts = "Experts" in type(module).__name__ or "Router" in type(module).__name__
        if inside and (isinstance(module, torch.nn.Linear | Conv1D) or experts):
            expected |= {
                id(parameter)
                for name, parameter in module.named_parameters(recurse=False)
                if parameter.dim() > 1 and "bias" not in name
            }
    names = {name for name, value in model.named_parameters() if id(value) in expected}
    assert block_weights(mapping.skeleton) == names
    tensors = mapping.tensors_of(names)
    trained = {name: mapping.shapes[name] for group in mapping.groups for name in group.tensors}
    assert sorted(linear_weights(trained)) == tensors
    assert sorted(matching(trained, name_patterns(tensors))) == tensors


def change_files(folder: Path, change: Any) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


def test_tensors_that_are_no_parameters_are_found_and_left_alone(tmp_path: Path) -> None:
    """What LLaMA-2's published files hold, and a second model's layers beside the first."""
    folder = make_model("llama", tmp_path)

    def add(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
        weights["draft.layers.0.mlp.up_proj.weight"] = torch.ones(4, 4)

    change_files(folder, add)
    assert opened(folder).map.untrained == [
        "draft.layers.0.mlp.up_proj.weight",
        "model.layers.1.self_attn.rotary_emb.inv_freq",
    ]


def test_a_tied_parameter_is_known_by_all_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are compared block by block, the last and shorter one included."""
    monkeypatch.setattr("train.backbone.tensors._COMPARED_VALUES", 500)
    folder = make_model("llama", tmp_path, tie_word_embeddings=True)
    words, head = "model.embed_tokens.weight", "lm_head.weight"
    change_files(folder, lambda weights: weights.update({head: weights[words].clone()}))
    tensors = opened(folder)
    assert tensors.map.copies == {head: words} and not tensors.map.untrained
    tensors.refuse_differing_copies()
    # In another type, of the same values: bf16 of the files' fp32 ones.
    change_files(folder, lambda weights: weights.update({words: weights[words].bfloat16().float()}))
    change_files(folder, lambda weights: weights.update({head: weights[words].bfloat16()}))
    opened(folder).refuse_differing_copies()
    for row in (0, 40, 96):
        change_files(folder, lambda weights, row=row: weights[head][row].add_(1))
        with pytest.raises(UserError, match=r"lm_head\.weight should repeat the embeddings"):
            opened(folder).refuse_differing_copies()
        change_files(folder, lambda weights: weights.update({head: weights[words].clone()}))
    change_files(folder, lambda weights: weights.pop(words))
    alone = opened(folder)
    assert not alone.map.copies
    stored = load_file(folder / "model.safetensors")[head]
    assert torch.equal(alone.read(words, torch.float32), stored)


def test_a_prefix_that_transformers_takes_off_is_known(tmp_path: Path) -> None:
    """The multimodal checkpoint of a text model, with a vision tower that is not loaded."""
    folder = make_model("qwen3_5_text", tmp_path)

    def nest(weights: dict[str, torch.Tensor]) -> None:
        for name in [name for name in weights if name.startswith("model.")]:
            inner = name.removeprefix("model.")
            weights[f"model.language_model.{inner}"] = weights.pop(name)
        weights["model.visual.blocks.0.mlp.weight"] = torch.ones(4, 4)

    change_files(folder, nest)
    mapping = opened(folder).map
    assert mapping.untrained == ["model.visual.blocks.0.mlp.weight"]
    assert all(name in mapping.parameters for name in block_weights(mapping.skeleton))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: weights.pop("model.layers.1.mlp.experts.2.up_proj.weight"),
            "conversion that cannot be undone|no tensors for",
        ),
        (
            lambda weights: weights.pop("model.norm.weight"),
            "no tensors for 1 parameters .* \\(model.norm.weight\\); fetch the whole model",
        ),
        (
            lambda weights: weights.update({"model.norm.weight": torch.ones(7)}),
            r"'model.norm.weight' has the shape \[7\], and its configuration says \[16\]",
        ),
    ],
)
def test_files_that_do_not_fit_the_model_are_refused(
    change: Any, message: str, tmp_path: Path
) -> None:
    folder = make_model("qwen2_moe", tmp_path)
    change_files(folder, change)
    with pytest.raises(UserError, match=message):
        opened(folder)


def test_a_conversion_that_loses_values_is_refused(tmp_path: Path) -> None:
    folder = make_model("mixtral", tmp_path)
    skeleton = build_skeleton(AutoConfig.from_pretrained(folder), False, "tiny")
    shapes = {name: tuple(v.shape) for name, v in load_file(folder / "model.safetensors").items()}
    mapping = ParameterMap(skeleton, shapes, "tiny")
    group = next(group for group in mapping.groups if group.patterns)

    class Doubling:
        """Puts the first expert in the place of all."""

        def convert(self, tensors: dict[str, Any], **_: Any) -> dict[str, Any]:
            return {pattern: [each[0]] * len(each) for pattern, each in tensors.items()}

    group.converter.operations.insert(0, Doubling())
    assert not group.is_invertible(shapes)
    with pytest.raises(UserError, match=r"cannot be undone .*not supported"):
        mapping.refuse_irreversible()


def test_an_architecture_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="builds no causal language model"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "rwkv"}, "rwkv does not run in ZeRO-3's partitions"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "fp8"}},
            "quantized weights cannot be trained",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_from_the_configuration(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        opened(tmp_path)
