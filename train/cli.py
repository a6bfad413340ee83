"""The command line of a training, in a file that a launcher imports at once."""

import argparse
from pathlib import Path
from typing import get_args

from merge.common.provenance import add_version
from merge.io.patch_directory import Role

_USAGE = """One rank of one training.

deepspeed --num_gpus N --module train RECIPE [key=value ...] --role safety|over_safety
torchrun --nproc-per-node N -m train RECIPE [key=value ...] --role safety|over_safety
python -m train.launcher [--processes N] RECIPE [key=value ...] --role safety|over_safety
python -m train RECIPE [key=value ...] --role safety|over_safety        (one process)
"""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked for form."""
    parser = argparse.ArgumentParser(
        prog="train", description=_USAGE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_version(parser)
    parser.add_argument("recipe", type=Path, help="the run's recipe, a YAML file")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="wins over the recipe"
    )
    parser.add_argument("--role", required=True, choices=get_args(Role))
    # The deepspeed launcher adds this one; LOCAL_RANK in the environment says the same.
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_intermixed_args(arguments)
