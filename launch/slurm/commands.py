"""The commands of `python -m launch` that have to do with jobs of a cluster, or run in them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from eval.console import show
from merge.common.errors import UserError

if TYPE_CHECKING:
    from launch.pipeline.repeat import SeedsRecord


def submit_jobs(options: argparse.Namespace) -> None:
    """Queue the jobs, or print them."""
    from launch.slurm.submit import plan_chain, plan_continual, submit

    recipe, overrides = options.recipe, options.overrides
    if not options.continual:
        chain = plan_chain(recipe, overrides, options.seeds, options.at_once, options.ablate)
    elif options.seeds is not None:
        raise UserError("--seeds: a continual alignment has one; submit it with seed=N for each")
    else:
        chain = plan_continual(recipe, overrides)
    if options.dry_run:
        for job in chain.jobs():
            array = f" --array={job.array}" if job.array else ""
            show(f"### {job.file}{array}\n{job.script}")
        return
    submitted = submit(chain)
    for stage, job in submitted.items():
        show(f"{stage}: job {job}")
    if not submitted:
        show("nothing to submit: every stage is done")
    show(f"follow it: python -m launch status {chain.folder}")


def run_stage(options: argparse.Namespace) -> None:
    """Do what one job does."""
    from launch.continual.baselines import find_baseline, run_baseline
    from launch.continual.continual import WHOLE
    from launch.pipeline.pipeline import Pipeline
    from launch.pipeline.stages import STAGES
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    name = options.stage if options.worker is None else f"{options.stage}.{options.worker}"
    if options.baseline is not None:
        run_baseline(*find_baseline(recipe, options.baseline), name)
    else:
        Pipeline(recipe, {**STAGES, **WHOLE}).run_job(name)


def show_status(options: argparse.Namespace) -> None:
    """Show how far each job is."""
    from launch.slurm.status import render_status

    show(render_status(options.folder))


def cancel_jobs(options: argparse.Namespace) -> None:
    """End the jobs."""
    from launch.slurm.submit import cancel

    jobs = cancel(options.folder.resolve())
    words = f"cancelled: {', '.join(jobs)}" if jobs else "no job of this run is in the queue"
    show(words)


def average_seeds(options: argparse.Namespace) -> None:
    """Average finished runs, and their ablations where all have one."""
    from launch.pipeline.repeat import summarise
    from launch.run.folder import ABLATION, ABLATION_RECORD
    from launch.run.seeds import seed_runs

    runs = seed_runs(options.folder)
    if not runs:
        raise UserError(
            f"{options.folder}: holds no run of a seed (seed-0, seed-1, ...); give the folder that "
            "'python -m launch repeat' or 'submit --seeds' has filled"
        )
    show_seeds(options.folder, summarise(options.folder, runs))
    if all((run / ABLATION / ABLATION_RECORD).is_file() for run in runs):
        from launch.ablation.ablate import average

        show(f"their ablations: {average(options.folder, runs) / 'ablation.md'}")


def show_seeds(folder: Path, record: "SeedsRecord") -> None:
    """Show what the averages are."""
    from launch.pipeline.repeat import render

    show(render(record))
    show(f"numbers: {folder / 'seeds.json'}")
