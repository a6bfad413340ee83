"""Trials of a search against a loop of separate commands: ``make benchmark-search``.

    python -m tests.benchmark_search RUN [--trials 10] [key=value ...]

RUN is a run folder whose patches are still there, as ``launch search`` leaves it. Both sides are
whole processes, imports included, and try the same settings on the same validation prompts: one
search, and ``merge build`` with ``eval run`` for each of its trials. Their rates must be equal, but
where the search asked a part of the prompts alone (``search.screen``).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from launch.recipe import Recipe
from launch.search import search
from merge.files import read_json
from merge.recipe import MergeSettings
from train.backbone import backbone_directory
from train.recipe import ROLES, load_recipe

_AXES = ("harmful_rate", "refusal_rate", "utility", "degenerate_rate")


def main() -> None:
    """Parse the command line and print one line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmark_search", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, default=10)
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
        run(["tests.benchmark_search", *sys.argv[1:], "--search-in", str(folder / "search")])
        ours = time.perf_counter() - started
        trials = read_json(folder / "search/search.json")["trials"]
        started = time.perf_counter()
        for number, trial in enumerate(trials):
            rates = loop_once(recipe, MergeSettings(**trial["settings"]), folder / str(number))
            differ = any(rates[axis]["value"] != trial[axis] for axis in _AXES)
            if differ and not trial.get("screened"):
                raise SystemExit(f"trial {number}: rates differ, {rates} against {trial}")
        loop = time.perf_counter() - started
    count, screened = len(trials), sum(trial.get("screened", False) for trial in trials)
    Console().print(
        f"{count} trials ({screened} screened), equal rates: search {60 * count / ours:.1f} trials "
        f"a minute, separate commands {60 * count / loop:.1f}; {loop / ours:.2f} times as fast"
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
