"""`python -m launch run | repeat | plan RECIPE [key=value ...]`: the pipeline from a recipe."""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

# Threads that spin while they wait take the cores from whatever else the machine does; on a busy
# machine that made a training step ten times slower. It must be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console
from rich.logging import RichHandler

from merge.errors import run_command


def _run(options: argparse.Namespace) -> None:
    from launch.pipeline import Pipeline, read_report
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    started = time.monotonic()
    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    report = Pipeline(recipe).run()
    console = Console()
    if report is not None:
        from eval.table import render_table

        console.print(render_table(read_report(report)))
        console.print(f"report: {report / 'report.html'}", highlight=False)
    console.print(f"patched model: {recipe.output / 'patched'}", highlight=False)
    events = recipe.output / "tensorboard"
    console.print(f"TensorBoard: tensorboard --logdir {events}", highlight=False)
    console.print(f"took {time.monotonic() - started:.0f} s", highlight=False)


def _repeat(options: argparse.Namespace) -> None:
    from launch.repeat import render, repeat

    folder, record = repeat(options.recipe, options.overrides, options.seeds)
    Console().print(render(record))
    Console().print(f"numbers: {folder / 'seeds.json'}", highlight=False)


def _plan(options: argparse.Namespace) -> None:
    from launch.plan import plan
    from launch.recipe import Recipe
    from train.recipe import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, Recipe)
    Console().print(plan(recipe, options.nodes, options.gpus_per_node), highlight=False)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; ``command`` is the function to call with it."""
    parser = argparse.ArgumentParser(prog="python -m launch", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | repeat | plan")
    run = commands.add_parser("run", help="run the pipeline on this machine")
    several = commands.add_parser("repeat", help="run it with several seeds, and average")
    several.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    sizes = commands.add_parser("plan", help="say what a training needs; needs no GPU, no weights")
    sizes.add_argument("--nodes", type=int, required=True)
    sizes.add_argument("--gpus-per-node", type=int, required=True)
    for command, function in ((run, _run), (several, _repeat), (sizes, _plan)):
        command.set_defaults(command=function)
        command.add_argument("recipe", type=Path, help="a recipe, as in launch/recipes/")
        command.add_argument(
            "overrides", nargs="*", metavar="key=value", help="win over the recipe"
        )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="%H:%M:%S",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=False)],
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parsed = parse(sys.argv[1:])
    sys.exit(run_command(lambda: parsed.command(parsed)))
