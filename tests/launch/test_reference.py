"""The recipe's reference is current and whole, and its schema takes what the recipe takes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from launch.cli import parse
from launch.recipe import Recipe
from launch.reference import recipe_schema
from merge.common.errors import UserError
from merge.common.settings import Settings

PAGE = Path("docs/recipe.md")
SCHEMA = Path("docs/recipe.schema.json")
RECIPES = sorted(Path("launch/recipes").rglob("*.yaml"))
TYPES = {
    "string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None),
    "object": dict, "array": list,
}  # fmt: skip


def test_both_files_are_current(tmp_path):
    options = parse(["reference", "--out", f"{tmp_path}/a", "--schema", f"{tmp_path}/b"])
    options.command(options)
    for file, new in ((PAGE, "a"), (SCHEMA, "b")):
        current = file.read_text(encoding="utf-8") == (tmp_path / new).read_text(encoding="utf-8")
        assert current, f"{file} is older than the settings: run `python -m launch reference`"


def test_a_folder_that_is_missing_is_named(tmp_path):
    options = parse(["reference", "--out", f"{tmp_path}/no/a", "--schema", f"{tmp_path}/b"])
    with pytest.raises(UserError, match="no/a: cannot be written"):
        options.command(options)


def _models_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _keys(model: type[Settings], parents: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, field in model.model_fields.items():
        yield (*parents, key)
        for inner in _models_in(field.annotation):
            yield from _keys(inner, (*parents, key))


def test_every_key_is_on_the_page_and_described():
    """A key is found as a reader does it: from the table of the recipe, by the links of types."""
    page = PAGE.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\S+)` \| (.*) \|$", page, re.MULTILINE))
    headings = re.findall(r"^##+ `(.+)`$", page, re.MULTILINE)
    for *parents, key in _keys(Recipe):
        prefix = ""
        for parent in parents:
            section = re.findall(r"\[`(.+?)`\]\(#", rows[prefix + parent])[0]
            assert section in headings
            prefix = f"{section}."
        assert prefix + key in rows
    undescribed = [name for name, row in rows.items() if row.split(" | ")[-1].strip(" |") == ""]
    assert not undescribed, "write a docstring under the settings' field"


def _faults(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Where a value breaks a JSON schema, by as much of the standard as pydantic's schemas use."""
    if "$ref" in schema:
        schema = recipe_schema()["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in schema:
        tries = [_faults(value, part, path) for part in schema["anyOf"]]
        return [] if [] in tries else max(tries, key=len)
    kind = TYPES[schema["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return [f"{path}: not of type {schema['type']}"]
    wrong = [
        "enum" in schema and value not in schema["enum"],
        "minimum" in schema and value < schema["minimum"],
        "maximum" in schema and value > schema["maximum"],
        "exclusiveMinimum" in schema and value <= schema["exclusiveMinimum"],
        "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"],
        "pattern" in schema and not re.search(schema["pattern"], str(value)),
        len(value) < schema.get("minItems", 0) if isinstance(value, list) else False,
    ]
    faults = [f"{path}: {value!r} is out of bounds"] if any(wrong) else []
    for place, item in enumerate(value if isinstance(value, list) else ()):
        part = schema["prefixItems"][place] if "prefixItems" in schema else schema["items"]
        faults += _faults(item, part, f"{path}[{place}]")
    if isinstance(value, dict):
        faults += [f"{path}.{key}: missing" for key in {*schema.get("required", ())} - {*value}]
        for key, item in value.items():
            if key in schema.get("properties", ()):
                faults += _faults(item, schema["properties"][key], f"{path}.{key}")
            elif not schema.get("additionalProperties", True):
                faults.append(f"{path}.{key}: unknown")
    return faults


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_fit_the_schema(path):
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert _faults(recipe, json.loads(SCHEMA.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"serach": {}}, [".serach: unknown"]),
        ({"merge": {"retention": 1.5}}, [".merge.retention: 1.5 is out of bounds"]),
        ({"backbone": {"dtype": "bfloat16"}}, [".backbone.path: missing"]),
        ({"harvest": {"harmless": {"source": "a.jsonl"}}}, []),
        ({"cluster": {"env": {"OMP_NUM_THREADS": 4}}}, []),
    ],
)
def test_the_schema_knows_mistakes_and_takes_short_forms(changes, faults):
    recipe = {"name": "tiny", "backbone": {"path": "a"}, "data": {"path": "b"}, **changes}
    assert _faults(recipe, recipe_schema()) == faults
