"""`python -m launch status RUN`: how far each stage is, from SLURM and from the run folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from launch.continual.baselines import baseline_table
from launch.continual.continual import SUMMARY, WHOLE
from launch.continual.stage_recipes import baseline_stages, continual_settings, patch_stages
from launch.pipeline.stages import STAGES, stages_of
from launch.recipe import Recipe
from launch.run.folder import RECIPE
from launch.run.seeds import seed_runs
from launch.run.stage import find_stage
from launch.slurm.local_state import local_state
from launch.slurm.queue.job_files import JOBS_FOLDER
from launch.slurm.queue.job_record import read_jobs
from launch.slurm.system import client as slurm
from merge.common.errors import UserError
from merge.common.progress import last_line
from train.recipe import load_recipe

_TAIL_LINES = 6
_TAIL_BYTES = 20_000
_WAITING = {
    "Dependency": "waits for the stages before it",
    "BeginTime": "stopped and requeued; starts again soon",
    "DependencyNeverSatisfied": "can never start: a stage before it failed; fix that, then cancel",
    "JobArrayTaskLimit": "waits for other seeds, see --at-once",
}
_FIXES = {
    "TIMEOUT": "raise cluster.time or cluster.warning_seconds",
    "OUT_OF_MEMORY": "raise cluster.memory or cluster.nodes (see python -m launch plan)",
    "NODE_FAIL": "nothing: a node was lost",
    "CANCELLED": "nothing: it was cancelled",
    "DependencyNeverSatisfied": "a stage before it failed; fix that one",
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


def run_states(run: Path, baseline: str | None = None) -> list[StageState]:
    """The states of all stages of one run, or of one stage of a continual alignment.

    Args:
        baseline: whose run it is, where it is one of a continual alignment.

    Raises:
        UserError: no run is there, or SLURM does not answer.
    """
    if not (run / RECIPE).is_file():
        raise UserError(f"{run}: holds no {RECIPE}; give a run's folder, as in runs/NAME")
    recipe = load_recipe(run / RECIPE, [], Recipe)
    jobs = read_jobs(run)
    queued = slurm.queued_jobs() if jobs else {}
    table = {**STAGES, **WHOLE} if baseline is None else baseline_table(baseline)
    states = []
    for stage in _names(recipe, jobs, baseline):
        job, entry = jobs.get(stage), find_stage(table, stage, recipe)
        if job in queued:
            state, detail = _queued_state(queued[job], run, stage)
        elif entry is not None and entry.is_done(recipe):
            state, detail = "done", ""
        elif job is None:
            state, detail = ("not submitted", "") if jobs else local_state(run, stage)
        else:
            state, detail = _ended_state(job, run, stage)
        states.append(StageState(stage, state, job or "", detail))
    return states


def _names(recipe: Recipe, jobs: Mapping[str, str], baseline: str | None) -> list[str]:
    """The stages of a run in order, each after the jobs that are parts of it.

    A baseline, and a continual alignment itself, has the stages that were submitted.
    """
    if baseline is not None or SUMMARY.name in jobs:
        return list(jobs)
    names: list[str] = []
    for stage in stages_of(recipe, asked=jobs):
        names += [name for name in jobs if name.startswith(f"{stage}.")]
        names.append(stage)
    return names


def _queued_state(job: slurm.QueuedJob, run: Path, stage: str) -> tuple[str, str]:
    if job.state in ("PENDING", "REQUEUED"):
        return "queued", _WAITING.get(job.reason, job.reason)
    progress = last_line("\n".join(_log_of_last_start(run, stage)))
    return "running", f"{job.elapsed} on {job.nodes}" + (f", {progress}" if progress else "")


def _ended_state(job: str, run: Path, stage: str) -> tuple[str, str]:
    ended = slurm.ended_state(job) or "no longer known to SLURM"
    if ended == "COMPLETED" and stage not in STAGES:
        # It leaves nothing that is its own.
        return "done", ""
    fix = _FIXES.get(ended, "see the last lines of its log")
    lines = _log_of_last_start(run, stage)
    errors = [line for line in lines if line.startswith("error: ")]
    told = errors[-1:] if errors else lines[-_TAIL_LINES:]
    if ended in ("CANCELLED", "DependencyNeverSatisfied"):
        told, state = [], "cancelled" if ended == "CANCELLED" else "failed"
    else:
        state = "failed"
    log = run / JOBS_FOLDER / f"{stage}.log"
    then = f"{fix}; then submit again, which continues"
    return state, "\n".join([f"{ended} ({log})" if told else ended, *told, f"fix: {then}"])


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
    """The states of a run, or of those of all seeds or stages in a folder, as a table.

    Raises:
        UserError: no run is there, or SLURM does not answer.
    """
    table = Table(title=str(folder))
    for column in ("stage", "state", "job", "detail"):
        table.add_column(column, overflow="fold")
    for run, baseline in _runs(folder):
        label = "" if run == folder else f"{run.relative_to(folder)} "
        for state in run_states(run, baseline):
            table.add_row(f"{label}{state.stage}", state.state, state.job, escape(state.detail))
    return table


def _runs(folder: Path) -> list[tuple[Path, str | None]]:
    """The run folders in one, or itself, and whose they are where they are a baseline's."""
    seeds = seed_runs(folder)
    if seeds or SUMMARY.name not in read_jobs(folder):
        return [(run, None) for run in seeds or [folder]]
    recipe = load_recipe(folder / RECIPE, [], Recipe)
    stages = [(folder / "stages" / stage.settings.name, None) for stage in patch_stages(recipe)]
    baselines = [
        (folder / "baselines" / baseline / stage.settings.name, baseline)
        for baseline in continual_settings(recipe).baselines
        for stage in baseline_stages(recipe, baseline)
    ]
    return [*stages, *baselines, (folder, None)]
