"""Packages that pictures and curves alone need: requirements-merge.txt leaves them out."""

import importlib.util

from merge.common.errors import UserError


def require(what: str, *packages: str, otherwise: str = "") -> None:
    """See that packages are installed.

    Args:
        what: needs them.
        otherwise: what the user can do instead, beginning with a comma.

    Raises:
        UserError: one is missing, naming all that are.
    """
    names = [package for package in packages if importlib.util.find_spec(package) is None]
    if names:
        raise UserError(
            f"{what}: needs {' and '.join(names)}, not installed here; "
            f"pip install {' '.join(names)}{otherwise}"
        )
