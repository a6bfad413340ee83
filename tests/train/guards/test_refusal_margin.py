"""Refusal openings on invented answers, and margins against sums over all continuations."""

import itertools
import math

import pytest
import torch

from tests.support.train_helpers import make_backbone
from train.guards.refusal_margin import (
    OpeningPaths,
    RefusalOpenings,
    label_log_probabilities,
    learn_openings,
    margins,
    opening_examples,
)


def test_openings_are_the_shortest_beginnings_that_tell_refusals_apart() -> None:
    """Two ways to refuse; the first shares its first token with an answer, one refusal is alone."""
    refusals = [[1, 2, 3, n] for n in range(6)] + [[7, 8, n] for n in range(3)] + [[5, 5]]
    answers = [[1, 4, n] for n in range(4)] + [[9, n] for n in range(5)]
    openings = learn_openings(refusals, answers)
    assert openings.tokens == ((1, 2), (7,))
    assert openings.coverage == pytest.approx(0.9) and openings.precision == 1
    for first, second in itertools.permutations(openings.tokens, 2):
        assert second[: len(first)] != first
    assert learn_openings([], answers).tokens == ()
    assert learn_openings([[1, 2]], [[1, 2], [1, 2]]).tokens == ()


def test_refusals_that_begin_as_answers_do_have_openings_too() -> None:
    """A long beginning that answers share, as in "As an AI language model, I cannot discuss"."""
    alike = list(range(20, 28))
    refusals = [[1, n] for n in range(9)] + [[*alike, 30, n] for n in range(4)]
    answers = [[*alike, 31, n] for n in range(6)]
    assert learn_openings(refusals, answers).tokens == ((1,), (*alike, 30))


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_openings_that_begin_alike_are_read_in_one_row(temperature: float) -> None:
    """Their log-probabilities are those of one row each."""
    openings = RefusalOpenings(((3,), (4, 5, 6), (4, 5, 7), (4, 8), (9, 1)), 1.0, 1.0)
    paths = OpeningPaths.of(openings)
    assert paths.rows([0, 2]) == [[0, 2, 9], [0, 2, 4, 5]]
    torch.manual_seed(0)
    scores = torch.randn(11, 11)
    table = (scores / temperature).log_softmax(-1)
    logits = scores[torch.tensor([[2, 9, 9], [2, 4, 5]])]
    expected = [
        sum(table[a, b].item() for a, b in itertools.pairwise((2, *o))) for o in openings.tokens
    ]
    measured = paths.log_probabilities(logits, temperature)
    assert measured.tolist() == pytest.approx(expected, abs=1e-5)


def test_margins_equal_sums_over_all_continuations(tmp_path) -> None:
    """With openings of one and two tokens, every continuation of two tokens is counted once."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_backbone(tmp_path / "m", vocab_size=11))
    openings = RefusalOpenings(((3,), (4, 5)), 1.0, 1.0)
    prompt = [0, 7, 2]
    with torch.no_grad():
        first = model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        second = model(input_ids=torch.tensor([[*prompt, 4]])).logits[0, -1].softmax(-1)
        total = sum(
            first[a] * (second[b] if a == 4 else 1 / 11)
            for a in range(11)
            for b in range(11)
            if a == 3 or (a, b) == (4, 5)
        )
        rows = [opening_examples(prompt, openings)[n] for n in (0, 1)]
        values = [
            label_log_probabilities(
                model(input_ids=torch.tensor([ids])).logits, torch.tensor([labels])
            )
            for ids, labels in rows
        ]
    margin = margins(torch.cat(values)[None])
    assert margin.item() == pytest.approx(math.log(float(total) / (1 - float(total))), abs=1e-5)


def test_a_certain_refusal_has_a_finite_margin() -> None:
    assert 10 < margins(torch.zeros(1, 1)).item() < 20
