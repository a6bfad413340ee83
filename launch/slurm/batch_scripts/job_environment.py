"""What a batch script does with variables: which it forgets, and which it sets."""

import shlex
from collections.abc import Iterable

from launch.slurm.settings import INTERFACE_VARIABLES, ClusterSettings

FORGET_PACKAGES = "unset PYTHONPATH PYTHONHOME"
_CLEAN = """\
# What a session or a site has left for srun or Python would win over what this job asks for.
for name in "${{!SLURM_@}}" "${{!SRUN_@}}"; do
    case $name in
        SLURM_JOB_* | SLURM_JOBID | SLURM_ARRAY_* | SLURM_SUBMIT_* | SLURM_RESTART_COUNT) ;;
        SLURM_NODELIST | SLURM_NNODES | SLURM_NODEID | SLURM_TASKS_PER_NODE) ;;
        SLURM_STEP_* | SLURM_PROCID | SLURM_LOCALID) ;; # srun's own, for each task
        SLURM_CONF | SLURM_CLUSTER* | SLURM_WORKING_CLUSTER | SLURM_TOPOLOGY_*) ;;
        {own}*) unset "$name" ;;
    esac
done
{forget}
"""


def clean_lines(extra: Iterable[str]) -> str:
    """The lines of a batch script that keep of SLURM's variables only those of the job.

    The script names nodes, tasks and CPUs to srun itself; that a step shall be as another option
    of the job says, as ``--gpu-bind=none``, srun learns from a variable alone, which stays.

    Args:
        extra: the job's other options of sbatch.
    """
    names = [line.removeprefix("--").partition("=")[0] for line in extra]
    own = [f"SLURM_{name.upper().replace('-', '_')}*) ;;\n        " for name in names]
    return _CLEAN.format(forget=FORGET_PACKAGES, own="".join(own))


def environment_lines(settings: ClusterSettings) -> str:
    """Modules, setup, variables, and the network's name."""
    lines = []
    if settings.modules or settings.setup:
        # Module systems and conda use variables that are not set.
        lines.append("set +u")
        if settings.modules:
            lines += ["# shellcheck source=/dev/null"]
            lines += ["type module &> /dev/null || source /etc/profile"]
            lines += [f"module load {module}" for module in settings.modules]
            if settings.python is None and settings.container is None:
                # Packages of a module's Python are not for the project's own.
                lines.append(FORGET_PACKAGES)
        for line in settings.setup:
            if line.startswith(("source ", ". ")):
                lines.append("# shellcheck source=/dev/null")
            lines.append(line)
        lines.append("set -u")
    variables = dict(settings.env)
    if settings.interface:
        variables |= dict.fromkeys(INTERFACE_VARIABLES, settings.interface)
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "".join(f"{line}\n" for line in lines)


def rendezvous_lines(settings: ClusterSettings) -> str:
    """Where the ranks of a training meet."""
    lines = [
        # The last lines, as a site's wrapper may greet first.
        f'hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n {settings.nodes})',
        "export MASTER_ADDR=${hosts%%$'\\n'*}",
        # No other job's on this host, nor that of the start before, which may still be closing.
        "export MASTER_PORT=$((20000 + SLURM_JOB_ID % 1200 * 10 + starts % 10))",
    ]
    if settings.cpus_per_process and "OMP_NUM_THREADS" not in settings.env:
        lines.append(f"export OMP_NUM_THREADS={settings.cpus_per_process}")
    return "".join(f"{line}\n" for line in lines)
