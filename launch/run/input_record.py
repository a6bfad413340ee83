"""What the files that a recipe names held when a run was made of them (issue 15).

A suite, a judge's file or a file of pairs that is edited under its old name would else be taken for
the one that the run has used. Models, sets on the hub and files that the run makes itself are not
looked at; its suites are, as `launch continual` writes a stage's from the whole run's.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from eval.suites.suite import Suite, load_suite, suite_from_rows
from launch.recipe import Recipe
from merge.common.files import atomic_write_json, read_json, sha256_file, sha256_json
from train.data.tables import is_file, is_pattern

FILE = "inputs.json"
"""File of a run folder: for each key of the recipe a hash of what its files held."""


def input_hashes(recipe: Recipe) -> dict[str, str]:
    """SHA-256 by dotted key; a key whose files are not there, or are made by the run, has none.

    A suite counts by its rows and the files of their prompts, wherever these and it lie.

    Raises:
        UserError: a suite that is there is malformed, or a file cannot be read.
    """
    suites, files = dict(_suites(recipe)), dict(_files(recipe))
    hashes = {key: _of_suite(suite) for key, suite in suites.items()}
    hashes |= {key: _of_source(source) for key, source in files.items()}
    return {key: digest for key, digest in hashes.items() if digest}


def changed_inputs(folder: Path, now: Mapping[str, str]) -> list[str]:
    """The keys whose files hold something else than when they were last recorded."""
    before = _recorded(folder)
    return sorted(key for key in before.keys() & now.keys() if before[key] != now[key])


def record_inputs(folder: Path, now: Mapping[str, str]) -> None:
    """Write what the files hold; of those that are gone, as D_h may be, the record stays.

    Raises:
        UserError: the run folder cannot be written.
    """
    atomic_write_json(folder / FILE, {**_recorded(folder), **now})


def _recorded(folder: Path) -> dict[str, str]:
    # Folders of older versions have none.
    return read_json(folder / FILE) if (folder / FILE).is_file() else {}


def _suites(recipe: Recipe) -> Iterator[tuple[str, Suite]]:
    data_dir = recipe.eval.data_dir if recipe.eval else None
    for name, section in (("search", recipe.search), ("eval", recipe.eval)):
        if section is not None and section.suite.is_file():
            yield f"{name}.suite", load_suite(section.suite, data_dir)
    for key, rows in _rows(recipe):
        sources = [str(row.get("source", "")) for row in rows]
        if any(is_file(source) and not _matching(source) for source in sources):
            continue  # a hash of the others alone would be another one
        section = key.partition(".")[0]
        named = [
            {"name": f"{section} {number}" if number else section, "axis": "harm", **row}
            for number, (row, source) in enumerate(zip(rows, sources, strict=True))
            if _is_outside(recipe, source)
        ]
        if named:
            yield key, suite_from_rows(named, f"recipe, {key}", Path.cwd(), data_dir)


def _rows(recipe: Recipe) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The questions that stand in the recipe as rows of a suite, without name and axis, by key."""
    if recipe.harvest is not None:
        yield "harvest.questions", [recipe.harvest.questions or {}]
        yield "harvest.harmless", [*(recipe.harvest.harmless or ())]
    if recipe.alignment is not None:
        yield "alignment.refused", [recipe.alignment.refused]
        yield "alignment.answered", [recipe.alignment.answered]
    decodings = recipe.eval.decodings if recipe.eval else {}
    yield (
        "eval.decodings",
        [row for values in decodings.values() for row in values.values() if isinstance(row, dict)],
    )


def _files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    pairs = (
        ("data", recipe.data),
        ("harmless", recipe.harmless),
        ("refusals", recipe.refusals),
        ("false_refusals", recipe.false_refusals),
    )
    for name, section in pairs:
        if section is not None and _is_outside(recipe, section.path):
            yield f"{name}.path", section.path
    ablated, harvest, asked = recipe.ablate, recipe.harvest, recipe.eval
    named = {
        "ablate.harmless": ablated and ablated.harmless and ablated.harmless.path,
        "harvest.harm_judge": harvest and harvest.harm_judge,
    }
    if asked is not None:
        table, bench, rules = asked.paper_table, asked.mt_bench, asked.refusal_judge == "rules"
        named |= {
            "eval.harm_judge": asked.harm_judge,
            "eval.refusal_judge": None if rules else asked.refusal_judge,
            "eval.agreement": asked.agreement,
            "eval.mt_bench": bench and bench.questions,
            "eval.paper_table": table and table.backbone and table.published,
        }
    for key, file in named.items():
        if file is not None and _is_outside(recipe, str(file)):
            yield key, str(file)


def _is_outside(recipe: Recipe, source: str) -> bool:
    """Whether a source is there, and no part of the run folder."""
    files = _matching(source)
    return bool(files) and not any(
        file.resolve().is_relative_to(recipe.output.resolve()) for file in files
    )


def _matching(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if is_pattern(source):
        return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
    return [path] if path.is_file() else []


def _of_suite(suite: Suite) -> str:
    parts = [task.model_dump_json() for task in suite.tasks]
    for row in suite.rows:
        parts.append(row.model_dump_json(exclude={"source", "answers"}))
        parts += [
            (_of_source(source) if is_file(source) else "") or source
            for source in (row.source, row.answers)
            if source is not None
        ]
    return sha256_json(parts)


def _of_source(source: str) -> str:
    """Hash of all files of a source; "" where there are none."""
    hashes = [sha256_file(file) for file in _matching(source)]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest() if hashes else ""
