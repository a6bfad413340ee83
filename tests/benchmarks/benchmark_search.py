"""Trials of a search against a loop of separate commands: ``make benchmark-search``.

    python -m tests.benchmarks.benchmark_search RUN [--trials 10] [--loop 10] [key=value ...]

RUN is a run folder whose patches are still there, as ``launch search`` leaves it. Both sides are
whole processes, imports included, and try merges on the same validation prompts: one search, and
``merge build`` with ``eval run`` for each of its merges that were asked for answers, or the first
of these. Their rates must be equal, but where the search asked a part of the prompts alone
(``search.screen``). A search by margins has tried more merges than it asked for answers:
all of them count.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from launch.recipe import Recipe
from launch.search.search import search
from merge.common.files import read_json
from merge.settings import MergeSettings
from train.backbone.folder import backbone_directory
from train.recipe import ROLES, load_recipe

_AXES = ("harmful_rate", "refusal_rate", "utility", "degenerate_rate")


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.benchmark_search", description=__doc__
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--loop", type=int, default=10, help="merges by separate commands")
    parser.add_argument("--search-in", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    overrides = [f"search.trials={options.trials}", "search.methods=[difference]"]
    overrides += options.overrides
    recipe = load_recipe(options.run / "recipe.yaml", overrides, Recipe)
    if options.search_in is not None:
        search(recipe, backbone_directory(recipe.backbone), options.search_in)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        run(
            [
                "tests.benchmarks.benchmark_search",
                *sys.argv[1:],
                "--search-in",
                str(folder / "search"),
            ]
        )
        ours = time.perf_counter() - started
        record = read_json(folder / "search/search.json")
        trials = record["trials"][: options.loop]
        started = time.perf_counter()
        for number, trial in enumerate(trials):
            rates = loop_once(recipe, MergeSettings(**trial["settings"]), folder / str(number))
            differ = any(rates[axis]["value"] != trial[axis] for axis in _AXES)
            if differ and not trial.get("screened"):
                raise SystemExit(f"trial {number}: rates differ, {rates} against {trial}")
        loop = time.perf_counter() - started
    tried = len(record["trials"]) + len(record["estimated"])
    screened = sum(trial.get("screened", False) for trial in trials)
    ours, loop = 60 * tried / ours, 60 * len(trials) / loop
    Console().print(
        f"search: {tried} trials ({len(record['estimated'])} by margins, {screened} screened), "
        f"{ours:.2f} a minute; separate commands: {len(trials)}, equal rates, "
        f"{loop:.2f} a minute; {ours / loop:.2f} times as fast"
    )


def loop_once(recipe: Recipe, settings: MergeSettings, folder: Path) -> dict[str, dict[str, float]]:
    """One trial by the two commands; its rates by axis."""
    assert recipe.search is not None
    backbone = backbone_directory(recipe.backbone)
    model = folder / "model"
    places = [f"--{role.replace('_', '-')}={recipe.output / role}" for role in ROLES]
    words = [
        f"--{key.replace('_', '-')}={value}"
        for key, value in settings.model_dump().items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ]
    run(["merge", "build", f"--backbone={backbone}", *places, *words, f"--out={model}"])
    data_dir = recipe.eval.data_dir if recipe.eval else None
    places = [f"--data-dir={data_dir}"] if data_dir else []
    suite = f"--suite={recipe.search.suite}"
    run(["eval", "run", f"--model={model}", suite, *places, f"--out={folder / 'eval'}"])
    return read_json(folder / "eval/summary.json")["axes"]


def run(words: list[str]) -> None:
    """A command, to its good end."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


if __name__ == "__main__":
    main()
