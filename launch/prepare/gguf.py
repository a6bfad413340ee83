"""`python -m launch gguf FILE --out DIR`: a GGUF file as a Hugging Face model folder.

For machines without a model hub: chat models also travel as GGUF files, as in packages.
The weights are those of the file, so those of a 4-bit file are somewhat worse than the original.
"""

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Literal

from merge.common.errors import UserError, first_line
from merge.common.files import current_umask, fsync_directory, make_directory

logger = logging.getLogger(__name__)

GgufDtype = Literal["auto", "float32", "bfloat16", "float16"]
_MAGIC = b"GGUF"
_HALF = {"F16": "float16", "BF16": "bfloat16"}
"""ggml's names of the types that a PyTorch dtype holds exactly in two bytes."""


def convert(file: Path, out: Path, dtype: GgufDtype = "auto") -> None:
    """Write model, tokenizer and chat template as a folder of safetensors, whole or not at all.

    Args:
        dtype: of the weights. ``auto`` loses nothing: float16 or bfloat16 where the file's weights
            are, and float32 where they are quantised, whose values no smaller dtype holds.

    Raises:
        UserError: ``file`` is no whole GGUF file of a model that transformers reads, has no
            tokenizer, or ``out`` exists or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; delete it, or choose another --out")
    chosen = _dtype_of(file) if dtype == "auto" else dtype
    model, tokenizer = _read(file, chosen)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_directory(partial)
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _make_durable(partial)
        partial.rename(out)
        fsync_directory(out.parent)
    # safetensors raises an exception of its own when the disk is full.
    except Exception as error:
        raise UserError(f"{out}: cannot be written ({first_line(error)}); free space?") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    logger.info("%s: %d parameters in %s", out, model.num_parameters(), chosen)
    if not tokenizer.chat_template:
        logger.warning(
            "%s: the file has no chat template; add chat_template.jinja to use the model here", out
        )


def _dtype_of(file: Path) -> str:
    """The dtype that holds exactly what most of the file's values are stored as."""
    from gguf import GGUFReader

    _refuse_other_files(file)
    try:
        tensors = GGUFReader(file).tensors
    except Exception as error:
        # A torn file shows itself by whatever NumPy or the reader stumble over.
        raise _unreadable(file, error) from None
    values: dict[str, int] = {}
    for tensor in tensors:
        name = _HALF.get(tensor.tensor_type.name, "float32")
        values[name] = values.get(name, 0) + int(tensor.n_elements)
    return max(values, key=lambda name: values[name], default="float32")


def _read(file: Path, dtype: str) -> tuple[Any, Any]:
    """The model and the tokenizer, as transformers understands the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _refuse_other_files(file)
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        # Else the weights stay packed where kernels for them are installed.
        plain = GgufConfig(dequantize=True)
        dequantized = AutoModelForCausalLM.from_pretrained(
            **source, dtype=getattr(torch, dtype), quantization_config=plain
        )
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:
        # An unknown architecture, a torn file and a missing tokenizer each raise in a way of
        # their own, in three libraries.
        raise _unreadable(file, error) from None
    # A model read from GGUF refuses to be saved; a fresh one with its weights does not.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(dequantized.config, dtype=dequantized.dtype)
    model.load_state_dict(dequantized.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = dequantized.generation_config
    return model, tokenizer


def _refuse_other_files(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a .gguf file") from None
    if magic != _MAGIC:
        raise UserError(f"{file}: is no GGUF file (it does not begin with 'GGUF'); give one")


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{file}: cannot be read as a chat model ({first_line(error)}); give a whole GGUF file, "
        "in one part, of an architecture that transformers reads"
    )


def _make_durable(folder: Path) -> None:
    """Put on disk what transformers has written, before the folder takes its name."""
    for path in folder.iterdir():
        # safetensors makes files for their owner alone.
        path.chmod(0o666 & ~current_umask())
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    fsync_directory(folder)
