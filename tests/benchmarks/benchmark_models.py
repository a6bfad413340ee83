"""Model files of a chosen size for the merger's benchmark: random bf16 Llama shapes and patches.

``python -m tests.benchmarks.benchmark_models FOLDER SIZE plain|tuned`` prints the parameters in
billions.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.io.patch_hashes import hash_file, hashes_record
from merge.io.tensor_stream import header_bytes

SHARDS = 4
_HEAD = 64
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int = 32000

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, in file order."""
        wide, high = self.hidden, self.intermediate
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, wide)}
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            shapes |= {f"{at}.self_attn.{name}_proj.weight": (wide, wide) for name in "qkvo"}
            shapes |= {f"{at}.mlp.{name}_proj.weight": (high, wide) for name in ("gate", "up")}
            shapes[f"{at}.mlp.down_proj.weight"] = (wide, high)
            shapes |= {
                f"{at}.{name}_layernorm.weight": (wide,) for name in ("input", "post_attention")
            }
        return shapes | {"model.norm.weight": (wide,), "lm_head.weight": (self.vocabulary, wide)}

    @property
    def billions(self) -> float:
        """Parameters."""
        return sum(int(np.prod(shape)) for shape in self.tensors().values()) / 1e9

    def config(self) -> dict[str, object]:
        """config.json, as far as transformers and mergekit want it."""
        heads = self.hidden // _HEAD
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "vocab_size": self.vocabulary,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        }  # fmt: skip


SHAPES = {
    "0.13": Shape(768, 2048, 12),
    "0.5": Shape(1280, 3456, 22),
    "2": Shape(2560, 6912, 24),
}
"""Parameters in billions, about, and their shapes; 0.5 is issue 3's."""


def write_inputs(folder: Path, shape: Shape, tuned: bool) -> None:
    """Write ``backbone``, ``safety`` and ``over_safety``; all bf16, each source in 4 files.

    Args:
        tuned: also write ``tuned_safety`` and ``tuned_over_safety``, the backbone plus each delta
            rounded to bf16, which is what mergekit reads.
    """
    rng = np.random.default_rng(0)
    base = rng.standard_normal(_BLOCK_VALUES, np.float32)
    sources = {
        ("backbone", "model"): base / 40,
        ("safety", "delta"): np.roll(base, 1) / 2000,
        ("over_safety", "delta"): np.roll(base, 2) / 2000,
        ("safety", "importance"): np.abs(np.roll(base, 3)) / 100,
        ("over_safety", "importance"): np.abs(np.roll(base, 4)) / 100,
    }
    if tuned:
        for role in ("safety", "over_safety"):
            values = sources["backbone", "model"] + sources[role, "delta"]
            sources[f"tuned_{role}", "model"] = values
    for (name, stem), values in sources.items():
        _write(folder / name, stem, shape, _to_bf16(values))
        if stem == "model":
            (folder / name / "config.json").write_text(json.dumps(shape.config()))
    for role in ("safety", "over_safety"):
        # As training exports a patch.
        files = sorted((folder / role).glob("*.safetensors"))
        hashes = hashes_record({file.name: hash_file(file) for file in files})
        record = {"format": 1, "role": role, **hashes}
        (folder / role / "patch.json").write_text(json.dumps(record))


def _to_bf16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _write(folder: Path, stem: str, shape: Shape, block: np.ndarray) -> None:
    """One source; every tensor starts elsewhere in the block, so that no two are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes, placement = shape.tensors(), {}
    for number, names in enumerate(_shards(shapes), start=1):
        file = f"{stem}-{number:05d}-of-{SHARDS:05d}.safetensors"
        position, header = 0, {}
        for name in names:
            end = position + 2 * int(np.prod(shapes[name]))
            header[name] = ("BF16", shapes[name], position, end)
            position = end
        with (folder / file).open("wb") as out:
            out.write(header_bytes(header, {"format": "pt"}))
            for name in names:
                out.writelines(_repeat(block, 7919 * len(placement), int(np.prod(shapes[name]))))
                placement[name] = file
    index = {"metadata": {}, "weight_map": placement}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _repeat(block: np.ndarray, start: int, size: int) -> Iterator[memoryview]:
    turned = np.roll(block, -start)
    for begin in range(0, size, turned.size):
        yield turned[: size - begin].data


def _shards(shapes: dict[str, tuple[int, ...]]) -> list[list[str]]:
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    groups: list[list[str]] = [[] for _ in range(SHARDS)]
    done = 0
    for name, shape in shapes.items():
        groups[done * SHARDS // total].append(name)
        done += int(np.prod(shape))
    return groups


if __name__ == "__main__":
    chosen = SHAPES[sys.argv[2]]
    write_inputs(Path(sys.argv[1]), chosen, sys.argv[3] == "tuned")
    sys.stdout.write(f"{chosen.billions}\n")
