"""`python -m merge build`: the offline merger's commands."""

import argparse
import logging
import sys
from pathlib import Path
from typing import get_args

from merge.errors import run_command
from merge.recipe import MergeSettings, Method, Scope, Score
from merge.settings import parse_settings

_JOB = {"command", "backbone", "safety", "over_safety", "out", "tensorboard"}


def _build(options: argparse.Namespace) -> None:
    from merge.build import build

    given = {key: value for key, value in vars(options).items() if value is not None}
    values = {key: value for key, value in given.items() if key not in _JOB}
    settings = parse_settings(MergeSettings, values, "command line")
    build(
        options.backbone,
        options.safety,
        options.over_safety,
        options.out,
        settings,
        options.tensorboard,
    )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; what is not given is left to ``MergeSettings``."""
    parser = argparse.ArgumentParser(prog="python -m merge", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="build")
    build = commands.add_parser("build", help="merge two patches into their backbone")
    for name, text in (
        ("backbone", "the backbone's folder"),
        ("safety", "the safety patch's folder"),
        ("over-safety", "the over-safety patch's folder"),
        ("out", "the patched model's folder; must not exist"),
    ):
        build.add_argument(f"--{name}", type=Path, required=True, metavar="DIR", help=text)
    build.add_argument("--method", choices=get_args(Method))
    build.add_argument("--score", choices=get_args(Score))
    build.add_argument("--scope", choices=get_args(Scope))
    build.add_argument("--top-safety", metavar="RATE", help="share of entries that it needs")
    build.add_argument("--top-over-safety", metavar="RATE", help="share of entries that it needs")
    build.add_argument("--retention", metavar="RATE", help="probability to keep an entry")
    build.add_argument("--rescale", action="store_true", default=None, help="divide by retention")
    build.add_argument("--alpha", metavar="X", help="weight of the safety patch")
    build.add_argument("--beta", metavar="X", help="weight of the over-safety patch")
    build.add_argument("--seed", metavar="N", help="seed of the retention")
    build.add_argument("--include", action="append", metavar="PATTERN", help="tensors to patch")
    build.add_argument("--exclude", action="append", metavar="PATTERN", help="tensors to leave")
    build.add_argument("--tensorboard", type=Path, metavar="DIR", help="write densities there")
    build.set_defaults(command=_build)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parsed = parse(sys.argv[1:])
    sys.exit(run_command(lambda: parsed.command(parsed)))
