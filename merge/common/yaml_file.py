"""Reading YAML files that people write; every floor above reads them here."""

from pathlib import Path
from typing import Any

import yaml

from merge.common.errors import UserError
from merge.common.files import counted_from


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds.

    Args:
        what: how errors call the file, before its path.

    Raises:
        UserError: the file cannot be read, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{what} {path}: cannot be read ({error.strerror}); check the path{counted_from(path)}"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # also of a day that no calendar has
        raise UserError(f"{what} {path}: not valid YAML ({error}); fix that line") from None


def read_keys(path: Path, what: str, wanted: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        what: how errors call the file, before its path.
        wanted: what errors say that it must hold.

    Raises:
        UserError: the file is missing, not YAML, or holds something else than keys.
    """
    values = read_yaml(path, what)
    if not isinstance(values, dict):
        raise UserError(f"{what} {path}: must hold {wanted}")
    return values
