"""``python -m merge``: build a patched model from a backbone and two patches."""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from merge.errors import run_command
from merge.recipe import MergeSettings, MethodName, ScopeName, ScoreName
from merge.resources import MergeResources
from merge.settings import Settings, parse_settings


def main() -> int:
    """Parse the command line and run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = vars(_parser().parse_args())
    return run_command(lambda: options.pop("command")(options))


def _build(options: dict[str, object]) -> None:
    given = {key: value for key, value in options.items() if value is not None}
    paths = {key: Path(str(given[key])) for key in ("backbone", "safety", "over_safety", "out")}
    settings = parse_settings(MergeSettings, _chosen(given, MergeSettings), "command line")
    resources = parse_settings(MergeResources, _chosen(given, MergeResources), "command line")
    # The compiled loops take a second to import: after the command line was found right.
    from merge.build import build

    build(**paths, settings=settings, resources=resources)


def _chosen(given: dict[str, object], model: type[Settings]) -> dict[str, object]:
    return {key: given[key] for key in model.model_fields if key in given}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m merge", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True)
    build = commands.add_parser("build", help="merge two patches into a backbone")
    build.set_defaults(command=_build)
    for flag, what in (
        ("--backbone", "folder of the model, safetensors"),
        ("--safety", "patch directory of role safety"),
        ("--over-safety", "patch directory of role over_safety"),
        ("--out", "folder of the patched model; must be new or an interrupted merge's"),
    ):
        build.add_argument(flag, required=True, metavar="DIR", help=what)
    numbers = build.add_argument_group("merge (defaults are this project's, not the paper's)")
    for flag, what in (
        ("--top-safety", "fraction of the safety patch's entries in its top set"),
        ("--top-over-safety", "the same for the over-safety patch"),
        ("--retention", "probability with which a selected entry is kept"),
        ("--alpha", "scale of the safety patch"),
        ("--beta", "scale of the over-safety patch"),
    ):
        numbers.add_argument(flag, type=float, metavar="X", help=what)
    numbers.add_argument("--seed", type=int, metavar="N", help="of the random retention")
    for flag, names in (("--scope", ScopeName), ("--score", ScoreName), ("--method", MethodName)):
        numbers.add_argument(flag, choices=get_args(names))
    for flag in ("--include", "--exclude"):
        numbers.add_argument(flag, nargs="+", metavar="PATTERN", help="of tensor names")
    machine = build.add_argument_group("machine (changes no bit of the result)")
    machine.add_argument("--threads", type=int, metavar="N")
    machine.add_argument("--memory-limit", metavar="SIZE", help="tensor data in hand, as 128MiB")
    machine.add_argument("--max-shard-size", metavar="SIZE", help="of an output file, as 5GB")
    return parser


if __name__ == "__main__":
    sys.exit(main())
