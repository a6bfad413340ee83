"""`python -m eval run | mt-bench | compare | judge | agreement`: the evaluation's commands."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from eval.cli import ASKED, MT_BENCH, RUN, parse
from eval.console import show
from eval.settings import EvaluationSettings, MtBenchSettings
from merge.common.errors import run_command
from merge.common.log import start_logging
from merge.common.settings import parse_settings


def _values(options: argparse.Namespace, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(options, key) for key in keys}


def _run(options: argparse.Namespace) -> None:
    from eval.decoding_settings import load_decoding
    from eval.report.judge_errors import refusal_rule
    from eval.report.table import render_table
    from eval.run import RunJob, run

    job = RunJob(
        **_values(options, ("model", "suite", "out", "name", "openings", "tensorboard")),
        settings=parse_settings(EvaluationSettings, _values(options, RUN), "command line"),
        decoding=load_decoding(options.decoding) if options.decoding else None,
    )
    summary = run(job)
    show(
        render_table(
            {
                "models": {summary["name"]: summary["axes"]},
                "backbone": summary["name"],
                "harm_rule": summary["harm_rule"],
                "refusal_rule": refusal_rule(summary),
                "notes": summary.get("notes", []),
            }
        )
    )
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

    job = MtBenchJob(
        **_values(options, ("model", "out", "name")),
        bench=parse_settings(MtBenchSettings, _values(options, MT_BENCH), "command line"),
        settings=parse_settings(EvaluationSettings, _values(options, ASKED), "command line"),
    )
    result = run_mt_bench(job)
    show(f"MT-Bench: {rating(result)}, {result['unparsed']} judgements unparsed")


def _judge(options: argparse.Namespace) -> None:
    from eval.judges.judge_file import judge_file
    from eval.judges.judges import load_refusal_judge

    counts = judge_file(options.input, options.out, load_refusal_judge(options.refusal_judge))
    show(", ".join(f"{label} {count}" for label, count in sorted(counts.items())))
    show(f"judged answers: {options.out}")


def _agreement(options: argparse.Namespace) -> None:
    from eval.judges.agreement import agreement_tables, measure
    from eval.judges.judges import load_refusal_judge
    from merge.common.files import atomic_write_json

    judge = load_refusal_judge(options.refusal_judge)
    measured = measure(options.labels, options.lists, judge)
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
