"""Greedy generation and choice scoring, against transformers' own generate and plain torch."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from eval.answering.choices import ChoiceQuestion, mean_log_likelihoods
from eval.answering.generation import Question, generate
from eval.answering.token_streams import batches_by_length
from tests.support.eval_models import WORDS, make_model


def _questions(count: int) -> list[Question]:
    draw = random.Random(1)
    return [
        Question(
            [2, *(draw.randrange(5, 5 + len(WORDS)) for _ in range(draw.randint(1, 9))), 3], 12
        )
        for _ in range(count)
    ]


def _transformers_answer(model: Any, ids: torch.Tensor) -> list[int]:
    return model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()


def test_answers_equal_transformers_generate():
    """Left padding, shrinking batches and own limits change no token."""
    model, questions = make_model(), _questions(40)
    answers: dict[int, list[int]] = {}
    for batch in generate(model, questions, frozenset({1}), batch_tokens=200):
        answers.update(batch)
    for index, question in enumerate(questions):
        ids = torch.tensor([question.token_ids])
        whole = _transformers_answer(model, ids)
        assert answers[index] == (whole[: whole.index(1)] if 1 in whole else whole)
    lengths = {len(answer) for answer in answers.values()}
    assert len(lengths) > 3, "the model must end its answers at different places"


def test_each_question_keeps_its_own_limit():
    questions = [Question([2, 6, 3], 1), Question([2, 6, 3], 5), Question([2, 7, 3], 3)]
    answers: dict[int, list[int]] = {}
    for batch in generate(make_model(), questions, frozenset(), batch_tokens=1000):
        answers.update(batch)
    assert [len(answers[index]) for index in range(3)] == [1, 5, 3]
    assert answers[1][:1] == answers[0]


def test_batches_hold_every_row_once_within_the_budget():
    draw = random.Random(2)
    widths = [draw.randint(1, 50) for _ in range(100)] + [500]
    batches = batches_by_length(widths, batch_tokens=120)
    assert sorted(index for batch in batches for index in batch) == list(range(101))
    assert all(len(b) == 1 or len(b) * max(widths[i] for i in b) <= 120 for b in batches)
    assert batches[0] == [100]


def test_batches_of_similar_width_are_little_padded():
    """A busy batch takes no narrow row; filled batches are a fifth longer than the rows."""
    draw = random.Random(5)
    widths = [draw.randint(20, 200) for _ in range(400)]

    def padded(alike: float) -> int:
        batches = batches_by_length(widths, 16384, alike)
        assert sorted(index for batch in batches for index in batch) == list(range(400))
        for batch in batches:
            narrowest, widest = (of(widths[index] for index in batch) for of in (min, max))
            assert len(batch) * widest <= 16384
            if len(batch) * widest > 2048 + widest:
                assert narrowest >= alike * widest
        return sum(len(batch) * max(widths[index] for index in batch) for batch in batches)

    assert padded(0.8) < 1.12 * sum(widths)
    assert padded(0.0) > 1.2 * sum(widths)


def test_log_likelihood_equals_one_example_at_a_time():
    """Though a prompt is read once for all choices, of other lengths and numbers in one batch."""
    model, draw = make_model(), random.Random(3)
    questions = [
        ChoiceQuestion(
            question.token_ids,
            [
                [draw.randrange(5, 5 + len(WORDS)) for _ in range(draw.randint(1, 4))]
                for _ in range(draw.randint(2, 5))
            ],
        )
        for question in _questions(12)
    ]
    questions.append(ChoiceQuestion([2, 6, 3], [[7], [8]]))
    # Choices that begin alike, one of them within another.
    questions.append(ChoiceQuestion([2, 5, 3], [[7, 8, 9, 6], [7, 8, 5], [7], [9, 5], [7, 8, 9]]))
    for budget in (1, 150, 10_000):
        scores = mean_log_likelihoods(model, questions, batch_tokens=budget)
        for question, row in zip(questions, scores, strict=True):
            assert len(row) == len(question.choices)
            for choice, score in zip(question.choices, row, strict=True):
                ids = [*question.prompt_ids, *choice]
                labels = [*[-100] * len(question.prompt_ids), *choice]
                with torch.no_grad():
                    loss = model(torch.tensor([ids]), labels=torch.tensor([labels])).loss
                torch.testing.assert_close(torch.tensor(-score), loss, atol=1e-5, rtol=1e-5)


def test_the_logits_of_a_batch_are_bounded(monkeypatch: pytest.MonkeyPatch):
    """With a large vocabulary they, not the cache, are what fills the memory."""
    model, draw = make_model(), random.Random(3)
    questions = [
        ChoiceQuestion([2, 6, 3, 7], [[draw.randrange(5, 20) for _ in range(12)] for _ in range(3)])
        for _ in range(16)
    ]
    sizes: list[int] = []
    model.register_forward_hook(lambda *call: sizes.append(call[-1].logits.numel()))
    whole = mean_log_likelihoods(model, questions, batch_tokens=10_000)
    limit = max(sizes) // 3
    sizes.clear()
    monkeypatch.setattr("eval.answering.choices.MOST_LOGITS", limit)
    parted = mean_log_likelihoods(model, questions, batch_tokens=10_000)
    assert limit / 2 < max(sizes) <= limit
    assert np.array(parted) == pytest.approx(np.array(whole), abs=1e-5)


def test_bounded_logits_leave_prompts_of_similar_length_together(monkeypatch: pytest.MonkeyPatch):
    """With a vocabulary of 150,000, short prompts of all lengths once shared a batch: twice the
    tokens."""
    model, draw = make_model(), random.Random(3)
    lengths = [draw.randint(20, 200) for _ in range(100)]
    questions = [
        ChoiceQuestion([draw.randrange(5, 20) for _ in range(length)], [[7] * 8])
        for length in lengths
    ]
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, arguments: read.append(arguments["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr("eval.answering.choices.MOST_LOGITS", 20 * 8 * model.config.vocab_size)
    mean_log_likelihoods(model, questions, batch_tokens=16384)
    assert sum(read) < 1.25 * (sum(lengths) + 100 * 7)
