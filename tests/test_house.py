"""The house stays as its folders say: floors, rooms that import nothing above them, no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
FLOORS = ("merge", "train", "eval", "launch")
"""From the ground up; a floor imports only what stands before it."""
LEAVES = {
    "merge.common": set(),
    "merge.kernels": set(),
    "merge.io": {"merge.common", "merge.kernels"},
    "train.chat": {"merge.common"},
    "eval.text": set(),
    "eval.statistics": {"eval.text"},
    "launch.slurm.system": {"merge.common"},
    "launch.slurm.queue": {"launch.slurm.system", "launch.run", "merge.common"},
}
"""Folders, and the only ones that they import."""
MOST_ENTRIES = 18


def _name(file: Path) -> str:
    return ".".join(file.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


FILES = {_name(file): file for floor in FLOORS for file in (PROJECT / floor).rglob("*.py")}


def _folder(name: str) -> str:
    return name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]


def _imports(name: str) -> set[str]:
    """The project's modules that a file imports when it is loaded itself."""
    imported = set()
    for node in ast.parse(FILES[name].read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {each if each in FILES else node.module for each in names}
    return {each for each in imported if each in FILES and each != name}


def _all_imports(name: str) -> set[str]:
    """The modules of ``_imports``, and those that functions import when they are called."""
    nodes = ast.walk(ast.parse(FILES[name].read_text()))
    modules = {each.module for each in nodes if isinstance(each, ast.ImportFrom) and each.module}
    return {each for each in modules if each in FILES}


def test_a_floor_imports_only_what_is_below_it() -> None:
    for name in FILES:
        allowed = FLOORS[: FLOORS.index(name.partition(".")[0]) + 1]
        above = {each for each in _all_imports(name) if each.partition(".")[0] not in allowed}
        assert not above, f"{name} imports {above}"


def test_files_import_one_another_in_no_circle() -> None:
    assert list(TopologicalSorter({name: _imports(name) for name in FILES}).static_order())


@pytest.mark.parametrize("folder", LEAVES)
def test_a_low_folder_imports_nothing_else(folder: str) -> None:
    inside = [name for name in FILES if name.startswith(f"{folder}.")]
    assert inside
    for name in inside:
        folders = set(map(_folder, _all_imports(name)))
        assert folders - {folder} <= LEAVES[folder], name


def test_folders_stay_small_and_say_what_lives_in_them() -> None:
    for folder in {file.parent for file in FILES.values()}:
        entries = [each for each in folder.iterdir() if each.name != "__pycache__"]
        assert len(entries) <= MOST_ENTRIES, folder
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder
