"""What an evaluation and a report were made from, for their records (issue 17).

With these hashes ``python -m launch trace`` follows a rate back to the bytes of the patches. What a
merge was made from is copied from its merge.json, as a model may be deleted once it is evaluated.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.suites.prompts import PromptSet
from eval.suites.suite import SuiteRow
from merge.common.files import read_json, sha256_file
from merge.engine.journal import RECORD
from train.data.tables import is_file, is_pattern

_OF_MERGE = ("identity", "written_by", "settings", "seed", "inputs", "output_bytes")
"""Keys of merge.json that tell what a model was made from, beside the hashes of its weights."""


def summary_origin(
    model: Path,
    suite: Path,
    prompt_sets: Sequence[PromptSet],
    judges: Iterable[Path],
    results: Iterable[Path],
) -> dict[str, Any]:
    """What a summary says it was made from.

    Args:
        judges: files that say how harm or refusals are judged.
        results: files beside the summary that its rates are counted in.

    Returns:
        ``model``: its path and, if a merge of this project made it, what that was made from.
        ``suite``, ``judges``, ``sources`` (of the prompts and their answers) and ``results``:
        SHA-256 by path; sources on the hub have none.
    """
    return {
        "model": {"path": str(model), "merge": _merge_origin(model / RECORD)},
        "suite": _hashes([suite]),
        "judges": _hashes(judges),
        "sources": _hashes(_source_files(prompt_sets)),
        "results": {path.name: sha256_file(path) for path in results if path.is_file()},
    }


def _merge_origin(record: Path) -> dict[str, Any] | None:
    if not record.is_file():
        return None
    merged = read_json(record)
    # Not of the model card, which gets the rates that are measured here.
    outputs = merged.get("outputs", {})
    weights = {name: outputs[name] for name in outputs if name.endswith(".safetensors")}
    return {**{key: merged[key] for key in _OF_MERGE if key in merged}, "outputs": weights}


def report_origin(
    evaluations: Mapping[str, Path], others: Mapping[str, Path | None]
) -> dict[str, Any]:
    """What a report says it was made from.

    Args:
        evaluations: the file of each model's summary.
        others: further files by what they are.

    Returns:
        ``models`` and the others by their names: path and SHA-256 of each.
    """
    return {
        "models": {name: _file(path) for name, path in evaluations.items()},
        **{name: _file(path) for name, path in others.items() if path is not None},
    }


def _file(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256_file(path)}


def _hashes(paths: Iterable[Path]) -> dict[str, str]:
    return {str(path): sha256_file(path) for path in paths}


def _source_files(prompt_sets: Sequence[PromptSet]) -> list[Path]:
    """The local files that prompts and their answers come from, each once."""
    sources: dict[Path, None] = {}
    for row in (prompt_set.row for prompt_set in prompt_sets):
        for source in (row.source, row.answers) if isinstance(row, SuiteRow) else ():
            if source is None or not is_file(source):
                continue
            path = Path(source)  # load_suite has made it absolute
            pattern = path.relative_to(path.anchor)
            files = sorted(Path(path.anchor).glob(str(pattern))) if is_pattern(source) else [path]
            sources |= {file: None for file in files if file.is_file()}
    return list(sources)
