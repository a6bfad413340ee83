"""A run folder: whose it is, and where in it things are."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml

from launch.recipe import Recipe
from launch.run.input_record import changed_inputs, input_hashes, record_inputs
from launch.run.products import Product, products_of, stale_products
from merge.common.errors import UserError
from merge.common.files import atomic_write_text, file_lock, make_directory
from merge.common.provenance import from_folder, written_by
from merge.common.yaml_file import read_yaml
from merge.engine.coverage import coverage
from merge.io.patch_directory import read_patch
from train.recipe import ROLES, load_recipe

RECIPE = "recipe.yaml"
HARVEST = "harvest"
"""The folder of D_h where ``launch harvest`` makes it."""
PAIRS = "pairs.jsonl"
FALSE_REFUSALS = "false_refusals.jsonl"
"""File in the same folder: what the over-safety model answers to falsely refused questions."""
ALIGNMENT = "alignment"
"""The folder of a backbone that the run makes itself of another model."""
PATCHED = "patched"
"""The folder of the patched model."""
MERGED = f"{PATCHED}/merge.json"
"""In it, the last file that a merge writes."""
SEARCH_RECORD = "search/search.json"
REPORT = "report/report.json"
"""The numbers of the finished report, the last file that a run writes."""
FIRST = "over_safety.first"
"""The private folder of the over-safety patch that is trained first, where false refusals are
harvested."""
COMPARISONS = "comparisons"
"""The folder of models that are built, evaluated, and deleted."""
ABLATION = "ablation"
"""The folder of ``launch ablate``."""
ABLATION_RECORD = "ablation.json"
"""In that folder, the last file that an ablation writes."""

_COVERAGE = ("merge.include", "merge.exclude")


def compared_model(run: Path, model: Path) -> str | None:
    """The name of a model that a run builds for comparison; None of any other folder."""
    is_own = model.resolve().parent == (run / COMPARISONS).resolve()
    return model.name if is_own else None


def claim_folder(recipe: Recipe) -> Path:
    """Write the run folder's recipe, or see that what is there is of this recipe.

    A section, or what the files that it names hold (``launch.run.input_record``), may change as
    long as nothing that depends on it is there (``launch.run.products``). What costs little beside
    that, such as the report, is deleted and made again.

    Returns:
        The resolved recipe's file.

    Raises:
        UserError: something there is of another recipe; it is named. Or the folder cannot be
            written, or a file that the recipe names cannot be read.
    """
    make_directory(recipe.output)
    file = recipe.output / RECIPE
    inputs = input_hashes(recipe)
    if file.is_file():
        before = read_claimed(file)
        changed = changed_keys(before, recipe)
        cover_keys = [key for key in changed if key in _COVERAGE]
        if cover_keys and isinstance(before, Recipe) and _covers_alike(before, recipe):
            changed = [key for key in changed if key not in cover_keys]
        edited = [key for key in changed_inputs(recipe.output, inputs) if key not in changed]
        names = {key: repr(key) for key in changed}
        _give_up_stale(recipe, names | {key: f"the content of {key!r}" for key in edited})
    record_inputs(recipe.output, inputs)
    values = {**_values(recipe), "written_by": written_by()}
    atomic_write_text(file, yaml.safe_dump(values, sort_keys=False))
    return file


def _give_up_stale(recipe: Recipe, changed: Mapping[str, str]) -> None:
    """Delete what changed keys make stale and costs little; refuse where anything else is.

    Args:
        changed: by key what an error calls it.
    """
    folder = recipe.output
    stale = stale_products(products_of(recipe), changed, folder)
    kept = [path for path, product in stale.items() if not _is_remade(product, folder)]
    if kept:
        causes = [changed[key] for key in _causes(recipe, changed)]
        made_of_them = [str(folder / path) for path in kept]
        raise UserError(
            f"{folder}: {_listed(causes)} changed since {kept[0]} was made; delete "
            f"{_listed(made_of_them)}, or choose another folder with output=FOLDER"
        )
    for path in stale:
        (folder / path).unlink(missing_ok=True)


def _is_remade(product: Product, folder: Path) -> bool:
    """Whether the same command makes a product again if it is deleted."""
    return product.remade and (may_be_merged(folder) or not product.by_patches)


def _causes(recipe: Recipe, changed: Iterable[str]) -> list[str]:
    """The changed keys that make existing files stale which no stage would make again."""
    products = products_of(recipe)
    return [
        key
        for key in changed
        if any(
            not _is_remade(product, recipe.output)
            for product in stale_products(products, [key], recipe.output).values()
        )
    ]


def read_claimed(file: Path) -> Recipe | dict[str, Any]:
    """The recipe of a run folder, with today's defaults for keys that were not yet known.

    Where a version with other keys wrote it, its plain values.
    """
    try:
        return load_recipe(file, [], Recipe)
    except UserError:
        values = read_yaml(file, "recipe")
        return values if isinstance(values, dict) else {}


def changed_keys(before: Recipe | dict[str, Any], now: Recipe) -> list[str]:
    """What differs between two recipes, as dotted keys of at most two parts.

    Not by where the run folder is, which may be moved: paths in it count from it.
    """
    old, new = (
        _flat(_compared_values(recipe) if isinstance(recipe, Recipe) else recipe)
        for recipe in (before, now)
    )
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _covers_alike(before: Recipe, now: Recipe) -> bool:
    """Whether the merges of two recipes cover the same tensors of the patch that is there.

    Older recipes named the linear weights of LLaMA's blocks, which are now the default.
    """
    directory = now.output / "safety"
    if not (directory / "patch.json").is_file():
        return False
    patch = read_patch(directory)
    one, other = (coverage(patch.delta, [patch], recipe.merge) for recipe in (before, now))
    return one.names == other.names


def _values(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_none=True, exclude={"written_by"})


def _compared_values(recipe: Recipe) -> dict[str, Any]:
    """All values; without a section ``eval`` a search asks by the defaults that it would have."""
    asked = recipe.evaluation.model_dump(mode="json", exclude_none=True)
    return {"eval": asked, **_values(recipe)}


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    values = from_folder(values, str(values.pop("output", "")))
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": content for inner, content in value.items()}
        else:
            flat[key] = value
    return flat


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def holding(folder: Path, stage: str) -> AbstractContextManager[None]:
    """Keep other processes out of one stage of a run folder, while the block lasts.

    Raises:
        UserError: another one is at it.
    """
    return file_lock(folder / f".{stage}.lock", _busy(folder, stage))


def refuse_busy(folder: Path) -> None:
    """See that no process of this machine, or of its filesystem, is at any stage of a run folder.

    Raises:
        UserError: naming the first stage that one is at.
    """
    for file in sorted(folder.glob(".*.lock")):
        with file_lock(file, _busy(folder, file.name[1 : -len(".lock")])):
            pass


def _busy(folder: Path, stage: str) -> str:
    return f"{folder}: another process is at stage {stage}; wait for it, or stop it"


def may_be_merged(folder: Path) -> bool:
    """Whether both patches are there, or will be: what a merged run left out stays out."""
    has_patches = all((folder / role / "patch.json").is_file() for role in ROLES)
    return has_patches or not is_merged(folder)


def is_merged(folder: Path) -> bool:
    """Whether a run folder holds its patched model."""
    return (folder / MERGED).is_file()


def is_evaluated(folder: Path, name: str) -> bool:
    """Whether a run folder holds the evaluation of a model."""
    return (folder / "eval" / name / "summary.json").is_file()


def report_file(folder: Path) -> Path:
    """The numbers of the finished report."""
    return folder / REPORT
