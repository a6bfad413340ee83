"""The backbone's folder: where it is, its tokenizer, and its tensors one at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge.errors import UserError
from merge.model_files import CONFIGURATION_FILES, FOREIGN_FILES
from merge.tensor_files import read_index
from merge.tensor_reader import TensorReader
from train.recipe import BackboneSettings

_TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_REFUSALS = (401, 403)
"""HTTP statuses; the hub answers 401 for names that do not exist, too."""


def backbone_directory(settings: BackboneSettings) -> Path:
    """The local folder of a backbone; a name on the hub is downloaded first.

    Raises:
        UserError: no such folder or hub name, or no access.
    """
    path = Path(settings.path)
    if path.is_dir():
        return path
    return _from_hub(settings.path)


def read_config(settings: BackboneSettings) -> Any:
    """A backbone's transformers configuration; of a name on the hub, no weights are fetched.

    Raises:
        UserError: no such folder or hub name, no access, or no configuration of a model.
    """
    from transformers import AutoConfig

    directory = Path(settings.path)
    if not directory.is_dir():
        directory = _from_hub(settings.path, CONFIGURATION_FILES)
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"backbone {settings.path}: its configuration cannot be loaded ({reason}); a model "
            "folder has a config.json that this transformers version knows"
        ) from None


def _from_hub(name: str, patterns: Sequence[str] | None = None) -> Path:
    """The local copy of a model on the hub: all files of a model, or those of some patterns."""
    if Path(name).is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise UserError(f"backbone {name}: no such folder; mend backbone.path in the recipe")
    return _download(name, patterns)


def _download(name: str, patterns: Sequence[str] | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=None if patterns is None else list(patterns),
                ignore_patterns=list(FOREIGN_FILES),
            )
        )
    except GatedRepoError:
        raise UserError(
            f"backbone {name}: is gated; accept its licence on the hub and log in with 'hf auth "
            "login'"
        ) from None
    except Exception as error:
        # The hub client raises its own, httpx's and the operating system's errors.
        response = getattr(error.__cause__ or error, "response", None)
        if getattr(response, "status_code", None) in _REFUSALS:
            raise UserError(
                f"backbone {name}: is no local folder, and the hub shows no such model without "
                "the right login; mend backbone.path, or log in with 'hf auth login'"
            ) from None
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"backbone {name}: is no local folder, and the hub does not give it ({reason}); mend "
            "backbone.path"
        ) from None


def load_tokenizer(directory: Path, settings: BackboneSettings) -> Any:
    """The backbone's tokenizer, checked against the backbone's vocabulary.

    Raises:
        UserError: it cannot be loaded, or has more tokens than the model has embeddings.
    """
    from transformers import AutoConfig, AutoTokenizer

    try:
        code = settings.trust_remote_code
        config = AutoConfig.from_pretrained(directory, trust_remote_code=code)
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"backbone {settings.path}: its configuration or tokenizer cannot be loaded "
            f"({reason}); a complete model folder has config.json and tokenizer files"
        ) from None
    vocabulary = config.get_text_config().vocab_size
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"backbone {settings.path}: its tokenizer has {len(tokenizer)} tokens and its model "
            f"{vocabulary} embeddings; use the tokenizer that the model was trained with"
        )
    return tokenizer


class BackboneTensors:
    """The backbone's weights as they are on disk, one tensor at a time.

    Raises:
        UserError: no safetensors weights, or files that are torn or contradict their index.
    """

    def __init__(self, directory: Path) -> None:
        self._entries = read_index(directory, "model")
        self._reader = TensorReader(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One whole tensor on the CPU, in ``dtype``."""
        entry = self._entries[name]
        return self.read_flat(name, 0, entry.size, dtype).view(entry.shape)

    def read_flat(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Elements ``start`` to ``stop`` of a flattened tensor; nothing else is read."""
        entry = self._entries[name]
        if entry.dtype not in _TORCH_DTYPES:
            raise UserError(
                f"{entry.file}: '{name}' is {entry.dtype}; use a backbone of "
                f"{', '.join(_TORCH_DTYPES)} weights, which are not quantized"
            )
        stored = _TORCH_DTYPES[entry.dtype]
        values = torch.empty(stop - start, dtype=stored)
        # As bytes: numpy, through which the reader fills it, knows no bfloat16.
        place = entry.offset + start * stored.itemsize
        self._reader.read_bytes(entry.file, values.view(torch.uint8).numpy(), place)
        return values.to(dtype)
