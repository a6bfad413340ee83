"""A GGUF file becomes a model folder with exactly its weights, or the user is told why not."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer

from launch.cli import parse
from launch.prepare.gguf import convert
from merge.common.errors import UserError

_HIDDEN, _INNER, _HEADS, _SHARED = 64, 96, 4, 2
_TOKENS = ["<end>", *"abcdefgh", *"\u0120\u010a", "ab", "cd"]
_TEMPLATE = "{% for turn in messages %}{{ turn.content }}<end>{% endfor %}"
_NAMES = {
    "token_embd": ("model.embed_tokens", (len(_TOKENS), _HIDDEN)),
    "output_norm": ("model.norm", (_HIDDEN,)),
    "blk.0.attn_norm": ("model.layers.0.input_layernorm", (_HIDDEN,)),
    "blk.0.ffn_norm": ("model.layers.0.post_attention_layernorm", (_HIDDEN,)),
    "blk.0.attn_q": ("model.layers.0.self_attn.q_proj", (_HIDDEN, _HIDDEN)),
    "blk.0.attn_k": ("model.layers.0.self_attn.k_proj", (_HIDDEN // 2, _HIDDEN)),
    "blk.0.attn_v": ("model.layers.0.self_attn.v_proj", (_HIDDEN // 2, _HIDDEN)),
    "blk.0.attn_output": ("model.layers.0.self_attn.o_proj", (_HIDDEN, _HIDDEN)),
    "blk.0.ffn_gate": ("model.layers.0.mlp.gate_proj", (_INNER, _HIDDEN)),
    "blk.0.ffn_up": ("model.layers.0.mlp.up_proj", (_INNER, _HIDDEN)),
    "blk.0.ffn_down": ("model.layers.0.mlp.down_proj", (_HIDDEN, _INNER)),
}
"""ggml's name -> transformers' name and shape; Qwen's q, k and v have biases as well."""


def write_gguf(file: Path, kind: Kind, template: str | None = _TEMPLATE) -> dict[str, np.ndarray]:
    """Write a Qwen2 of one layer with random weights.

    Returns:
        What its weights are, read by hand from the file's own encoding, under transformers' names.
    """
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_context_length(64)
    writer.add_embedding_length(_HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_SHARED)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(_TOKENS)
    writer.add_token_types([3] + [1] * (len(_TOKENS) - 1))
    writer.add_token_merges(["a b", "c d"])
    writer.add_eos_token_id(0)
    if template is not None:
        writer.add_chat_template(template)
    draw = np.random.default_rng(0)
    wanted = {}
    for name, (place, shape) in _NAMES.items():
        values = draw.normal(size=shape).astype(np.float32)
        is_matrix = len(shape) == 2
        if not is_matrix or kind is Kind.F32:
            writer.add_tensor(f"{name}.weight", values)
            wanted[f"{place}.weight"] = values
        elif kind is Kind.F16:
            writer.add_tensor(f"{name}.weight", values.astype(np.float16))
            wanted[f"{place}.weight"] = values.astype(np.float16)
        else:
            packed = gguf.quants.quantize(values, kind)
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
            wanted[f"{place}.weight"] = _unpacked_q8(packed, shape)
    for name in ("q", "k", "v"):
        size = _HIDDEN if name == "q" else _HIDDEN // 2
        values = draw.normal(size=size).astype(np.float32)
        writer.add_tensor(f"blk.0.attn_{name}.bias", values)
        wanted[f"model.layers.0.self_attn.{name}_proj.bias"] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return wanted


def _unpacked_q8(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Q8_0 by its definition: blocks of a half-precision scale and 32 signed bytes."""
    blocks = packed.reshape(-1, 34)
    scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return (scales * blocks[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(Kind.Q8_0, torch.float32), (Kind.F16, torch.float16), (Kind.F32, torch.float32)],
)
def test_weights_come_out_exactly(tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    """In the smallest dtype that holds them, with a tokenizer and template that work, for all."""
    wanted = write_gguf(tmp_path / "m.gguf", kind)
    out = tmp_path / "models" / "small"
    options = parse(["gguf", str(tmp_path / "m.gguf"), "--out", str(out)])
    options.command(options)
    model = AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    parameters = dict(model.named_parameters())
    assert parameters.keys() == wanted.keys()
    for name, values in wanted.items():
        assert parameters[name].dtype == dtype
        # Norms and biases are fp32 in an fp16 file, as llama.cpp writes them.
        assert torch.equal(parameters[name], torch.tensor(values).to(dtype)), name
    tokenizer = AutoTokenizer.from_pretrained(out)
    turns = [{"role": "user", "content": "abc"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "abc<end>"
    assert tokenizer("abcd", add_special_tokens=False)["input_ids"] == [11, 12]
    assert "quantization_config" not in (out / "config.json").read_text()
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in out.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_another_dtype_rounds(tmp_path: Path) -> None:
    wanted = write_gguf(tmp_path / "m.gguf", Kind.Q8_0)
    convert(tmp_path / "m.gguf", tmp_path / "out", "bfloat16")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    name = "model.layers.0.mlp.up_proj.weight"
    rounded = torch.tensor(wanted[name]).bfloat16()
    assert torch.equal(dict(model.named_parameters())[name], rounded)


def test_a_file_without_template_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_gguf(tmp_path / "m.gguf", Kind.F32, template=None)
    convert(tmp_path / "m.gguf", tmp_path / "out")
    assert "no chat template" in caplog.text


def test_faults_are_named_and_leave_nothing(tmp_path: Path) -> None:
    """A missing, a foreign, a torn file; a folder that is there; a name that cannot be a folder."""
    file = tmp_path / "m.gguf"
    write_gguf(file, Kind.F16)
    (tmp_path / "torn.gguf").write_bytes(file.read_bytes()[:2000])
    (tmp_path / "foreign.gguf").write_bytes(b"PK and more")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep")
    for name, words in (
        ("missing.gguf", "cannot be read"),
        ("foreign.gguf", "is no GGUF file"),
        ("torn.gguf", "whole GGUF file"),
        (".", "cannot be read"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            convert(tmp_path / name, tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="exists already"):
        convert(file, tmp_path / "taken")
    with pytest.raises(UserError, match=r"m\.gguf"):
        convert(file, file / "below")
    names = {"m.gguf", "torn.gguf", "foreign.gguf", "taken"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert (tmp_path / "taken" / "mine.txt").read_text() == "keep"
