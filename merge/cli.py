"""The command line of the merger: commands, flags and what they mean."""

import argparse
from pathlib import Path
from typing import get_args

from merge.common.provenance import add_version
from merge.methods import MethodName
from merge.settings import RoundingName, ScopeName, ScoreName


def make_parser() -> argparse.ArgumentParser:
    """A parser whose result names the command under "command"."""
    parser = argparse.ArgumentParser(
        prog="python -m merge", description="Patch a model with two trained patches, offline."
    )
    add_version(parser)
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    build = commands.add_parser("build", help="merge two patches into a backbone")
    _add_merge(build)
    build.add_argument(
        "--delta-file", type=Path, metavar="FILE", help="write a small reversible patch as well"
    )
    build.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write the densities of every layer"
    )
    plan = commands.add_parser("plan", help="what a build would read, write and need; all errors")
    _add_merge(plan)
    inspect = commands.add_parser("inspect", help="a page of pictures of what the patches hold")
    _add_inputs(inspect, "folder of the page; existing files are overwritten")
    inspect.add_argument(
        "--prediction",
        type=Path,
        metavar="FILE",
        help="of a search's fit, for the page; a run folder's own is found by itself",
    )
    _add_selection(inspect.add_argument_group("top sets (defaults are this project's)"))
    verify = commands.add_parser("verify", help="check every hash of a merged model")
    verify.add_argument("directory", type=Path, metavar="DIR", help="with merge.json")
    picture = commands.add_parser(
        "picture", help="draw where in a merged model either patch lives, as density.svg in it"
    )
    picture.add_argument("directory", type=Path, metavar="DIR", help="with merge.json")
    apply = commands.add_parser(
        "apply", help="turn the backbone into the patched model by a delta file, or back"
    )
    apply.add_argument("--model", type=Path, required=True, metavar="DIR")
    apply.add_argument("--delta", type=Path, required=True, metavar="FILE")
    apply.add_argument("--out", type=Path, required=True, metavar="DIR", help="new folder")
    return parser


def _add_inputs(parser: argparse.ArgumentParser, out: str) -> None:
    for flag, what in (
        ("--backbone", "folder of the model, safetensors"),
        ("--safety", "patch directory of role safety"),
        ("--over-safety", "patch directory of role over_safety"),
        ("--out", out),
    ):
        parser.add_argument(flag, type=Path, required=True, metavar="DIR", help=what)


def _add_selection(group: argparse._ArgumentGroup) -> None:
    for flag, what in (
        ("--top-safety", "fraction of the safety patch's entries in its top set"),
        ("--top-over-safety", "the same for the over-safety patch"),
    ):
        group.add_argument(flag, type=float, metavar="X", help=what)
    for flag, names in (("--scope", ScopeName), ("--score", ScoreName)):
        group.add_argument(flag, choices=get_args(names))
    for flag in ("--include", "--exclude"):
        group.add_argument(flag, nargs="+", metavar="PATTERN", help="of tensor names")


def _add_merge(parser: argparse.ArgumentParser) -> None:
    _add_inputs(parser, "folder of the patched model; new, or of the same merge interrupted")
    numbers = parser.add_argument_group("merge (defaults are this project's, not the paper's)")
    _add_selection(numbers)
    for flag, what in (
        ("--retention", "probability with which a selected entry is kept"),
        ("--alpha", "scale of the safety patch"),
        ("--beta", "scale of the over-safety patch"),
        ("--alpha-shared", "method by_set: of the safety patch where both top sets meet"),
        ("--alpha-rest", "method by_set: of the safety patch outside its top set"),
        ("--beta-shared", "the same of the over-safety patch"),
        ("--beta-rest", "the same of the over-safety patch"),
    ):
        numbers.add_argument(flag, type=float, metavar="X", help=what)
    numbers.add_argument(
        "--rounding", choices=get_args(RoundingName), help="stochastic for small patches in bf16"
    )
    numbers.add_argument(
        "--seed", type=int, metavar="N", help="of the random retention and of stochastic rounding"
    )
    numbers.add_argument(
        "--rescale", action="store_true", default=None, help="divide kept entries by retention"
    )
    numbers.add_argument("--method", choices=get_args(MethodName))
    machine = parser.add_argument_group("machine (changes no bit of a tensor)")
    machine.add_argument("--threads", type=int, metavar="N")
    machine.add_argument("--memory-limit", metavar="SIZE", help="tensor data in hand, as 128MiB")
    machine.add_argument("--max-shard-size", metavar="SIZE", help="of an output file, as 5GB")
