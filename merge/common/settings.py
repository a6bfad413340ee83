"""Typed settings: the base class of every settings model, and errors that name key and fix."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from merge.common.errors import UserError


class Settings(BaseModel):
    """Base of all settings: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def leave_out_descriptions() -> None:
    """Give classes that are defined from now on no descriptions of their fields.

    Only ``launch reference`` reads them, and to find them in the sources takes a tenth of a second.
    """
    Settings.model_config["use_attribute_docstrings"] = False


SettingsT = TypeVar("SettingsT", bound=Settings)
Value = TypeVar("Value")


def added(default: Value) -> Value:
    """The field of a key that came after patches were made: dumps leave it out at this value.

    A dump is part of a patch's identity; so the older patches of a recipe stay its patches.
    """
    field: Any = Field(default=default, exclude_if=lambda value: value == default)
    return field


def parse_settings(model: type[SettingsT], values: Mapping[str, Any], source: str) -> SettingsT:
    """Check ``values`` against ``model``.

    Args:
        source: what the values came from (a file's path, "command line"), named in the error.

    Raises:
        UserError: every problem at once, each with its dotted key and what would fix it.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_describe(problem, model) for problem in error.errors())
        raise UserError(f"{source}: {problems}") from None


def _describe(problem: ErrorDetails, model: type[BaseModel]) -> str:
    location = problem["loc"]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        fix = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key '{key}': {fix}"
    if problem["type"] == "missing":
        return f"key '{key}' is missing: add it"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"key '{key}' = {problem['input']!r}: {message}"


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The keys of the settings model at ``path`` below ``model``; empty where none is found."""
    current: type[BaseModel] | None = model
    for part in path:
        field = current.model_fields.get(str(part)) if current else None
        current = _model_in(field.annotation) if field else current
    return sorted(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The settings model inside an annotation such as ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        model = _model_in(part)
        if model:
            return model
    return None
