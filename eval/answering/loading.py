"""Loading a model's folder, and the hashes by which its answers are known."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eval.settings import Dtype
from merge.common.errors import UserError, first_line
from merge.common.files import sha256_file, sha256_json
from merge.common.progress import Progress
from merge.io.tensor_files import read_index

_TEXT_PREFIXES = (
    "config",
    "generation_config",
    "tokenizer",
    "special_tokens",
    "added_tokens",
    "chat_template",
    "vocab",
    "merges",
    "spiece",
)


def model_identity(directory: Path) -> dict[str, str]:
    """SHA-256 of a model's weights, and of its tokenizer, chat template and configuration.

    All bytes of the weights count: a patch may change any few of them.

    Raises:
        UserError: there is no such folder, it holds no weights, or weights that are malformed or
            contradict each other.
    """
    if not directory.is_dir():
        raise UserError(f"model {directory}: no such folder; give --model a model's folder")
    files = sorted(path for path in directory.iterdir() if path.is_file())
    weights = _weight_files(directory, files)
    if not weights or not (directory / "config.json").is_file():
        raise UserError(f"model {directory}: holds no config.json with *.safetensors or *.bin")
    texts = [path for path in files if path.name.startswith(_TEXT_PREFIXES) and path not in weights]
    return {"weights_sha256": _hash_of(weights), "template_sha256": _hash_of(texts)}


def _weight_files(directory: Path, files: Sequence[Path]) -> list[Path]:
    """The files that transformers loads: safetensors, or else pickled ones; with any adapter."""
    adapter = [path for path in files if path.name.startswith("adapter_model.")]
    if any(path.suffix == ".safetensors" for path in files if path not in adapter):
        return sorted([*read_index(directory, "model").files, *adapter])
    return [path for path in files if path.suffix == ".bin"]


def _hash_of(files: Iterable[Path]) -> str:
    """One hash of several files' names and contents."""
    files = list(files)
    size = sum(file.stat().st_size for file in files)
    with (
        Progress("hash", size, "B") as progress,
        ThreadPoolExecutor() as pool,  # hashing leaves the interpreter lock
    ):
        digests = pool.map(lambda file: sha256_file(file, progress.advance), files)
        listing = [(file.name, digest) for file, digest in zip(files, digests, strict=True)]
    return sha256_json(listing)


def resolve_dtype(dtype: Dtype) -> str:
    """Resolve ``auto``: float32 on a CPU; on a GPU it stays ``auto``, and transformers loads the
    weights in the checkpoint's dtype."""
    if dtype == "auto" and not torch.cuda.is_available():
        return "float32"
    return dtype


def load_tokenizer(directory: Path, for_chat: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a model's folder.

    Raises:
        UserError: it cannot be loaded, or is for chat and has no chat template.
    """
    tokenizer = _load(AutoTokenizer, directory)
    if for_chat and not tokenizer.chat_template:
        raise UserError(
            f"model {directory}: its tokenizer has no chat template; use a chat model, or add "
            "chat_template to its tokenizer_config.json"
        )
    return tokenizer


def load_generation_config(directory: Path) -> GenerationConfig:
    """The generation config of a model's folder, or what its configuration says of generation.

    Raises:
        UserError: there is neither.
    """
    if (directory / "generation_config.json").is_file():
        return _load(GenerationConfig, directory)
    return GenerationConfig.from_model_config(_load(AutoConfig, directory))


def stored_dtype(directory: Path) -> str:
    """The dtype in which transformers loads a model for ``auto``, which others read otherwise.

    Returns:
        As "bfloat16"; "auto" where the configuration names none.
    """
    dtype = _load(AutoConfig, directory).dtype
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def load_model(directory: Path, dtype: str, device: str | None = None) -> PreTrainedModel:
    """The model of a folder, in evaluation mode.

    Args:
        dtype: as ``resolve_dtype`` gives it.
        device: the first GPU by default, where there is one.
    """
    model = _load(AutoModelForCausalLM, directory, dtype=dtype)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def load_judge(loader: Any, name: str, role: str) -> tuple[Any, Any]:
    """A judge's model, in evaluation mode on the GPU where there is one, and its tokenizer.

    Args:
        loader: the class of ``transformers`` that loads it.
        name: a folder, or a name on the hub.
        role: what it is called in errors.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = loader.from_pretrained(name).eval()
    except Exception as error:  # the loaders raise many unrelated types for one missing model
        raise UserError(f"{role} {name}: cannot be loaded ({first_line(error)})") from None
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def _load(loader: Any, directory: Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(directory, local_files_only=True, **options)
    except Exception as error:  # the loaders raise many unrelated types for one broken file
        raise UserError(f"model {directory}: cannot be loaded ({first_line(error)})") from None
