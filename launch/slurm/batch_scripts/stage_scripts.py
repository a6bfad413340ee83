"""The batch scripts of a run's stages."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.run.folder import RECIPE
from launch.run.stage import Stage, Training
from launch.slurm.batch_scripts.job_container import container_words
from launch.slurm.batch_scripts.job_resources import (
    common_directives,
    single_directives,
    single_step,
    training_directives,
    training_step,
)
from launch.slurm.batch_scripts.templates import environment_values, render, step_options
from launch.slurm.queue.job_files import FILES_VARIABLE, JOBS_FOLDER
from launch.slurm.system.settings import ClusterSettings, StageResources
from merge.common.errors import UserError

OWN_RECIPE = f'"$run/{RECIPE}"'
"""The recipe of the job's run folder, as a word of its script."""
_PLAIN_PATH = re.compile(r"[\w ./@+=~-]+")


@dataclass(frozen=True)
class RunPlace:
    """Where the run folders are: one folder, or in it one for each seed of a job array."""

    folder: Path
    seeds: bool = False
    inputs: tuple[Path, ...] = ()
    """What a container must be given beside, see ``job_container.input_folders``."""

    def __post_init__(self) -> None:
        check_path(self.folder)

    def shell(self) -> str:
        """The run folder, as a word of a shell script."""
        if self.seeds:
            return f'{shlex.quote(f"{self.folder}/seed-")}"$SLURM_ARRAY_TASK_ID"'
        return shlex.quote(str(self.folder))

    def log_pattern(self, stage: str) -> str:
        """The log's path, in which sbatch replaces %a by the array task."""
        middle = "/seed-%a" if self.seeds else ""
        return f"{self.folder}{middle}/{JOBS_FOLDER}/{stage}.log"


def check_path(path: Path) -> None:
    """See that a path can stand in a script's #SBATCH line.

    Raises:
        UserError: it holds quotes, %, or anything else with a meaning there.
    """
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise UserError(
            f"{str(path)!r}: SLURM cannot have a log there; use letters, digits and ./@+=~- in "
            "the path"
        )


def render_stage(
    stage: Stage,
    name: str,
    settings: ClusterSettings,
    place: RunPlace,
    words: str = "",
    recipe: str = OWN_RECIPE,
) -> str:
    """The script of one stage of a run called ``name``.

    Args:
        words: what follows on the command line of ``launch stage``.
        recipe: the file that this reads, as a word of a shell script.
    """
    if isinstance(stage.run, Training):
        return render_training(stage.name, name, settings, place, stage.run)
    own = settings.merge if stage.resources == "merge" else settings.evaluation_resources()
    command = f"-m launch stage {recipe} {stage.name}" + (f" {words}" if words else "")
    return render_single(stage.name, name, settings, place, own, command)


def render_workers(stage: Stage, name: str, settings: ClusterSettings, place: RunPlace) -> str:
    """The script of a job array whose tasks share the work of a stage."""
    own = settings.evaluation_resources()
    command = f'-m launch stage {OWN_RECIPE} {stage.name} --worker "$SLURM_ARRAY_TASK_ID"'
    title, log = f"{stage.name}.workers", f"{stage.name}.%a"
    return render_single(title, name, settings, place, own, command, log)


def render_training(
    stage: str, name: str, settings: ClusterSettings, place: RunPlace, training: Training
) -> str:
    """The script of a training, with the resources of all trainings."""
    command = f'-m launch.slurm.rank "$run/{training.recipe}" --role {training.role}'
    step = _srun(training_step(settings), command, settings, place, settings.node_gpus > 0)
    own_threads = "OMP_NUM_THREADS" in settings.env
    values = {
        "stage": stage,
        "done": " || ".join(f"-e $run/{file}" for file in training.results),
        "files_variable": FILES_VARIABLE,
        "nodes": settings.nodes,
        "threads": None if own_threads else settings.cpus_per_process,
    }
    directives = training_directives(settings)
    head = _head(stage, stage, name, settings, place, directives, settings.extra)
    return _stage_script(settings, head, step, values)


def render_single(
    stage: str,
    name: str,
    settings: ClusterSettings,
    place: RunPlace,
    own: StageResources,
    command: str,
    log: str = "",
) -> str:
    """The script of a job of one process.

    Args:
        own: what it asks for.
        command: the arguments of Python, as words of a shell script.
        log: what its log is called, where that is not the stage: with %a, the array's task.
    """
    step = _srun(single_step(own), command, settings, place, own.gpu_total > 0)
    directives = single_directives(own, settings)
    head = _head(stage, log or stage, name, settings, place, directives, own.extra)
    return _stage_script(settings, head, step)


def _stage_script(
    settings: ClusterSettings,
    head: dict[str, Any],
    step: str,
    training: dict[str, Any] | None = None,
) -> str:
    return render(
        "stage",
        **head,
        **environment_values(settings),
        requeue_limit=settings.requeue_limit,
        retry_limit=settings.retry_limit,
        training=training,
        step=step,
    )


def render_summary(name: str, settings: ClusterSettings, place: RunPlace) -> str:
    """The script that averages over seeds, when all their reports are there."""
    single = RunPlace(place.folder)
    own = settings.merge
    directives = single_directives(own, settings)
    head = _head("seeds", "seeds", name, settings, single, directives, own.extra)
    words = '-m launch seeds "$run"'
    step = _srun(single_step(own), words, settings, single, with_gpus=False)
    return render("seeds", **head, **environment_values(settings), step=step)


def _head(
    script: str,
    log: str,
    name: str,
    settings: ClusterSettings,
    place: RunPlace,
    directives: list[str],
    extra: Sequence[str],
) -> dict[str, Any]:
    """What ``head.sbatch.jinja`` takes; a stage's log is called by it."""
    check_path(Path.cwd())
    options = [
        f"--job-name={re.sub(r'[^A-Za-z0-9_.-]+', '-', f'{script}-{name}')}",
        f'--chdir="{Path.cwd()}"',
        f'--output="{place.log_pattern(log)}"',
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{settings.warning_seconds}",
        *common_directives(settings),
        *directives,
        *extra,
    ]
    return {
        "script": f"{script}.sbatch",
        "directives": options,
        "stage": log.replace("%a", "$SLURM_ARRAY_TASK_ID"),
        "run": place.shell(),
        "step_options": step_options(extra),
    }


def _srun(
    step: list[str], command: str, settings: ClusterSettings, place: RunPlace, with_gpus: bool
) -> str:
    """The command line that runs Python in the job, in the container where there is one."""
    # Whatever the site's default is: the ranks find one another by what the script exports.
    words = ["srun", "--export=ALL", *step]
    if settings.container is not None:
        words += container_words(settings.container, '"$run"', place.inputs, with_gpus)
    return " ".join([*words, shlex.quote(settings.interpreter(Path(sys.executable))), command])
