"""SLURM's own commands, typed: sbatch, squeue, scontrol, sacct, scancel."""

import functools
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.slurm.system.client_environment import slurm_environment
from merge.common.errors import UserError

_TIMEOUT_SECONDS = 60.0
_FIELDS = "%i|%T|%r|%M|%N"
_JOB = re.compile(r"(\d+(?:_\d+)?)\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)")
_SUBMITTED = re.compile(r"(\d+)(?:;[\w.-]+)?")
"""What ``sbatch --parsable`` prints: the id, and on clusters of clusters the cluster's name."""
_ACTIVE = re.compile(r"PENDING|RUNNING|SUSPENDED|COMPLETING|CONFIGURING|REQUEUED|STOPPED|RESIZING")


@dataclass(frozen=True)
class QueuedJob:
    """A job, or one task of an array, that is not over."""

    state: str
    """As SLURM says: PENDING, RUNNING, ..."""
    reason: str
    """Why it waits."""
    elapsed: str
    nodes: str


def submit(script: Path, dependency: str | None = None, array: str | None = None) -> str:
    """Queue a script.

    Args:
        dependency: as ``afterok:12:13``; a job whose dependency can never hold is removed.
        array: as ``0-4%2``.

    Returns:
        The job's id.

    Raises:
        UserError: SLURM refuses it, is not here, or tells no id.
    """
    command = ["sbatch", "--parsable"]
    if dependency:
        command += [f"--dependency={dependency}", "--kill-on-invalid-dep=yes"]
    if array:
        command.append(f"--array={array}")
    environment = slurm_environment(script=script.read_text(encoding="utf-8"))
    return _job_id(_output([*command, str(script)], environment))


def _job_id(printed: str) -> str:
    """The id in what sbatch printed; a site's wrapper may greet before it, or say more after it.

    Raises:
        UserError: no line is an id.
    """
    matches = [_SUBMITTED.fullmatch(line.strip()) for line in printed.splitlines()]
    numbers = [match[1] for match in matches if match]
    if not numbers:
        shown = " ".join(printed.split())[:80]
        raise UserError(
            f"sbatch: printed '{shown}' where --parsable gives a job's id; put SLURM's own sbatch "
            "first in PATH (type -a sbatch), and see 'squeue --me' for a job that it has queued"
        )
    return numbers[-1]


@functools.cache
def sbatch_options() -> frozenset[str]:
    """The long options that this site's sbatch knows, those of its plugins too.

    Raises:
        UserError: SLURM is not here.
    """
    return frozenset(re.findall(r"--([a-z][a-z0-9-]*)", _output(["sbatch", "--help"])))


def queued_jobs() -> dict[str, QueuedJob]:
    """All of this user's jobs that are not over, by id; tasks of an array as ``12_3``."""
    lines = _output(["squeue", "--me", "--noheader", "--array", f"--format={_FIELDS}"])
    # Other lines are a wrapper's.
    matches = filter(None, (_JOB.fullmatch(line.strip()) for line in lines.splitlines()))
    jobs = {
        match[1]: QueuedJob(*(value.strip() for value in match.groups()[1:])) for match in matches
    }
    return {number: job for number, job in jobs.items() if _ACTIVE.match(job.state)}


def ended_state(job: str) -> str | None:
    """How a job ended, as COMPLETED, FAILED, TIMEOUT; ``None`` where SLURM has forgotten it."""
    if shutil.which("sacct"):
        command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State"]
        done = _run([*command, f"--jobs={job}"])
        # "CANCELLED by 1000" says more than is asked.
        states = re.findall(rf"^{job}\|(\w+)", done.stdout, re.MULTILINE)
        if done.returncode == 0 and states:
            return states[-1]  # the last of its starts
    done = _run(["scontrol", "show", "job", "--oneliner", job])
    match = re.search(r"\bJobState=(\w+) Reason=(\w+)", done.stdout)
    if match is None:
        return None
    return match[2] if match[2] == "DependencyNeverSatisfied" else match[1]


def cancel(jobs: Sequence[str]) -> None:
    """End jobs, waiting or running."""
    _output(["scancel", *jobs])


def _output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    done = _run(command, environment)
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        reason = re.sub(rf"\b{command[0]}: (error|fatal): ", "", reason)
        raise UserError(f"{command[0]}: {reason}; fix the recipe's cluster part, or ask the site")
    return done.stdout


def _run(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=slurm_environment() if environment is None else environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]}: not found; go to a login node of the cluster, or use "
            "'python -m launch run' on this machine"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{command[0]}: no answer in {_TIMEOUT_SECONDS:.0f} s; is SLURM up (sinfo)?"
        ) from None
