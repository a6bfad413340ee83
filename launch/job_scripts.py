"""The batch scripts of a run's stages.

What comes from a recipe has a form that needs no quotes (launch/cluster.py), or is quoted here.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from launch.cluster import ClusterSettings, StageResources
from launch.first_patch import FIRST, FIRST_ROLE
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
        resources = _training_directives(settings)
        command, results = _training(stage)
        done = " || ".join(f"-e $run/{file}" for file in results)
        work = f'if [[ {done} ]]; then\n    echo "{stage}: already done"\n    exit 0\nfi\n'
        work += f"export {FILES_VARIABLE}=$jobs/$stage\n" + _rendezvous(settings)
        step = ["--kill-on-bad-exit=1", "--wait=0"]
    else:
        own = settings.merge if stage == "merge" else settings.evaluation_resources()
        resources = _single_directives(own, settings)
        work = ""
        command = f'-m launch stage "$run/{RECIPE}" {stage}'
        step = ["--ntasks=1"]
    head = _head(stage, name, settings, place, resources)
    limits = f"requeue_limit={settings.requeue_limit}\nretry_limit={settings.retry_limit}\n"
    start = f"\n{_srun(step, command, settings)} &\n"
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
    head = _head("seeds", name, settings, single, _single_directives(settings.merge, settings))
    command = _srun(["--ntasks=1"], '-m launch seeds "$run"', settings)
    return f'{head}echo "== $stage of $run"\n{_environment(settings)}{command}\n'


def _head(
    stage: str, name: str, settings: ClusterSettings, place: RunPlace, resources: list[str]
) -> str:
    check_path(Path.cwd())
    options = [
        f"--job-name={re.sub(r'[^A-Za-z0-9_.-]+', '-', f'{stage}-{name}')}",
        f'--chdir="{Path.cwd()}"',
        f'--output="{place.log_pattern(stage)}"',
        "--open-mode=append",
        "--requeue",
        f"--signal=USR1@{settings.warning_seconds}",
        *([f"--account={settings.account}"] if settings.account else []),
        *resources,
        *settings.extra,
    ]
    return HEAD.format(
        script=f"{stage}.sbatch",
        directives="\n".join(f"#SBATCH {option}" for option in options),
        stage=stage,
        run=place.shell(),
    )


def _training_directives(settings: ClusterSettings) -> list[str]:
    gpus = ":".join(
        [*([settings.gpu_type] if settings.gpu_type else []), str(settings.gpus_per_node)]
    )
    return _directives(
        {
            "partition": settings.partition,
            "qos": settings.qos,
            "constraint": settings.constraint,
            "time": settings.time,
            "nodes": settings.nodes,
            "ntasks-per-node": settings.processes,
            # Every rank sees all GPUs of its node and takes that of its local number.
            "gpus-per-node": gpus if settings.gpus_per_node else None,
            "cpus-per-task": settings.cpus_per_process,
            "mem": settings.memory,
        }
    )


def _single_directives(own: StageResources, settings: ClusterSettings) -> list[str]:
    gpus = ":".join([*([settings.gpu_type] if settings.gpu_type else []), str(own.gpus)])
    return _directives(
        {
            "partition": own.partition or settings.partition,
            "qos": own.qos or settings.qos,
            "constraint": own.constraint or (None if own.partition else settings.constraint),
            "time": own.time or settings.time,
            "nodes": 1,
            "ntasks": 1,
            "gpus-per-node": gpus if own.gpus else None,
            "cpus-per-task": own.cpus,
            "mem": own.memory,
        }
    )


def _directives(values: dict[str, str | int | None]) -> list[str]:
    return [f"--{option}={value}" for option, value in values.items() if value is not None]


def _environment(settings: ClusterSettings) -> str:
    lines = []
    if settings.modules:
        # The commands of module systems use variables that are not set.
        lines += ["set +u", "# shellcheck source=/dev/null"]
        lines += ["type module &> /dev/null || source /etc/profile"]
        lines += [f"module load {module}" for module in settings.modules]
        lines += ["set -u"]
    if settings.interface:
        lines += [
            f"export NCCL_SOCKET_IFNAME={shlex.quote(settings.interface)}",
            f"export GLOO_SOCKET_IFNAME={shlex.quote(settings.interface)}",
        ]
    return "".join(f"{line}\n" for line in lines)


def _rendezvous(settings: ClusterSettings) -> str:
    lines = [
        'hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        "export MASTER_ADDR=${hosts%%$'\\n'*}",
        # No other job's on this host, nor that of the start before, which may still be closing.
        "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 1200 * 10 + starts % 10))",
    ]
    if settings.cpus_per_process:
        lines.append(f"export OMP_NUM_THREADS={settings.cpus_per_process}")
    return "".join(f"{line}\n" for line in lines)


def _srun(options: list[str], command: str, settings: ClusterSettings) -> str:
    """The command line that runs Python in the job, in the container where there is one."""
    python = shlex.quote(settings.interpreter(Path(sys.executable)))
    container = settings.container
    # Whatever the site's default is: the ranks find one another by what the script exports.
    words = ["srun", "--export=ALL", *options]
    if options[0] == "--kill-on-bad-exit=1" and settings.cpus_per_process:
        # srun does not take this from the job.
        words.append(f"--cpus-per-task={settings.cpus_per_process}")
    if container is None:
        return " ".join([*words, python, command])
    folder = shlex.quote(str(Path.cwd()))
    mounts = [folder, '"$run"', *map(shlex.quote, container.mounts)]
    image = shlex.quote(container.image)
    if container.runtime == "pyxis":
        both = ",".join(f"{mount}:{mount}" if ":" not in mount else mount for mount in mounts)
        words += [f"--container-image={image}", f"--container-mounts={both}"]
        return " ".join([*words, f"--container-workdir={folder}", python, command])
    gpu = ["--nv"] if settings.gpus_per_node else []
    words += [container.runtime, "exec", *gpu, f"--bind={','.join(mounts)}", f"--pwd={folder}"]
    return " ".join([*words, image, python, command])
