"""``python -m merge build | plan | inspect | verify | picture | apply``."""

import gc
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from merge.common.errors import run_command
from merge.common.log import start_logging

if TYPE_CHECKING:
    from merge.common.settings import Settings

logger = logging.getLogger(__name__)

_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def main(process_of_its_own: bool = False) -> int:
    """Parse the command line and run the command.

    Args:
        process_of_its_own: whether nothing but the command will be done in this process.
    """
    start_logging()
    # What imports make stays; to look through it again and again takes a tenth of a second.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    if process_of_its_own:
        # numpy would start a thread for every core, for matrix products that nobody here makes.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from merge.common.settings import leave_out_descriptions

        leave_out_descriptions()
    from merge.cli import make_parser

    options = vars(make_parser().parse_args())
    command = _COMMANDS[options.pop("command")]
    return run_command(lambda: command(options))


# What a command needs is imported by it: after the command line was found right, and no more.


def _build(options: dict[str, Any]) -> None:
    arguments = _merge_arguments(options)
    from merge.build import build

    build(**arguments, delta_file=options["delta_file"], tensorboard=options["tensorboard"])


def _plan(options: dict[str, Any]) -> None:
    arguments = _merge_arguments(options)
    from merge.plan import log_plan, plan

    log_plan(plan(**arguments), options["out"])


def _merge_arguments(options: dict[str, Any]) -> dict[str, Any]:
    from merge.common.settings import parse_settings
    from merge.engine.resources import MergeResources
    from merge.settings import MergeSettings

    paths = {key: options[key] for key in ("backbone", "safety", "over_safety", "out")}
    return {
        **paths,
        "settings": parse_settings(MergeSettings, _given(options, MergeSettings), "command line"),
        "resources": parse_settings(
            MergeResources, _given(options, MergeResources), "command line"
        ),
    }


def _inspect(options: dict[str, Any]) -> None:
    arguments = _merge_arguments(options)
    from merge.pictures.packages import require

    require("merge inspect", "matplotlib", "jinja2")
    from merge.inspect.inspection import inspect
    from merge.inspect.page import NUMBERS, PAGE, write_page
    from merge.inspect.prediction import find_prediction, read_prediction

    file = options["prediction"] or find_prediction(options["safety"], options["over_safety"])
    # Before the patches are read: a wrong file should be reported at once, not after minutes.
    prediction = None if file is None else read_prediction(file)
    inputs = {key: arguments[key] for key in ("backbone", "safety", "over_safety", "settings")}
    numbers = inspect(**inputs)
    if prediction is not None:
        numbers["prediction"] = prediction.model_dump(mode="json")
    write_page(numbers, options["backbone"].resolve().name, options["out"])
    logger.info("pictures: %s; numbers: %s", options["out"] / PAGE, options["out"] / NUMBERS)


def _verify(options: dict[str, Any]) -> None:
    from merge.verify import verify

    verify(options["directory"])


def _picture(options: dict[str, Any]) -> None:
    from merge.pictures.packages import require

    require("merge picture", "matplotlib")
    from merge.pictures import density

    file = density.write(options["directory"])
    if file is None:
        logger.info("%s: no tensor of a numbered layer was merged", options["directory"])
    else:
        logger.info("picture: %s", file)


def _apply(options: dict[str, Any]) -> None:
    from merge.apply import apply_delta

    written = apply_delta(options["model"], options["delta"], options["out"])
    logger.info("%s: holds the %s now", options["out"], written)


def _given(options: dict[str, Any], model: "type[Settings]") -> dict[str, Any]:
    """The options that belong to a settings model, those left out apart."""
    return {key: options[key] for key in model.model_fields if options.get(key) is not None}


_COMMANDS = {
    "build": _build,
    "plan": _plan,
    "inspect": _inspect,
    "verify": _verify,
    "picture": _picture,
    "apply": _apply,
}


if __name__ == "__main__":
    sys.exit(main(process_of_its_own=True))
