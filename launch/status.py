"""`python -m launch status RUN`: how far each stage is, from SLURM and from the run folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from launch import slurm
from launch.job_record import read_jobs
from launch.local_state import local_state
from launch.pipeline import Pipeline
from launch.rank import JOBS_FOLDER
from launch.recipe import Recipe
from launch.run_folder import RECIPE
from launch.seeds import seed_runs
from merge.errors import UserError
from merge.progress import last_line
from train.recipe import load_recipe

_TAIL_LINES = 6
_TAIL_BYTES = 20_000
_WAITING = {
    "Dependency": "waits for the stages before it",
    "BeginTime": "stopped and requeued; starts again soon",
    "DependencyNeverSatisfied": "can never start: a stage before it failed; mend that, then cancel",
    "JobArrayTaskLimit": "waits for other seeds, see --at-once",
}
_MENDS = {
    "TIMEOUT": "raise cluster.time or cluster.warning_seconds",
    "OUT_OF_MEMORY": "raise cluster.memory or cluster.nodes (see python -m launch plan)",
    "NODE_FAIL": "nothing: a node was lost",
    "CANCELLED": "nothing: it was cancelled",
    "DependencyNeverSatisfied": "a stage before it failed; mend that one",
}


@dataclass(frozen=True)
class StageState:
    """How far one stage is."""

    stage: str
    state: str
    """``done``, ``running``, ``queued``, ``failed``, ``cancelled`` or ``not submitted``; of a run
    without jobs also ``interrupted`` or ``not begun``."""
    job: str
    detail: str


def run_states(run: Path) -> list[StageState]:
    """The states of all stages of one run.

    Raises:
        UserError: no run is there, or SLURM does not answer.
    """
    if not (run / RECIPE).is_file():
        raise UserError(f"{run}: holds no {RECIPE}; give a run's folder, as in runs/NAME")
    pipeline = Pipeline(load_recipe(run / RECIPE, [], Recipe))
    jobs = read_jobs(run)
    queued = slurm.queued_jobs() if jobs else {}
    states = []
    for stage in pipeline.stages():
        job = jobs.get(stage)
        if job in queued:
            state, detail = _queued_state(queued[job], run, stage)
        elif pipeline.is_done(stage):
            state, detail = "done", ""
        elif job is None:
            state, detail = ("not submitted", "") if jobs else local_state(run, stage)
        else:
            state, detail = _ended_state(job, run, stage)
        states.append(StageState(stage, state, job or "", detail))
    return states


def _queued_state(job: slurm.QueuedJob, run: Path, stage: str) -> tuple[str, str]:
    if job.state in ("PENDING", "REQUEUED"):
        return "queued", _WAITING.get(job.reason, job.reason)
    progress = last_line("\n".join(_log_of_last_start(run, stage)))
    return "running", f"{job.elapsed} on {job.nodes}" + (f", {progress}" if progress else "")


def _ended_state(job: str, run: Path, stage: str) -> tuple[str, str]:
    ended = slurm.ended_state(job) or "no longer known to SLURM"
    mend = _MENDS.get(ended, "see the last lines of its log")
    lines = _log_of_last_start(run, stage)
    errors = [line for line in lines if line.startswith("error: ")]
    told = errors[-1:] if errors else lines[-_TAIL_LINES:]
    if ended in ("CANCELLED", "DependencyNeverSatisfied"):
        told, state = [], "cancelled" if ended == "CANCELLED" else "failed"
    else:
        state = "failed"
    log = run / JOBS_FOLDER / f"{stage}.log"
    then = f"{mend}; then submit again, which continues"
    return state, "\n".join([f"{ended} ({log})" if told else ended, *told, f"mend: {then}"])


def _log_of_last_start(run: Path, stage: str) -> list[str]:
    """The lines since the stage's last start, at most the last few thousand bytes."""
    file = run / JOBS_FOLDER / f"{stage}.log"
    if not file.is_file():
        return []
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - _TAIL_BYTES))
        text = log.read().decode(errors="replace")
    last = text.rpartition(f"== {stage}: start ")[2]
    return [line.rstrip() for line in re.split(r"[\r\n]+", last) if line.strip()]


def render_status(folder: Path) -> Table:
    """The states of a run, or of the runs of all seeds in a folder, as a table.

    Raises:
        UserError: no run is there, or SLURM does not answer.
    """
    table = Table(title=str(folder))
    for column in ("stage", "state", "job", "detail"):
        table.add_column(column, overflow="fold")
    for run in seed_runs(folder) or [folder]:
        for found in run_states(run):
            name = found.stage if run == folder else f"{run.name} {found.stage}"
            table.add_row(name, found.state, found.job, escape(found.detail))
    return table
