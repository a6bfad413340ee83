"""The batch scripts of a run's stages.

What comes from a recipe has a form that needs no quotes (launch/cluster.py), or is quoted here.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import ClusterSettings
from launch.first_patch import FIRST, FIRST_ROLE
from launch.job_container import container_lines, container_words
from launch.job_environment import clean_lines, environment_lines, rendezvous_lines
from launch.job_resources import (
    common_directives,
    single_directives,
    single_step,
    training_directives,
    training_step,
)
from launch.job_template import END, HEAD, WATCH
from launch.rank import FILES_VARIABLE, JOBS_FOLDER
from launch.run_folder import FALSE_REFUSALS, HARVEST, RECIPE
from launch.stages import StageName
from merge.errors import UserError
from train.recipe import ROLES

_PLAIN_PATH = re.compile(r"[\w ./@+=~-]+")


@dataclass(frozen=True)
class RunPlace:
    """Where the run folders are: one folder, or in it one for each seed of a job array."""

    folder: Path
    seeds: bool = False
    inputs: tuple[Path, ...] = ()
    """What a container must be given beside: see ``launch.job_container.input_folders``."""

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


def render_stage(stage: StageName, name: str, settings: ClusterSettings, place: RunPlace) -> str:
    """The script of one stage of a run called ``name``."""
    if stage in ROLES or stage == "over_safety_first":
        directives, extra = training_directives(settings), settings.extra
        command, results = _training(stage)
        done = " || ".join(f"-e $run/{file}" for file in results)
        work = f'if [[ {done} ]]; then\n    echo "{stage}: already done"\n    exit 0\nfi\n'
        work += f"export {FILES_VARIABLE}=$jobs/$stage\n" + rendezvous_lines(settings)
        step, gpus = training_step(settings), settings.node_gpus
    else:
        own = settings.merge if stage == "merge" else settings.evaluation_resources()
        directives, extra = single_directives(own, settings), own.extra
        work = ""
        command = f'-m launch stage "$run/{RECIPE}" {stage}'
        step, gpus = single_step(own), own.gpu_total
    head = _head(stage, name, settings, place, directives, extra)
    limits = f"requeue_limit={settings.requeue_limit}\nretry_limit={settings.retry_limit}\n"
    start = f"\n{_srun(step, command, settings, place, gpus > 0)} &\n"
    return f"{head}{limits}{WATCH}{_environment(settings)}{work}{start}{END}"


def _training(stage: StageName) -> tuple[str, tuple[str, ...]]:
    """What srun runs for one training, and the files of which one says that it is done.

    Its patch may be merged, or have served, and be gone.
    """
    merged = "patched/merge.json"
    if stage in ROLES:
        command = f'-m launch.rank "$run/{RECIPE}" --role {stage}'
        return command, (merged, f"{stage}/patch.json")
    command = f'-m launch.rank "$run/{FIRST}/{RECIPE}" --role {FIRST_ROLE}'
    return command, (
        merged,
        f"{HARVEST}/{FALSE_REFUSALS}",
        f"{FIRST}/{FIRST_ROLE}/patch.json",
    )


def render_summary(name: str, settings: ClusterSettings, place: RunPlace) -> str:
    """The script that averages over seeds, when all their reports are there."""
    single = RunPlace(place.folder)
    own = settings.merge
    head = _head("seeds", name, settings, single, single_directives(own, settings), own.extra)
    words = '-m launch seeds "$run"'
    command = _srun(single_step(own), words, settings, single, with_gpus=False)
    return f'{head}echo "== $stage of $run"\n{_environment(settings)}{command}\n'


def _head(
    stage: str,
    name: str,
    settings: ClusterSettings,
    place: RunPlace,
    directives: list[str],
    extra: Sequence[str],
) -> str:
    check_path(Path.cwd())
    options = [
        f"--job-name={re.sub(r'[^A-Za-z0-9_.-]+', '-', f'{stage}-{name}')}",
        f'--chdir="{Path.cwd()}"',
        f'--output="{place.log_pattern(stage)}"',
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{settings.warning_seconds}",
        *common_directives(settings),
        *directives,
        *extra,
    ]
    head = HEAD.format(
        script=f"{stage}.sbatch",
        directives="\n".join(f"#SBATCH {option}" for option in options),
        stage=stage,
        run=place.shell(),
    )
    return head + clean_lines(extra)


def _environment(settings: ClusterSettings) -> str:
    container = container_lines(settings.variables()) if settings.container else ""
    return container + environment_lines(settings)


def _srun(
    step: list[str], command: str, settings: ClusterSettings, place: RunPlace, with_gpus: bool
) -> str:
    """The command line that runs Python in the job, in the container where there is one."""
    # Whatever the site's default is: the ranks find one another by what the script exports.
    words = ["srun", "--export=ALL", *step]
    if settings.container is not None:
        words += container_words(settings.container, '"$run"', place.inputs, with_gpus)
    return " ".join([*words, shlex.quote(settings.interpreter(Path(sys.executable))), command])
