"""The backbone's folder: where it is, its tokenizer, and its tensors one at a time."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from merge.errors import UserError
from train.recipe import BackboneSettings

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def backbone_directory(settings: BackboneSettings) -> Path:
    """The local folder of a backbone; a name on the hub is downloaded first.

    Raises:
        UserError: no such folder or hub name, no access, or no safetensors weights.
    """
    path = Path(settings.path)
    if path.is_dir():
        directory = path
    elif path.is_absolute() or settings.path.count("/") != 1 or settings.path.startswith("."):
        raise UserError(f"backbone {path}: no such folder; mend backbone.path in the recipe")
    else:
        directory = _download(settings.path)
    if not (directory / _WEIGHTS).is_file() and not (directory / _INDEX).is_file():
        raise UserError(
            f"backbone {settings.path}: holds neither {_WEIGHTS} nor {_INDEX}; convert its "
            "weights to safetensors"
        )
    return directory


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.model"]))
    except GatedRepoError:
        raise UserError(
            f"backbone {name}: is gated; accept its licence on the hub and log in with 'hf auth "
            "login'"
        ) from None
    except Exception as error:
        # The hub client raises its own, httpx's and the operating system's errors.
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

    A file is mapped only while one of its tensors is in use, so what was read does not stay.
    """

    def __init__(self, directory: Path) -> None:
        index = directory / _INDEX
        files = [_WEIGHTS]
        if index.is_file():
            files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        self._file_of: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(directory / file, framework="pt") as content:
                    self._file_of.update(dict.fromkeys(content.keys(), directory / file))
            except (OSError, SafetensorError) as error:
                raise UserError(
                    f"backbone {directory / file}: cannot be read ({error}); download it again"
                ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One whole tensor on the CPU, in ``dtype``."""
        with safe_open(self._file_of[name], framework="pt") as content:
            return content.get_tensor(name).to(dtype)

    def read_flat(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Elements ``start`` to ``stop`` of a flattened tensor; only these leave the disk."""
        with safe_open(self._file_of[name], framework="pt") as content:
            return content.get_tensor(name).flatten()[start:stop].to(dtype)
