"""Sequences that begin alike, read in as few rows as hold them all."""

from collections.abc import Sequence
from typing import NamedTuple


class SharedPaths(NamedTuple):
    """The rows that a model must read to predict every token of some sequences."""

    paths: list[tuple[int, ...]]
    """Token ids: all but the last of some sequences; none is the beginning of another."""
    rows: list[int]
    """For each sequence the path that begins as it does, but for its last token."""


def shared_paths(sequences: Sequence[Sequence[int]]) -> SharedPaths:
    """Find the longest beginnings of some sequences of at least one token.

    A path holds each shorter beginning of its own, so a model that reads it predicts the last
    token of all sequences that go along it.
    """
    beginnings = [tuple(sequence[:-1]) for sequence in sequences]
    # In sorted order a beginning stands before all that go on from it.
    paths: list[tuple[int, ...]] = []
    for beginning in sorted(set(beginnings), reverse=True):
        if not paths or paths[-1][: len(beginning)] != beginning:
            paths.append(beginning)
    rows = [
        next(row for row, path in enumerate(paths) if path[: len(each)] == each)
        for each in beginnings
    ]
    return SharedPaths(paths, rows)
