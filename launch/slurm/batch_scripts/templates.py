"""The templates of the batch scripts, which stand beside this file, and the values of all jobs.

What comes from a recipe has a form that needs no quotes (launch/slurm/system/settings.py), or is
quoted here or in the template.
"""

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2

from launch.slurm.batch_scripts.job_container import cache_folder
from launch.slurm.system.settings import INTERFACE_VARIABLES, ClusterSettings

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
_TEMPLATES.filters["quote"] = shlex.quote


def render(template: str, **values: Any) -> str:
    """The text of a script."""
    return _TEMPLATES.get_template(f"{template}.sbatch.jinja").render(values)


def step_options(extra: Iterable[str]) -> list[str]:
    """What SLURM's variables of a job's other options begin with.

    The script names nodes, tasks and CPUs to srun itself, and forgets SLURM's variables; that a
    step shall be as another option of the job says, as ``--gpu-bind=none``, srun learns from a
    variable alone, which stays.

    Args:
        extra: the job's other options of sbatch.
    """
    names = [line.removeprefix("--").partition("=")[0] for line in extra]
    return [f"SLURM_{name.upper().replace('-', '_')}" for name in names]


def environment_values(settings: ClusterSettings) -> dict[str, Any]:
    """What ``environment.sbatch.jinja`` takes: modules, setup, variables, the network's name."""
    variables = dict(settings.env)
    if settings.interface:
        variables |= dict.fromkeys(INTERFACE_VARIABLES, settings.interface)
    in_container = settings.container is not None
    return {
        # In a container the home may be another, or hold other packages.
        "cache": str(cache_folder(settings.variables())) if in_container else None,
        "modules": settings.modules,
        "setup": settings.setup,
        "own_python": settings.python is None and not in_container,
        "variables": variables,
    }
