"""The command line of ``python -m eval``: names, help and types of every option."""

import argparse
import datetime
from collections.abc import Sequence
from pathlib import Path

from merge.common.provenance import add_version
from train.chat.chat_settings import DEFAULT_DATE

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be 1 or more")
    return number


def _date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': write YYYY-MM-DD") from None


def _add_chat_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``train.chat.chat_settings``."""
    parser.add_argument(
        "--reasoning",
        choices=["on", "off"],
        help="by the chat template's own switch (default: what the template does)",
    )
    parser.add_argument(
        "--date",
        type=_date,
        help=f"what a template writes as today, YYYY-MM-DD (default: {DEFAULT_DATE})",
    )


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
    run.add_argument("--data-dir", type=Path, help="stands for ${DATA} in the suite's sources")
    run.add_argument("--dtype", choices=_DTYPES, default="auto")
    run.add_argument("--batch-tokens", type=_count, default=16384, help="rows x tokens of a batch")
    run.add_argument(
        "--backend", choices=["hf", "vllm"], default="hf", help="what writes the answers"
    )
    run.add_argument("--decoding", type=Path, help="decoding file (YAML), see eval/decodings/")
    run.add_argument(
        "--openings", type=Path, help="a run's openings.json: refusal margins are measured too"
    )
    _add_chat_options(run)
    run.add_argument("--harm-judge", type=Path, help="judge file (YAML), see eval/judges/")
    run.add_argument("--tensorboard", type=Path, help="folder for TensorBoard scalars")
    compare = commands.add_parser("compare", help="write report.json and report.html")
    compare.add_argument("evaluations", type=Path, nargs="+", help="folders made by `run`")
    compare.add_argument("--out", type=Path, required=True, help="folder for the report")
    compare.add_argument("--search", type=Path, help="search.json, shown as a Pareto front")
    compare.add_argument("--agreement", type=Path, help="what `agreement --out` wrote")
    compare.add_argument("--margins", type=Path, help="YAML: how much worse each axis may get")
    bench = commands.add_parser("mt-bench", help="two-turn answers, rated by a model you name")
    bench.add_argument("--model", type=Path, required=True, help="a model's folder")
    bench.add_argument("--questions", type=Path, required=True, help="MT-Bench's question.jsonl")
    bench.add_argument("--judge", required=True, help="a chat model: folder or name on the hub")
    bench.add_argument("--out", type=Path, required=True, help="the folder of its `eval run`")
    bench.add_argument("--name", help="the model's name in reports (default: the folder --out)")
    bench.add_argument("--dtype", choices=_DTYPES, default="auto")
    bench.add_argument(
        "--batch-tokens", type=_count, default=16384, help="rows x tokens of a batch"
    )
    bench.add_argument("--max-new-tokens", type=_count, default=1024, help="length of one answer")
    _add_chat_options(bench)
    judge = commands.add_parser("judge", help='add "refusal" to a file of answers')
    judge.add_argument("--input", type=Path, required=True, help='JSON lines with "completion"')
    judge.add_argument("--out", type=Path, required=True, help="the same lines, judged")
    agreement = commands.add_parser("agreement", help="measure the refusal judge on human labels")
    agreement.add_argument("--labels", type=Path, required=True, help="folder of annotated CSVs")
    agreement.add_argument("--lists", type=Path, help="folder of phrase lists to measure beside it")
    agreement.add_argument("--out", type=Path, help="JSON file for the measured agreement")
    return parser.parse_args(arguments)
