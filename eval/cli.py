"""The command line of ``python -m eval``: names, help and types of every option."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from eval.settings import EvaluationSettings, MtBenchSettings
from merge.common.provenance import add_version
from merge.common.settings import Settings

ASKED = ("dtype", "batch_tokens", "reasoning", "date")
"""Settings that ``run`` and ``mt-bench`` share."""
RUN = ("data_dir", "backend", "harm_judge", "refusal_judge", *ASKED)
MT_BENCH = tuple(MtBenchSettings.model_fields)


def _add_settings(
    parser: argparse.ArgumentParser, model: type[Settings], keys: Sequence[str]
) -> None:
    """An option for each key of a settings model, which has its type, its default and its help."""
    for key in keys:
        field = model.model_fields[key]
        is_choice = get_origin(field.annotation) is Literal
        parser.add_argument(
            f"--{key.replace('_', '-')}",
            type=_checked(field),
            required=field.is_required(),
            default=None if field.is_required() else field.get_default(),
            choices=get_args(field.annotation) if is_choice else None,
            help=" ".join((field.description or "").split()).replace("%", "%%"),
        )


def _checked(field: FieldInfo) -> Callable[[str], Any]:
    """The check of an option's text by its setting's own type."""
    metadata = field.metadata
    annotation: Any = Annotated[(field.annotation, *metadata)] if metadata else field.annotation
    adapter = TypeAdapter(annotation)

    def check(text: str) -> Any:
        try:
            return adapter.validate_python(text)
        except ValidationError as error:
            raise argparse.ArgumentTypeError(f"'{text}': {error.errors()[0]['msg']}") from None

    return check


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; ``command`` is the name of the one that was chosen."""
    parser = argparse.ArgumentParser(
        prog="python -m eval", description="The three-axis evaluation: harm, over-refusal, utility."
    )
    add_version(parser)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="ask a model a suite's prompts and judge its answers")
    run.add_argument("--model", type=Path, required=True, help="a model's folder")
    run.add_argument("--suite", type=Path, required=True, help="a suite file (YAML)")
    run.add_argument("--out", type=Path, required=True, help="folder for the answers and rates")
    run.add_argument("--name", help="the model's name in reports (default: the folder --out)")
    run.add_argument("--decoding", type=Path, help="decoding file (YAML), see eval/decodings/")
    run.add_argument(
        "--openings", type=Path, help="a run's openings.json: refusal margins are measured too"
    )
    _add_settings(run, EvaluationSettings, RUN)
    run.add_argument("--tensorboard", type=Path, help="folder for TensorBoard scalars")
    compare = commands.add_parser("compare", help="write report.json and report.html")
    compare.add_argument("evaluations", type=Path, nargs="+", help="folders made by `run`")
    compare.add_argument("--out", type=Path, required=True, help="folder for the report")
    compare.add_argument("--search", type=Path, help="search.json, shown as a Pareto front")
    _add_settings(compare, EvaluationSettings, ("agreement",))
    compare.add_argument("--margins", type=Path, help="YAML: how much worse each axis may get")
    bench = commands.add_parser("mt-bench", help="two-turn answers, rated by a model you name")
    bench.add_argument("--model", type=Path, required=True, help="a model's folder")
    bench.add_argument("--out", type=Path, required=True, help="the folder of its `eval run`")
    bench.add_argument("--name", help="the model's name in reports (default: the folder --out)")
    _add_settings(bench, MtBenchSettings, MT_BENCH)
    _add_settings(bench, EvaluationSettings, ASKED)
    judge = commands.add_parser("judge", help='add "refusal" to a file of answers')
    judge.add_argument("--input", type=Path, required=True, help='JSON lines with "completion"')
    judge.add_argument("--out", type=Path, required=True, help="the same lines, judged")
    _add_settings(judge, EvaluationSettings, ("refusal_judge",))
    agreement = commands.add_parser("agreement", help="measure the refusal judge on human labels")
    agreement.add_argument("--labels", type=Path, required=True, help="folder of annotated CSVs")
    agreement.add_argument("--lists", type=Path, help="folder of phrase lists to measure beside it")
    agreement.add_argument("--out", type=Path, help="JSON file for the measured agreement")
    _add_settings(agreement, EvaluationSettings, ("refusal_judge",))
    return parser.parse_args(arguments)
