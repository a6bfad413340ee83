"""What comes along with the weights, what does not, and which weights are the model's."""

import json
import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from eval.answering.loading import model_identity
from merge.apply import apply_delta
from merge.build import build
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.io.companions import companion_files
from merge.io.fingerprint import backbone_fingerprint
from merge.io.patch_directory import PatchWriter, read_patch
from merge.io.tensor_files import read_index
from merge.plan import plan
from merge.settings import MergeSettings
from merge.verify import verify
from tests.support.merge_models import write_patch, write_tensors
from train.backbone.folder import backbone_directory
from train.backbone.tensors import BackboneTensors
from train.recipe import BackboneSettings

_COMPANIONS = (
    *("config.json", "tokenizer.json", "merges.txt", "tokenizer.model.v7", "qwen.tiktoken"),
    *("LICENCE", "LICENSE.md", "NOTICE.txt", "Acceptable_Use.pdf", "chat_template.jinja"),
    *(
        "additional_chat_templates/tools.jinja",
        "modeling/blocks/attention.py",
        "adapter_config.json",
    ),
    *("adapter_model.safetensors", "processor/preprocessor_config.json", "model_card_data.json"),
)
_FOREIGN = (
    *("pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "model.fp16.safetensors"),
    *("consolidated.00.pth", "consolidated.safetensors", "consolidated.safetensors.index.json"),
    *("onnx/model.onnx", "onnx/config.json", "original/params.json", "weights-q4.gguf"),
    *("tf_model.h5", "flax_model.msgpack", "optimizer.pt", "rng_state_0.pth", "trainer_state.json"),
    *("global_step40/mp_rank_00_model_states.pt", "checkpoint-40/config.json", "training_args.bin"),
    *(".gitattributes", ".cache/huggingface/x.json", "modeling/__pycache__/a.pyc"),
)


def _write(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith("json") else f"this is {name}\n")


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A backbone with all that may lie beside its weights, and two patches."""
    draws = torch.Generator().manual_seed(6)
    weights = {f"w{n}": torch.randn(8, 6, generator=draws).bfloat16() for n in range(3)}
    write_tensors(tmp_path / "backbone", "model", weights, shards=2)
    _write(tmp_path / "backbone", (*_COMPANIONS, *_FOREIGN, "README.md"))
    for role in ("safety", "over_safety"):
        delta = {name: torch.randn(8, 6, generator=draws) for name in weights}
        write_patch(tmp_path / role, role, delta, {name: t.abs() for name, t in delta.items()})
    return tmp_path


def _inputs(case: Path) -> tuple[Path, Path, Path]:
    return case / "backbone", case / "safety", case / "over_safety"


def _merge(case: Path, out: Path, **more: Any) -> None:
    settings, resources = MergeSettings(include=("w*",)), MergeResources()
    build(*_inputs(case), out, settings, resources, **more)


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


_WEIGHTS = {f"model-{n:05d}-of-00002.safetensors" for n in (1, 2)} | {
    "model.safetensors.index.json"
}


def test_all_but_weights_and_leftovers_is_copied_by_build_and_apply(case: Path) -> None:
    """Bytes and folders as they were; merge.json has their hashes, and verify finds a change."""
    out, applied = case / "out", case / "applied"
    _merge(case, out, delta_file=case / "d.safepatch")
    apply_delta(case / "backbone", case / "d.safepatch", applied)
    kept = _WEIGHTS | set(_COMPANIONS) | {"BACKBONE_README.md", "merge.json"}
    assert _files(applied) == kept
    assert _files(out) == kept | {"README.md"}
    for name in _COMPANIONS:
        wanted = (case / "backbone" / name).read_bytes()
        assert (out / name).read_bytes() == (applied / name).read_bytes() == wanted
    assert (out / "BACKBONE_README.md").read_text() == "this is README.md\n"
    outputs = json.loads((out / "merge.json").read_text())["outputs"]
    assert set(outputs) == _files(out) - {"merge.json"}
    verify(out)
    (out / "modeling/blocks/attention.py").write_text("changed")
    with pytest.raises(UserError, match=r"attention\.py: has changed"):
        verify(out)


def test_a_merge_of_a_merge_keeps_the_first_card_and_none_of_the_merges(case: Path) -> None:
    _merge(case, case / "once")
    (case / "backbone").rename(case / "first")
    (case / "once").rename(case / "backbone")
    _merge(case, case / "twice")
    assert (case / "twice/BACKBONE_README.md").read_text() == "this is README.md\n"
    assert "once" not in (case / "twice/README.md").read_text()
    companions = companion_files(case / "backbone", case / "twice")
    assert not {"merge.json", "density.svg"} & {companion.name for companion in companions}


def test_a_snapshot_of_the_hubs_cache_is_copied_as_files(case: Path) -> None:
    """Links to blobs become files; links to folders are not followed out of the model."""
    blobs = case / "blobs"
    (case / "backbone").rename(blobs)
    for name in _files(blobs):
        link = case / "backbone" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / name, link.parent))
    (case / "private").mkdir()
    (case / "private/secret.txt").write_text("secret")
    (case / "backbone/elsewhere").symlink_to(case / "private", target_is_directory=True)
    (case / "backbone/self").symlink_to(case / "backbone", target_is_directory=True)
    _merge(case, case / "out")
    assert set(_COMPANIONS) <= _files(case / "out")
    assert not any(path.is_symlink() for path in (case / "out").rglob("*"))
    assert not {"elsewhere", "self"} & {path.name for path in (case / "out").iterdir()}
    odd = os.fsdecode(b"caf\xe9.txt")
    (case / "backbone" / odd).write_text("of another system")
    with pytest.raises(UserError, match=r"not UTF-8 \('caf\\udce9.txt'\)"):
        _merge(case, case / "again")
    (case / "backbone" / odd).unlink()
    (case / "backbone/LICENCE").unlink()
    (case / "backbone/LICENCE").symlink_to("gone")
    with pytest.raises(UserError, match=r"LICENCE: is a link to nothing"):
        _merge(case, case / "again")
    assert not (case / "again").exists()


def test_an_output_inside_the_backbones_folder_is_no_part_of_it(case: Path) -> None:
    """Nor is the run folder around it, which holds private data."""
    _write(case / "backbone", ("run/harvest/pairs.jsonl",))
    out = case / "backbone/run/patched"
    out.parent.mkdir(parents=True, exist_ok=True)
    _merge(case, out)
    assert set(_COMPANIONS) <= _files(out) and not (out / "run").exists()


def test_the_plan_counts_the_companions(case: Path) -> None:
    settings, resources = MergeSettings(include=("w*",)), MergeResources()
    before = plan(*_inputs(case), case / "out", settings, resources)
    (case / "backbone/voice").mkdir()
    (case / "backbone/voice/table.txt").write_bytes(bytes(5000))
    after = plan(*_inputs(case), case / "out", settings, resources)
    assert after.write_bytes - before.write_bytes == 5000


def test_the_download_fetches_what_the_merge_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """One list: what comes from the hub are the companions, the weights, and the card."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **options: asked.update(options) or "."
    )
    backbone_directory(BackboneSettings(path="someone/model"))

    def is_fetched(name: str) -> bool:
        return not any(fnmatchcase(name, pattern) for pattern in asked["ignore_patterns"])

    assert asked["allow_patterns"] is None
    assert all(map(is_fetched, (*_COMPANIONS, *_WEIGHTS, "model.safetensors", "README.md")))
    assert not any(map(is_fetched, _FOREIGN))


def _contradict(folder: Path, stem: str) -> None:
    """A single file beside shards of other values, as an older upload leaves them."""
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob(f"{stem}-*.safetensors")):
        tensors |= load_file(path)
    write_tensors(folder, stem, {name: tensor + 1 for name, tensor in tensors.items()})


def test_a_single_file_beside_other_shards_is_refused_by_all_who_read(case: Path) -> None:
    """transformers would load the one, a reader of the index the other."""
    folder = case / "backbone"
    _contradict(folder, "model")
    message = r"holds model\.safetensors and model\.safetensors\.index\.json.*delete what is old"
    for read in (
        lambda: _merge(case, case / "out"),
        lambda: backbone_fingerprint(folder),
        lambda: model_identity(folder),
        lambda: BackboneTensors(folder, None),
    ):
        with pytest.raises(UserError, match=message):
            read()
    assert not (case / "out").exists()
    index = {"weight_map": dict.fromkeys(("w0", "w1", "w2"), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(read_index(folder, "model")) == 3  # they agree
    _write(folder, ("config.json",))
    (folder / "config.json").write_text('{"transformers_weights": "consolidated.safetensors"}')
    with pytest.raises(UserError, match=r"transformers_weights names consolidated\.safetensors"):
        BackboneTensors(folder, None)


def test_a_patch_of_two_forms_is_refused_and_never_written(case: Path) -> None:
    patch = case / "both"
    values = {f"w{n}": torch.ones(8, 6) for n in range(3)}
    write_tensors(patch, "delta", values, shards=3)
    write_patch(patch, "safety", values, values)
    with pytest.raises(UserError, match=r"holds delta\.safetensors and delta\.safetensors\.index"):
        read_patch(patch)
    for limit in (10_000, 100):  # what an unfinished writing left in one file, then in several
        (patch / "patch.json").unlink(missing_ok=True)
        with PatchWriter(patch, "safety", {}, shard_bytes=limit) as writer:
            for name in values:
                writer.add_delta(name, np.ones((8, 6), np.float32))
                writer.add_importance(name, np.ones((8, 6), np.float32))
        assert set(read_patch(patch).delta) == set(values)


def test_answers_are_known_by_the_weights_that_are_loaded(case: Path) -> None:
    """Weights of another format beside them change nothing; a bit of their own does."""
    folder = case / "backbone"
    before = model_identity(folder)
    (folder / "consolidated.safetensors").write_bytes(b"another")
    assert model_identity(folder) == before
    shard = folder / "model-00001-of-00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    assert model_identity(folder)["weights_sha256"] != before["weights_sha256"]
