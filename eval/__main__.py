"""`python -m eval run | compare | judge | agreement`: the evaluation's commands."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from merge.errors import run_command


def _run(options: argparse.Namespace) -> None:
    from eval.run import RunJob, run
    from eval.table import render_table

    values = {key: value for key, value in vars(options).items() if key != "command"}
    summary = run(RunJob(**values))
    Console().print(render_table({"models": {summary["name"]: summary["axes"]}, **summary}))


def _compare(options: argparse.Namespace) -> None:
    from eval.compare import compare
    from eval.report import write_report
    from eval.table import render_table

    report = compare(options.evaluations, options.search, agreement=options.agreement)
    write_report(report, options.out)
    Console().print(render_table(report))
    Console().print(f"report: {options.out / 'report.html'}", highlight=False)


def _judge(options: argparse.Namespace) -> None:
    from eval.judge_file import judge_file

    counts = judge_file(options.input, options.out)
    Console().print(", ".join(f"{label} {count}" for label, count in sorted(counts.items())))


def _agreement(options: argparse.Namespace) -> None:
    from eval.judge_agreement import agreement_tables, measure
    from merge.files import atomic_write_json

    measured = measure(options.labels)
    if options.out:
        atomic_write_json(options.out, measured)
    Console().print(*agreement_tables(measured), sep="\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line; ``command`` is the function to call with it."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="run | compare | judge | agreement")
    run = commands.add_parser("run", help="ask a model a suite's prompts and judge its answers")
    run.add_argument("--model", type=Path, required=True, help="a model's folder")
    run.add_argument("--suite", type=Path, required=True, help="a suite file (YAML)")
    run.add_argument("--out", type=Path, required=True, help="folder for the answers and rates")
    run.add_argument("--name", help="the model's name in reports (default: the folder --out)")
    run.add_argument("--data-dir", type=Path, help="stands for ${DATA} in the suite's sources")
    run.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "float16"], default="auto")
    run.add_argument("--batch-tokens", type=int, default=16384, help="rows x tokens of a batch")
    run.add_argument("--tensorboard", type=Path, help="folder for TensorBoard scalars")
    run.set_defaults(command=_run)
    compare = commands.add_parser("compare", help="write report.json and report.html")
    compare.add_argument("evaluations", type=Path, nargs="+", help="folders made by `run`")
    compare.add_argument("--out", type=Path, required=True, help="folder for the report")
    compare.add_argument("--search", type=Path, help="search.json, shown as a Pareto front")
    compare.add_argument("--agreement", type=Path, help="what `agreement --out` wrote")
    compare.set_defaults(command=_compare)
    judge = commands.add_parser("judge", help='add "refusal" to a file of answers')
    judge.add_argument("--input", type=Path, required=True, help='JSON lines with "completion"')
    judge.add_argument("--out", type=Path, required=True, help="the same lines, judged")
    judge.set_defaults(command=_judge)
    agreement = commands.add_parser("agreement", help="measure the refusal judge on human labels")
    agreement.add_argument("--labels", type=Path, required=True, help="folder of annotated CSVs")
    agreement.add_argument("--out", type=Path, help="JSON file for the measured agreement")
    agreement.set_defaults(command=_agreement)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_time=False, show_path=False)],
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parsed = parse(sys.argv[1:])
    sys.exit(run_command(lambda: parsed.command(parsed)))
