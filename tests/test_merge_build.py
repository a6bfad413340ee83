"""The merge equals its definition, bit for bit, whatever the dtype, the ties and the sharding."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from merge_reference import TORCH_DTYPES, merge
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from merge.build import build
from merge.errors import UserError
from merge.fingerprint import backbone_fingerprint
from merge.in_memory import LoadedInputs
from merge.patch_directory import PatchWriter
from merge.recipe import MergeSettings

COVERED = {
    "model.layers.0.self_attn.q_proj.weight": (13, 7),
    "model.layers.0.mlp.up_proj.weight": (5, 31),
    "model.layers.1.mlp.down_proj.weight": (101,),
}
LEFT_ALONE = {"model.embed_tokens.weight": (11, 3), "model.norm.weight": (3,)}
TOP = {"safety": 0.37, "over_safety": 0.52}
WEIGHTS = {"safety": 1.7, "over_safety": 0.6}


class Case:
    """A random backbone with two patches, on disk and in memory."""

    def __init__(self, folder: Path, dtype: str = "BF16", seed: int = 0, shards: int = 1) -> None:
        draw = np.random.default_rng(seed)
        shapes = {**COVERED, **LEFT_ALONE}
        self.folder = folder
        self.backbone = {
            name: torch.from_numpy(draw.normal(0, 0.05, shape)).to(TORCH_DTYPES[dtype])
            for name, shape in shapes.items()
        }
        self.deltas, self.importance = {}, {}
        for patch in ("safety", "over_safety"):
            self.deltas[patch] = {
                name: draw.normal(0, 0.01, shape).astype(np.float32)
                for name, shape in shapes.items()
            }
            # A coarse grid: ties at every threshold, and zeros.
            self.importance[patch] = {
                name: (draw.integers(0, 6, shape) / 4).astype(np.float32)
                for name, shape in shapes.items()
            }
        self.write(shards)

    def write(self, shards: int) -> None:
        folder = self.folder / "backbone"
        folder.mkdir(parents=True)
        names = list(self.backbone)
        (folder / "config.json").write_text("{}")
        if shards == 1:
            save_file(self.backbone, folder / "model.safetensors", {"format": "pt"})
        else:
            weight_map = {}
            for shard in range(shards):
                file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
                part = {name: self.backbone[name] for name in names[shard::shards]}
                save_file(part, folder / file, {"format": "pt"})
                weight_map.update(dict.fromkeys(part, file))
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        for patch in self.deltas:
            shard_bytes = 4 << 30 if shards == 1 else 1
            metadata = {"score": "gradient", "backbone_fingerprint": backbone_fingerprint(folder)}
            with PatchWriter(self.folder / patch, patch, metadata, shard_bytes) as writer:
                for name in names if shards == 1 else reversed(names):
                    writer.add_delta(name, self.deltas[patch][name])
                    writer.add_importance(name, self.importance[patch][name])

    def reference(self, settings: MergeSettings) -> dict[str, torch.Tensor]:
        def only(values: dict) -> dict:
            return {name: values[name] for name in COVERED}

        return merge(
            only(self.backbone),
            {patch: only(values) for patch, values in self.deltas.items()},
            {patch: only(values) for patch, values in self.importance.items()},
            score=settings.score,
            scope=settings.scope,
            top={"safety": settings.top_safety, "over_safety": settings.top_over_safety},
            retention=settings.retention,
            weights={"safety": settings.alpha, "over_safety": settings.beta},
            seed=settings.seed,
        )

    def build(self, out: Path, settings: MergeSettings) -> dict:
        where = self.folder
        return build(where / "backbone", where / "safety", where / "over_safety", out, settings)


def settings_of(**changes) -> MergeSettings:
    values = {
        "top_safety": TOP["safety"],
        "top_over_safety": TOP["over_safety"],
        "retention": 0.6,
        "alpha": WEIGHTS["safety"],
        "beta": WEIGHTS["over_safety"],
        "seed": 5,
    }
    return MergeSettings(**{**values, **changes})


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize("score", ["weight", "delta"])
def test_merge_equals_the_numpy_reference_bit_for_bit(tmp_path, dtype, scope, score):
    case = Case(tmp_path, dtype, seed=len(dtype + scope + score))
    settings = settings_of(scope=scope, score=score)
    case.build(tmp_path / "out", settings)
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, wanted in case.reference(settings).items():
        assert raw(written[name]) == raw(wanted), name
    for name in LEFT_ALONE:
        assert raw(written[name]) == raw(case.backbone[name]), name
    assert any(raw(written[name]) != raw(case.backbone[name]) for name in COVERED)


def test_masks_do_not_change_when_the_shards_are_cut_differently(tmp_path):
    whole, cut = Case(tmp_path / "whole"), Case(tmp_path / "cut", shards=3)
    settings = settings_of(scope="model")
    whole.build(tmp_path / "whole/out", settings)
    cut.build(tmp_path / "cut/out", settings)
    one = load_file(tmp_path / "whole/out/model.safetensors")
    many: dict[str, torch.Tensor] = {}
    for shard in sorted((tmp_path / "cut/out").glob("*.safetensors")):
        many.update(load_file(shard))
    assert {name: raw(value) for name, value in one.items()} == {
        name: raw(value) for name, value in many.items()
    }


@pytest.mark.parametrize("method", ["difference", "intersection", "dense", "safety"])
def test_the_merge_in_memory_writes_the_same_bits(tmp_path, method):
    case = Case(tmp_path)
    settings = settings_of(method=method)
    case.build(tmp_path / "out", settings)
    written = load_file(tmp_path / "out" / "model.safetensors")
    loaded = LoadedInputs.read(
        tmp_path / "backbone", tmp_path / "safety", tmp_path / "over_safety", settings
    )
    for name, bits in loaded.merge(settings).items():
        assert bits.tobytes() == raw(written[name]), name


def test_single_patch_is_backbone_plus_delta(tmp_path):
    case = Case(tmp_path, "F32")
    case.build(tmp_path / "out", settings_of(method="safety", retention=1, alpha=1, include=["*"]))
    for name, found in load_file(tmp_path / "out" / "model.safetensors").items():
        wanted = case.backbone[name].numpy() + case.deltas["safety"][name]
        assert np.array_equal(found.numpy(), wanted)


def test_record_counts_and_hashes_are_true(tmp_path):
    case = Case(tmp_path)
    record = case.build(tmp_path / "out", settings_of(retention=1))
    assert record == json.loads((tmp_path / "out/merge.json").read_text())
    for file, digest in record["outputs"].items():
        assert hashlib.sha256((tmp_path / "out" / file).read_bytes()).hexdigest() == digest
    written = load_file(tmp_path / "out" / "model.safetensors")
    for name, report in record["tensors"].items():
        size = case.backbone[name].numel()
        assert report["top_S"] == int(TOP["safety"] * size)
        assert report["top_O"] == int(TOP["over_safety"] * size)
        assert report["kept_S"] == report["top_S"] - report["overlap"]
        changed = (written[name] != case.backbone[name]).sum().item()
        assert report["changed"] == changed
        norm = np.linalg.norm(case.deltas["safety"][name].astype(np.float64))
        assert report["norm_S"] == pytest.approx(norm)


def test_a_merged_llama_loads_with_plain_transformers(tmp_path):
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "backbone")
    for role in ("safety", "over_safety"):
        with PatchWriter(tmp_path / role, role, {"score": "gradient"}) as writer:
            for name, value in model.state_dict().items():
                writer.add_delta(name, torch.randn(value.shape).numpy() * 0.01)
                writer.add_importance(name, torch.rand(value.shape).numpy())
    build(
        tmp_path / "backbone", tmp_path / "safety", tmp_path / "over_safety", tmp_path / "out",
        settings_of(),
    )  # fmt: skip
    patched = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    logits = patched(input_ids=torch.arange(8)[None]).logits
    assert not torch.equal(logits, model(input_ids=torch.arange(8)[None]).logits)


def _negative(case: Case) -> None:
    name = next(iter(COVERED))
    case.importance["safety"][name][0, 0] = -1
    _rewrite(case, "safety")


def _nan(case: Case) -> None:
    name = next(iter(COVERED))
    case.deltas["over_safety"][name][0, 0] = np.nan
    _rewrite(case, "over_safety")


def _rewrite(case: Case, patch, metadata=None, leave_out=()) -> None:
    with PatchWriter(case.folder / patch, patch, metadata or {}) as writer:
        for name in case.backbone.keys() - set(leave_out):
            writer.add_delta(name, case.deltas[patch][name])
            writer.add_importance(name, case.importance[patch][name])


def _swap(case: Case) -> None:
    (case.folder / "safety").rename(case.folder / "x")
    (case.folder / "over_safety").rename(case.folder / "safety")
    (case.folder / "x").rename(case.folder / "over_safety")


def _pickle(case: Case) -> None:
    (case.folder / "backbone/model.safetensors").rename(case.folder / "backbone/pytorch_model.bin")


def _truncate(case: Case) -> None:
    file = case.folder / "safety/delta.safetensors"
    os.truncate(file, file.stat().st_size - 5)


def _shape(case: Case) -> None:
    name = next(iter(COVERED))
    case.deltas["safety"][name] = case.deltas["safety"][name][:-1]
    _rewrite(case, "safety")


DAMAGES = {
    "negative importance": (_negative, "not negative"),
    "NaN": (_nan, "NaN"),
    "wrong role": (_swap, "role is"),
    "pickled weights": (_pickle, "pickle"),
    "cut short": (_truncate, "copy it again"),
    "shape": (_shape, "shape"),
    "missing tensor": (lambda case: _rewrite(case, "safety", leave_out=COVERED), "lacks tensor"),
    "another backbone": (
        lambda case: _rewrite(case, "safety", {"backbone_fingerprint": "0" * 64}),
        "another backbone",
    ),
    "unfinished patch": (lambda case: (case.folder / "safety/patch.json").unlink(), "patch.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_wrong_inputs_are_refused_in_one_line_and_leave_nothing(tmp_path, damage):
    case = Case(tmp_path)
    break_it, wanted = DAMAGES[damage]
    break_it(case)
    with pytest.raises(UserError, match=wanted):
        case.build(tmp_path / "out", settings_of())
    assert not (tmp_path / "out").exists()


def test_several_problems_are_told_at_once(tmp_path):
    case = Case(tmp_path)
    (tmp_path / "safety/patch.json").unlink()
    _truncate_over = tmp_path / "over_safety/importance.safetensors"
    os.truncate(_truncate_over, 20)
    with pytest.raises(UserError, match=r"patch\.json.*importance\.safetensors"):
        case.build(tmp_path / "out", settings_of())


def test_a_rerun_is_done_already_and_other_settings_are_refused(tmp_path):
    case = Case(tmp_path)
    first = case.build(tmp_path / "out", settings_of())
    assert case.build(tmp_path / "out", settings_of()) == first
    with pytest.raises(UserError, match="something else"):
        case.build(tmp_path / "out", settings_of(seed=6))


def test_command_line_ends_with_status_2_and_one_line(tmp_path):
    Case(tmp_path)
    command = [
        sys.executable, "-m", "merge", "build", "--backbone", tmp_path / "backbone",
        "--safety", tmp_path / "safety", "--over-safety", tmp_path / "over_safety",
        "--out", tmp_path / "out",
    ]  # fmt: skip
    bad = subprocess.run([*command, "--retention", "1.5"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "retention" in bad.stderr
    good = subprocess.run([*command, "--tensorboard", tmp_path / "tb"], capture_output=True)
    assert good.returncode == 0, good.stderr
    assert list((tmp_path / "tb").glob("events*"))
