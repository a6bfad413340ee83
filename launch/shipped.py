"""Files that the project ships, named in recipes by their paths in the project."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_PROJECT = Path(__file__).resolve().parent.parent


def shipped(path: Path) -> Path:
    """The path, or the project's own file of that path where there is none here.

    So shipped recipes work from any folder.
    """
    own = _PROJECT / path
    return own if not path.exists() and own.is_file() else path


ShippedFile = Annotated[Path, AfterValidator(shipped)]
