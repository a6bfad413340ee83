"""The backbone's folder: where it is, its configuration and its tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge.common.errors import UserError, first_line
from merge.common.files import counted_from
from merge.io.model_files import CONFIGURATION_FILES, FOREIGN_FILES
from train.recipe import BackboneSettings

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
    directory = Path(settings.path)
    if not directory.is_dir():
        directory = _from_hub(settings.path, CONFIGURATION_FILES)
    return config_of(directory, settings)


def config_of(directory: Path, settings: BackboneSettings) -> Any:
    """The transformers configuration in a backbone's folder.

    Raises:
        UserError: no configuration of a model.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone {settings.path}: its configuration cannot be loaded ({first_line(error)}); "
            "a model folder has a config.json that this transformers version knows"
        ) from None


def _from_hub(name: str, patterns: Sequence[str] | None = None) -> Path:
    """The local copy of a model on the hub: all files of a model, or those of some patterns."""
    if Path(name).is_absolute() or name.count("/") != 1 or name.startswith("."):
        raise UserError(
            f"backbone {name}: no such folder; fix backbone.path in the recipe{counted_from(name)}"
        )
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
                "the right login; fix backbone.path, or log in with 'hf auth login'"
            ) from None
        raise UserError(
            f"backbone {name}: is no local folder, and the hub does not give it "
            f"({first_line(error)}); fix backbone.path"
        ) from None


def load_tokenizer(directory: Path, settings: BackboneSettings) -> Any:
    """The backbone's tokenizer.

    It may know more tokens than the model has embeddings: some add padding tokens that no text
    holds. ``train.chat.vocabulary`` looks at the ids that do occur.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            directory, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UserError(
            f"backbone {settings.path}: its tokenizer cannot be loaded ({first_line(error)}); "
            "a complete model folder has config.json and tokenizer files"
        ) from None
