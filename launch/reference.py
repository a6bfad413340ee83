"""The reference of a recipe's keys, from the settings models: a page, and a JSON schema.

The docstrings of the settings are the only place where a key is described; `docs/recipe.md` and
`docs/recipe.schema.json` are written from them, and a test compares (issue 16, section 7).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import to_jsonable_python

from eval.decoding_settings import DecodingSettings
from launch.recipe import Recipe
from merge.common.files import atomic_write_json, atomic_write_text
from merge.common.settings import Settings

_CHECKED_LATER = {"eval.decodings": get_args(DecodingSettings)}
"""Keys that the models leave untyped, with the models that their values are checked against."""
_FILLED_IN = {"output": "runs/NAME"}
"""Keys without a default that may be left out: the recipe fills them in from other keys."""

_HEAD = """\
<!-- Written by `python -m launch reference` from the docstrings of the settings: change those. -->
# The keys of a recipe

A recipe is a YAML file, as those in `launch/recipes/`. A command takes changes to it after the
file, by the names of the first column: `python -m launch run RECIPE search.trials=60`. An unknown
key is an error that names the nearest known one. In a text, `${output}` stands for the run folder,
any other `${NAME}` for an environment variable, and a `~` in front for the home folder.

An editor with a YAML language server completes and checks keys by
[a JSON schema](recipe.schema.json) if the recipe begins with this line, the path being relative to
the recipe:

    # yaml-language-server: $schema=../../docs/recipe.schema.json
"""
_COLUMNS = "\n| key | type | default | meaning |\n|---|---|---|---|\n"


class _ForEditors(GenerateJsonSchema):
    """Without titles: pydantic's are the keys once more."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def write(page: Path, schema: Path) -> None:
    """Write both files.

    Raises:
        UserError: a file cannot be written.
    """
    atomic_write_text(page, reference())
    atomic_write_json(schema, recipe_schema())


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe as a user writes it."""
    schema = _schema_of(Recipe)
    schema["required"] = [key for key in schema["required"] if key not in _FILLED_IN]
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def reference() -> str:
    """The page, in Markdown: the recipe's own keys, then each section in the recipe's order."""
    sections = dict(_walk("", Recipe, set()))
    first = {model.__name__: path for path, model in reversed(sections.items())}
    parts = [_HEAD, _table("", Recipe, first)]
    for path, model in sections.items():
        parts.append(f"\n{'###' if '.' in path else '##'} `{path}`\n")
        if first[model.__name__] == path:
            parts += ["\n", _schema_of(model)["description"], "\n", _table(path, model, first)]
        else:
            parts.append(f"\nThe keys of {_link(first[model.__name__])}.\n")
    return "".join(parts)


def _walk(
    path: str, model: type[Settings], seen: set[type[Settings]]
) -> Iterator[tuple[str, type[Settings]]]:
    """The sections below ``model``, each before its own; below the recipe itself all of them, and
    further down the first one of each model."""
    for key, field in model.model_fields.items():
        inner_path = f"{path}.{key}" if path else key
        for suffix, inner in _models_in(field.annotation, inner_path):
            if inner not in seen or not path:
                yield inner_path + suffix, inner
            if inner not in seen:
                seen.add(inner)
                yield from _walk(inner_path + suffix, inner, seen)


def _models_in(annotation: Any, path: str) -> Iterator[tuple[str, type[Settings]]]:
    """The settings models inside an annotation, with what their keys' paths have after the key."""
    for model in _CHECKED_LATER.get(path, ()):
        yield f".NAME, method {model.model_fields['method'].default}", model
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield "", annotation
    suffix = {tuple: "[]", dict: ".NAME"}.get(get_origin(annotation) or annotation, "")
    for part in get_args(annotation):
        for rest, model in _models_in(part, ""):
            yield suffix + rest, model


def _table(path: str, model: type[Settings], first: dict[str, str]) -> str:
    properties = _schema_of(model)["properties"]
    rows = []
    for key, field in model.model_fields.items():
        name = f"{path.partition(',')[0]}.{key}".lstrip(".")
        kind = _kind(properties[key], first)
        if name in _CHECKED_LATER:
            kind += ", each " + " or ".join(_link(first[m.__name__]) for m in _CHECKED_LATER[name])
        sections = _models_in(field.annotation, "")
        summaries = [str(inner.__doc__).split("\n\n")[0] for _, inner in sections]
        meaning = " ".join((field.description or " ".join(summaries)).split())
        cells = (f"`{name}`", kind, _default(name, field), meaning)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return _COLUMNS + "".join(rows)


def _kind(schema: dict[str, Any], first: dict[str, str]) -> str:
    """What values a JSON schema allows, in words; patterns are left to the schema itself."""
    if "$ref" in schema:
        return _link(first[schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return " or ".join(_kind(part, first) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{_yaml(value)}`" for value in values)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{'; '.join(_kind(part, first) for part in schema['prefixItems'])}]"
        return f"list of {_kind(schema['items'], first)}"
    if schema.get("type") == "object":
        (values,) = schema.get("patternProperties", {"": None}).values()
        values = values or schema.get("additionalProperties")
        return f"NAME: {_kind(values, first)}" if isinstance(values, dict) else "keys and values"
    words = {"string": "text", "boolean": "true or false", "null": "`null`"}
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    bounds = (f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema)
    name = str(schema.get("format") or words.get(schema["type"], schema["type"]))
    return " ".join([name, ", ".join(bounds)]).strip()


def _default(name: str, field: FieldInfo) -> str:
    if name in _FILLED_IN:
        return f"`{_FILLED_IN[name]}`"
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "its defaults" if isinstance(value, Settings) else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """The value as a recipe would hold it, on one line."""
    listed = [to_jsonable_python(value)]
    text = yaml.safe_dump(listed, default_flow_style=True, width=10_000, sort_keys=False)
    return text.strip()[1:-1]


def _link(path: str) -> str:
    # As GitHub and most renderers of Markdown make a heading's anchor.
    anchor = re.sub(r"[^\w -]", "", path).lower().replace(" ", "-")
    return f"[`{path}`](#{anchor})"


def _schema_of(model: type[Settings]) -> dict[str, Any]:
    return model.model_json_schema(schema_generator=_ForEditors)
