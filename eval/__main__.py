"""`python -m eval run | mt-bench | compare | judge | agreement`: the evaluation's commands."""

import argparse
import sys
from typing import Any

from eval.cli import parse
from eval.console import show
from merge.common.errors import run_command
from merge.common.log import start_logging
from train.chat.chat_settings import ChatSettings


def _job_values(options: argparse.Namespace) -> dict[str, Any]:
    """The options as fields of a job."""
    values = {key: value for key, value in vars(options).items() if key != "command"}
    reasoning = {None: None, "on": True, "off": False}[values.pop("reasoning")]
    chat = ChatSettings(reasoning, values.pop("date"))
    return {**values, "chat": chat}


def _run(options: argparse.Namespace) -> None:
    from eval.report.table import render_table
    from eval.run import RunJob, run
    from eval.settings import load_decoding

    values = _job_values(options)
    values["decoding"] = load_decoding(options.decoding) if options.decoding else None
    summary = run(RunJob(**values))
    show(render_table({"models": {summary["name"]: summary["axes"]}, **summary}))
    show(f"answers and rates: {options.out}")


def _compare(options: argparse.Namespace) -> None:
    from eval.report.compare import compare
    from eval.report.page import write_report
    from eval.report.table import headline_text, render_table
    from eval.report.verdict import load_margins

    margins = load_margins(options.margins) if options.margins else None
    report = compare(options.evaluations, options.search, margins, options.agreement)
    write_report(report, options.out)
    show(render_table(report))
    show(headline_text(report), style="bold")
    show(f"report: {options.out / 'report.html'}")


def _mt_bench(options: argparse.Namespace) -> None:
    from eval.mt_bench import MtBenchJob, run_mt_bench
    from eval.report.table import rating

    result = run_mt_bench(MtBenchJob(**_job_values(options)))
    show(f"MT-Bench: {rating(result)}, {result['unparsed']} judgements unparsed")


def _judge(options: argparse.Namespace) -> None:
    from eval.judges.judge_file import judge_file

    counts = judge_file(options.input, options.out)
    show(", ".join(f"{label} {count}" for label, count in sorted(counts.items())))
    show(f"judged answers: {options.out}")


def _agreement(options: argparse.Namespace) -> None:
    from eval.judges.agreement import agreement_tables, measure
    from merge.common.files import atomic_write_json

    measured = measure(options.labels, options.lists)
    if options.out:
        atomic_write_json(options.out, measured)
    show(*agreement_tables(measured))
    if options.out:
        show(f"numbers: {options.out}")


if __name__ == "__main__":
    start_logging()
    parsed = parse(sys.argv[1:])
    command = {
        "run": _run,
        "compare": _compare,
        "mt-bench": _mt_bench,
        "judge": _judge,
        "agreement": _agreement,
    }
    sys.exit(run_command(lambda: command[parsed.command](parsed)))
