"""Which tokens of an answer a loss counts."""

import pytest

from train.objectives.training_data import cut_answers

OPENINGS = ((7, 8, 9, 1), (5,))


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        ([2, 3, 4, 6], [2, 3]),  # as no refusal does
        ([7, 8, 3, 4, 6], [3, 4]),  # parts from a refusal at its third token
        ([5, 5, 4], [5, 4]),  # goes on after a whole opening
        ([7, 8], [8]),  # could go on either way: its last token stays
        ([8, 7, 8], [8, 7]),  # the same tokens in another place
    ],
)
def test_a_loss_begins_where_an_answer_parts_from_refusals(
    answer: list[int], counted: list[int]
) -> None:
    """Ascent on "As an AI language model" lowered the refusal margin of a real model."""
    prompt = [3, 3, 3]
    example = ([*prompt, *answer], [-100] * 3 + answer)
    ((ids, labels),) = cut_answers([example], 2, OPENINGS)
    assert ids == example[0][: len(ids)] and len(labels) == len(ids)
    assert [label for label in labels if label != -100] == counted
    assert labels[-1] == ids[-1] and all(
        label in (-100, token) for label, token in zip(labels, ids, strict=True)
    )
    ((ids, labels),) = cut_answers([example], 2)
    assert labels == [-100] * 3 + answer[:2] and ids == prompt + answer[:2]
    assert cut_answers([example], None, OPENINGS) == [example]
