"""Rows that hold many sequences, against a search through all of their beginnings."""

from hypothesis import given
from hypothesis import strategies as st

from train.data.shared_paths import shared_paths

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=8)


@given(SEQUENCES)
def test_every_sequence_has_its_row_and_no_row_is_in_another(sequences: list[list[int]]) -> None:
    paths, rows = shared_paths(sequences)
    for sequence, row in zip(sequences, rows, strict=True):
        assert list(paths[row][: len(sequence) - 1]) == sequence[:-1]
    beginnings = {tuple(sequence[:-1]) for sequence in sequences}
    needed = {
        each
        for each in beginnings
        if not any(other != each and other[: len(each)] == each for other in beginnings)
    }
    assert set(paths) == needed and len(paths) == len(needed)
