"""The command line of `python -m launch`, and what each of its commands does."""

import argparse
import time
from pathlib import Path
from typing import get_args

from eval.console import show
from launch.continual.continual import WHOLE
from launch.pipeline.stages import STAGES
from launch.prepare.gguf import GgufDtype
from launch.shipped import shipped
from launch.slurm.commands import (
    average_seeds,
    cancel_jobs,
    run_stage,
    show_seeds,
    show_status,
    submit_jobs,
)
from merge.common.errors import UserError
from merge.common.provenance import add_version


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ``command`` is the function to call with it."""
    parser = argparse.ArgumentParser(
        prog="python -m launch", description="The pipeline from a recipe, here or on a cluster."
    )
    add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the pipeline on this machine")
    several = commands.add_parser("repeat", help="run it with several seeds, and average")
    several.add_argument("--seeds", type=_count, default=5, help="how many (default: 5)")
    sizes = commands.add_parser(
        "plan",
        help="say what a training needs; needs no GPU, no weights",
        epilog="Without the number of GPUs, of one or several recipes: a table of what fits where.",
    )
    sizes.add_argument("--nodes", type=int)
    sizes.add_argument("--gpus-per-node", type=int)
    jobs = commands.add_parser("submit", help="run it as a chain of SLURM jobs")
    jobs.add_argument("--dry-run", action="store_true", help="only print the scripts")
    jobs.add_argument("--seeds", type=_count, help="as repeat does, by job arrays")
    whole = jobs.add_mutually_exclusive_group()
    whole.add_argument("--ablate", action="store_true", help="with what ablate does")
    whole.add_argument("--continual", action="store_true", help="what continual does")
    jobs.add_argument("--at-once", type=_count, help="how many seeds of a stage may run together")
    pairs = commands.add_parser("harvest", help="make data of questions and the model's answers")
    refusing = commands.add_parser(
        "openings", help="learn from the backbone's answers how its refusals open"
    )
    search_command = commands.add_parser(
        "search", help="run it up to the search for merge settings, and show what that found"
    )
    patches = commands.add_parser(
        "continual", help="patch after patch, a harm category each, beside NPO and ascent"
    )
    parts = commands.add_parser("ablate", help="run it, and show what every part of it is worth")
    parts.add_argument("--seeds", type=_count, help="with so many seeds, and average")
    one = commands.add_parser("stage", help="do one stage; what a job runs")
    for command, function in (
        (run, _run), (several, _repeat), (sizes, _plan), (jobs, submit_jobs), (pairs, _harvest),
        (refusing, _openings), (search_command, _search), (patches, _continual), (parts, _ablate),
        (one, run_stage),
    ):  # fmt: skip
        command.set_defaults(command=function)
        command.add_argument("recipe", type=_recipe, help="a recipe, as in launch/recipes/")
        if command is one:
            command.add_argument("stage", choices=(*STAGES, *WHOLE))
            command.add_argument("--worker", type=int, help="of the search: one of its workers")
            command.add_argument(
                "--baseline", metavar="BASELINE/STAGE", help="of a continual alignment"
            )
        command.add_argument(
            "overrides", nargs="*", default=[], metavar="key=value", help="win over the recipe"
        )
    for name, function, words in (
        ("status", show_status, "show how far each stage of a run is, here or as a job"),
        ("cancel", cancel_jobs, "end the jobs of a run; what they have saved stays"),
        ("seeds", average_seeds, "average the finished runs of several seeds"),
    ):
        command = commands.add_parser(name, help=words)
        command.set_defaults(command=function)
        command.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    back = commands.add_parser("revert", help="take back the last stages of a continual run")
    back.set_defaults(command=_revert)
    back.add_argument("folder", type=Path, metavar="RUN", help="its run folder")
    back.add_argument("--to", required=True, metavar="STAGE", help="to stay; or 'backbone'")
    back.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    back.add_argument("--model", type=Path, metavar="DIR", help="default: the last stage's")
    traced = commands.add_parser("trace", help="follow a report back to what it was made from")
    traced.set_defaults(command=_trace)
    traced.add_argument(
        "report", type=Path, metavar="REPORT", help="a run folder, its report folder, or its file"
    )
    traced.add_argument("--verify", action="store_true", help="hash weights and pairs, too")
    traced.add_argument("--json", action="store_true", help="all that is known, as JSON")
    model = commands.add_parser("gguf", help="make a model folder of a GGUF file")
    model.set_defaults(command=_gguf)
    model.add_argument("file", type=Path, metavar="FILE", help="a .gguf file, in one part")
    model.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    model.add_argument(
        "--dtype",
        choices=get_args(GgufDtype),
        default="auto",
        help="of the weights; auto (default) is the smallest that loses nothing",
    )
    keys = commands.add_parser("reference", help="write what a recipe's keys mean")
    keys.set_defaults(command=_reference)
    keys.add_argument(
        "--out",
        type=Path,
        default="docs/recipe.md",
        metavar="FILE",
        help="the page (default: %(default)s)",
    )
    keys.add_argument(
        "--schema",
        type=Path,
        default="docs/recipe.schema.json",
        metavar="FILE",
        help="a JSON schema for editors (default: %(default)s)",
    )
    options, rest = parser.parse_known_args(arguments)
    # argparse ends a list of positionals at the first option.
    if any(word.startswith("-") or "=" not in word for word in rest) or "overrides" not in options:
        parser.parse_args(arguments)
    elif rest:
        options.overrides += rest
    return options


def _recipe(text: str) -> Path:
    """A recipe's file; those of the project are found from any folder."""
    return shipped(Path(text))


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return count


def _run(options: argparse.Namespace) -> None:
    from launch.pipeline.pipeline import Pipeline, read_report
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    started = time.monotonic()
    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    report = Pipeline(recipe).run()
    if report is not None:
        from eval.report.table import headline_text, render_table

        content = read_report(report)
        show(render_table(content))
        show(headline_text(content), style="bold")
        show(f"report: {report / 'report.html'}")
    show(f"patched model: {recipe.output / 'patched'}")
    events = recipe.output / "tensorboard"
    show(f"TensorBoard: tensorboard --logdir {events}")
    show(f"took {time.monotonic() - started:.0f} s")


def _repeat(options: argparse.Namespace) -> None:
    from launch.pipeline.repeat import repeat

    show_seeds(*repeat(options.recipe, options.overrides, options.seeds))


def _plan(options: argparse.Namespace) -> None:
    from launch.recipe import Recipe
    from launch.sizing.plan import plan, plan_table
    from train.recipe import load_recipe

    others = [Path(word) for word in options.overrides if "=" not in word]
    overrides = [word for word in options.overrides if "=" in word]
    recipes = [load_recipe(path, overrides, Recipe) for path in (options.recipe, *others)]
    gpus = options.nodes, options.gpus_per_node
    if gpus == (None, None):
        shown, faults = plan_table(recipes)
    elif None in gpus or others:
        raise UserError(
            "plan: give one recipe with --nodes and --gpus-per-node, or recipes without both"
        )
    else:
        shown, faults = plan(recipes[0], *gpus)
    show(shown)
    if faults:
        raise UserError("; ".join(faults))


def _harvest(options: argparse.Namespace) -> None:
    from launch.pipeline.pipeline import Pipeline
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    if recipe.harvest is None:
        raise UserError(f"recipe {options.recipe}: has no harvest section; add one with questions")
    for file in Pipeline(recipe).harvest():
        show(f"pairs: {file}")


def _openings(options: argparse.Namespace) -> None:
    from launch.pipeline.pipeline import Pipeline
    from launch.recipe import Recipe
    from merge.common.files import read_json
    from train.guards.openings_file import OPENINGS_FILE
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    pipeline = Pipeline(recipe)
    file = recipe.output / OPENINGS_FILE
    if not file.is_file():
        pipeline.prepare()
        pipeline.run_unless_done("openings")
    record = read_json(file)
    for text in record.get("texts", ()):
        show(repr(text))
    shares = ", ".join(f"{key} {record[key]:.2f}" for key in ("coverage", "precision"))
    show(f"{shares}: {file}")


def _search(options: argparse.Namespace) -> None:
    from launch.pipeline.pipeline import Pipeline
    from launch.recipe import Recipe
    from launch.run.folder import SEARCH_RECORD
    from launch.search.record import read_search_record
    from launch.search.result import CHOSEN, PICTURE, recipe_lines, render_front
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    if recipe.search is None:
        raise UserError(f"recipe {options.recipe}: has no search section; add one with suite")
    Pipeline(recipe).choose()
    record = read_search_record(recipe.output / SEARCH_RECORD)
    folder = (recipe.output / SEARCH_RECORD).parent
    show(render_front(record))
    show(recipe_lines(record))
    show(f"these lines: {folder / CHOSEN}; picture: {folder / PICTURE}")
    show("python -m launch run continues from here to the patched model")


def _continual(options: argparse.Namespace) -> None:
    from launch.continual.continual import continual
    from launch.continual.report import render_table
    from launch.continual.stage_recipes import NAME
    from launch.recipe import Recipe
    from merge.common.files import read_json
    from train.recipe import load_recipe

    started = time.monotonic()
    folder = continual(load_recipe(options.recipe, options.overrides, Recipe))
    show(render_table(read_json(folder / f"{NAME}.json")))
    show(f"picture and table: {folder}")
    show(f"took {time.monotonic() - started:.0f} s")


def _revert(options: argparse.Namespace) -> None:
    from launch.continual.revert import revert

    revert(options.folder, options.to, options.out, options.model)


def _trace(options: argparse.Namespace) -> None:
    from launch.run.trace.command import show_trace

    show_trace(options)


def _gguf(options: argparse.Namespace) -> None:
    from launch.prepare.gguf import convert

    convert(options.file, options.out, options.dtype)


def _reference(options: argparse.Namespace) -> None:
    from launch.reference import write

    write(options.out, options.schema)


def _ablate(options: argparse.Namespace) -> None:
    from launch.ablation.record import read_record
    from launch.ablation.table import render
    from launch.pipeline.repeat import ablate, ablate_seeds
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    if options.seeds is None:
        folder = ablate(load_recipe(options.recipe, options.overrides, Recipe))
    else:
        folder = ablate_seeds(options.recipe, options.overrides, options.seeds)
    show(render(read_record(folder)))
    show(f"curves and spread: {folder / 'ablation.md'}")
