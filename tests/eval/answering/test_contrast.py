"""ROSE and SafeDecoding, against loops in plain torch: prompt by prompt, without a cache."""

from pathlib import Path

import pytest
import torch

from eval.answering.decoding import prepare
from eval.answering.plain_decoding import Decoding
from eval.decoding_settings import ExpertMixture, ReversePrompt
from tests.eval.answering.test_decoding import LENGTH, PROMPTS
from tests.eval.answering.test_decoding import _answers as answers_of
from tests.eval.answering.test_decoding import _logits as logits_of
from tests.eval.answering.test_decoding import _naive as naive
from tests.support.eval_models import make_model, make_tokenizer, save_model
from train.chat.prompts import ChatPrompts


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("before", ["", "two plus "])
def test_rose_equals_a_loop_over_both_prompts(alpha: float, before: str):
    """z - alpha z_reverse; alpha 0 without a prompt is plain decoding."""
    model, chat = make_model(), ChatPrompts(make_tokenizer())
    settings = ReversePrompt(alpha=alpha, prompt=before.strip(), reverse_prompt="blip it first")

    def contrasted(prompt: str, answer: list[int]) -> torch.Tensor:
        plain = logits_of(model, chat.question_ids(before + prompt) + answer)[-1]
        other = logits_of(model, chat.question_ids("blip it first " + prompt) + answer)[-1]
        return plain - alpha * other

    answers = answers_of(prepare(settings, model, chat), model)
    assert answers == naive(contrasted)
    assert (answers == answers_of(Decoding(chat), model)) is (alpha == 0.0 and not before)


@pytest.mark.parametrize(("tokens", "common"), [(1, 1), (2, 5), (4, 3), (LENGTH, 2)])
def test_safe_decoding_equals_the_papers_two_steps(tmp_path: Path, tokens: int, common: int):
    """The sample space grown token by token, p + alpha (p_expert - p) there; then plain."""
    model, expert = make_model(0), make_model(1)
    chat = ChatPrompts(make_tokenizer())
    settings = ExpertMixture(
        expert=save_model(tmp_path, seed=1), alpha=3.0, tokens=tokens, common=common
    )

    def mixed(prompt: str, answer: list[int]) -> torch.Tensor:
        ids = chat.question_ids(prompt) + answer
        own = logits_of(model, ids)[-1]
        if len(answer) >= tokens:
            return own
        base, better = own.softmax(-1), logits_of(expert, ids)[-1].softmax(-1)
        size = common
        space: set[int] = set()
        while len(space) < common:
            space = set(base.topk(size).indices.tolist()) & set(better.topk(size).indices.tolist())
            size += 1
        probabilities = torch.zeros_like(base)
        for token in space:
            probabilities[token] = max(
                float(base[token] + 3.0 * (better[token] - base[token])), 1e-8
            )
        return probabilities

    answers = answers_of(prepare(settings, model, chat), model)
    assert answers == naive(mixed)
    assert answers != answers_of(Decoding(chat), model)
    assert len(answers) == len(PROMPTS)
