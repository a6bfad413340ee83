"""A trace as lines of text: a line for each thing, and below it what its records tell."""

from collections.abc import Mapping
from typing import Any

from launch.run.trace.node import Node
from merge.common.provenance import RECIPE_HASH

_LONGEST = 100
"""Characters of a fact; --json has all of them."""
_DIGITS = 12
"""Hexadecimal digits that are enough to tell commits and recipes apart."""


def tree_lines(node: Node, above: Mapping[str, str] | None = None) -> list[str]:
    """The tree as lines.

    Args:
        above: who wrote what stands above it; who wrote this is told only where it is another.
    """
    below = [[f"! {line}"] for line in node.mismatches]
    if node.written and node.written != above:
        below.append([_written(node.written)])
    if node.facts:
        below.append([", ".join(f"{key} {_short(value)}" for key, value in node.facts.items())])
    below += [[f"note: {line}"] for line in node.notes]
    below += [tree_lines(part, above or node.written) for part in node.made_of]
    lines = [_title(node)]
    for number, (first, *others) in enumerate(below, 1):
        branch, edge = ("└─ ", "   ") if number == len(below) else ("├─ ", "│  ")
        lines.append(branch + first)
        lines += [edge + line for line in others]
    return lines


def _title(node: Node) -> str:
    title = f"{node.what} {node.name}".strip()
    parts = [title if node.path is None else f"{title}: {node.path}"]
    if node.state is not None:
        parts.append(node.state.upper() if node.state in ("changed", "gone") else node.state)
    parts += [f"{algorithm} {digest}" for algorithm, digest in node.recorded.items()]
    return ", ".join(parts)


def _written(written: Mapping[str, str]) -> str:
    commit, _, dirty = written.get("commit", "").partition("-")
    parts = [f"written by safepatching {written.get('version', 'of an unknown version')}"]
    if commit:
        parts.append(f"commit {commit[:_DIGITS]}" + (", changed" if dirty else ""))
    if RECIPE_HASH in written:
        parts.append(f"recipe {written[RECIPE_HASH][:_DIGITS]}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
