"""A job's command in a container: what it must see of the machine, and how it is started."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.recipe import Recipe
from launch.slurm.system.settings import ContainerSettings
from merge.common.errors import UserError

CACHE_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
_SEPARATORS = frozenset(",:\"'\\$`\n")
"""What the options of a container's runtime take for more than a path."""
_WILDCARDS = frozenset("*?[")


def cache_folder(variables: Mapping[str, str]) -> Path:
    """Where what comes from the hub is kept, as huggingface_hub decides it."""
    home = Path(variables.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    return Path(variables.get("HF_HOME", home)).expanduser().resolve()


def input_folders(recipe: Recipe, variables: Mapping[str, str]) -> tuple[Path, ...]:
    """The folders outside of the working and the run folder that a run reads (issue 15).

    Every path in the recipe, and in the YAML files that it names (suites, judges), that is there;
    the files that their symbolic links lead to; and the caches of the hub.

    Args:
        variables: of the jobs.

    Raises:
        UserError: one of them holds a sign that has a meaning in the options of a runtime.
    """
    paths = [cache_folder(variables)]
    paths += [Path(variables[name]) for name in CACHE_VARIABLES if name in variables]
    values = recipe.model_dump(mode="json", exclude={"cluster", "output", "name"})
    paths += _paths_in(values, Path.cwd(), set())
    inside = [Path.cwd(), recipe.output.resolve()]
    folders: list[Path] = []
    for path in paths:
        for each in _with_targets(path):
            folder = each if each.is_dir() or each.parent == Path("/") else each.parent
            if folder != Path("/") and not _is_below(folder, [*inside, *folders]):
                folders = [other for other in folders if not _is_below(other, [folder])]
                folders.append(folder)
    for folder in folders:
        if _SEPARATORS & set(str(folder)):
            raise UserError(
                f"{folder}: a container cannot be given this path; use one without , : quotes "
                "and $, as by a symbolic link"
            )
    return tuple(sorted(folders))


def _paths_in(values: Any, base: Path, seen: set[Path]) -> Iterator[Path]:
    """The texts in nested values that are paths here, relative ones below ``base``."""
    if isinstance(values, Mapping | list | tuple):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from _paths_in(value, base, seen)
    if not isinstance(values, str) or not values or "\0" in values:
        return
    path = base / Path(os.path.expandvars(values)).expanduser()
    while _WILDCARDS & set(path.name):
        path = path.parent
    try:
        exists = path.exists()
    except OSError:
        # A long text is no path.
        return
    if not exists or path in seen:
        return
    seen.add(path)
    yield Path(os.path.normpath(path))
    if path.suffix in (".yaml", ".yml") and path.is_file():
        try:
            named = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            return  # its own reader says what is wrong
        yield from _paths_in(named, path.parent, seen)


def _with_targets(path: Path) -> Iterator[Path]:
    """A path, and where it and the symbolic links in its folder lead: those first."""
    if not path.exists():
        return
    yield path.resolve()
    if path.is_dir():
        yield from (link.resolve() for link in path.iterdir() if link.is_symlink())
    yield path


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def container_words(
    container: ContainerSettings, run: str, folders: Sequence[Path], with_gpus: bool
) -> list[str]:
    """What comes between srun's own options and the command.

    Args:
        run: the run folder, as a word of a shell script.
        folders: what the run reads beside it and the working folder.
    """
    here = shlex.quote(str(Path.cwd()))
    own = [mount for mount in folders if str(mount) not in container.mounts]
    mounts = [here, run, *(shlex.quote(str(mount)) for mount in (*own, *container.mounts))]
    image = shlex.quote(container.image)
    if container.runtime == "pyxis":
        both = ",".join(f"{mount}:{mount}" if ":" not in mount else mount for mount in mounts)
        # pyxis gives a job's GPUs by itself.
        options = [f"--container-image={image}", f"--container-mounts={both}"]
        return [*options, f"--container-workdir={here}"]
    gpus = ["--nv"] if with_gpus else []
    binds = f"--bind={','.join(mounts)}"
    return [container.runtime, "exec", *gpus, binds, f"--pwd={here}", image]
