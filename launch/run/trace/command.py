"""What `python -m launch trace` prints, and its exit status."""

import argparse
import json
import sys

from eval.console import show
from launch.run.trace.node import Node
from launch.run.trace.report import find_report, trace_report
from launch.run.trace.text import tree_lines

MISMATCH_EXIT_STATUS = 1
_SHOWN = 5


def show_trace(options: argparse.Namespace) -> None:
    """Print the trace of a report; ends the process with 1 where something is not as recorded.

    Raises:
        UserError: there is no report, or a record is malformed.
    """
    node = trace_report(find_report(options.report), options.verify)
    mismatches = node.all_mismatches()
    if options.json:
        content = {"verified": options.verify, "mismatches": mismatches, "trace": node.as_dict()}
        show(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        show("\n".join(tree_lines(node)))
        show(_summary(node, options.verify))
    if mismatches:
        more = f" and {len(mismatches) - _SHOWN} more" if len(mismatches) > _SHOWN else ""
        sys.stderr.write(f"not as recorded: {'; '.join(mismatches[:_SHOWN])}{more}\n")
        sys.exit(MISMATCH_EXIT_STATUS)


def _summary(node: Node, verified: bool) -> str:
    """How many things are still as recorded, gone, or were not hashed."""
    states = [each.state for each in node.walk() if each.recorded]
    parts = [
        f"{states.count(state)} {words}"
        for state, words in (
            ("unchanged", "as recorded"), ("changed", "changed"), ("gone", "gone"),
        )
    ]  # fmt: skip
    unhashed = states.count("same size") + states.count("there")
    if unhashed:
        parts.append(f"{unhashed} there" + ("" if verified else ", not hashed; --verify does it"))
    return "; ".join(parts)
