"""The leads of right answers, against plain forward passes and the evaluation's own verdict."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from eval.answering.choices import ChoiceQuestion, likelihoods
from launch.search.margins.utility_leads import UtilityLeads, UtilityQuestion, spaced
from tests.support.architectures import make_model
from train.data.batches import collate

CHOICES = UtilityQuestion(ChoiceQuestion([3, 9, 11, 4], [[5, 6], [7], [2, 8, 1]]), right=1)
EXACT = UtilityQuestion(ChoiceQuestion([8, 2, 6], [[12, 5, 3]]), right=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    torch.manual_seed(0)
    folder = make_model("llama", tmp_path_factory.mktemp("model") / "m")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def log_probabilities(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """[answer tokens, vocabulary], by one forward pass of one row without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def lead_of_choices(model: PreTrainedModel) -> float:
    prompt = list(CHOICES.question.prompt_ids)
    means = [
        float(np.mean([row[token] for row, token in zip(rows, choice, strict=True)]))
        for choice in CHOICES.question.choices
        for rows in [log_probabilities(model, prompt, list(choice)).numpy()]
    ]
    return means[1] - max(means[0], means[2])


def lead_of_exact(model: PreTrainedModel) -> float:
    answer = list(EXACT.question.choices[0])
    rows = log_probabilities(model, list(EXACT.question.prompt_ids), answer).numpy()
    ahead = []
    for row, token in zip(rows, answer, strict=True):
        others = np.delete(row, token)
        ahead.append(row[token] - others.max())
    return float(min(ahead))


def test_leads_are_those_of_plain_forward_passes(model: PreTrainedModel) -> None:
    """Measured in batches, and by the logits that derivatives are taken of."""
    expected = [lead_of_choices(model), lead_of_exact(model)]
    # One question of either kind has no spread: its lead stays as it is.
    leads = UtilityLeads(model, [CHOICES, EXACT], 4096)
    assert leads.measure(model) == pytest.approx(expected, abs=1e-5)
    closest = leads.closest(model, [0, 1])
    assert [len(question.question.choices) for question in closest] == [2, 1]
    for question, lead in zip([CHOICES, EXACT, *closest], expected * 2, strict=True):
        rows, first = question.examples(), len(question.question.prompt_ids) - 1
        batch = collate(rows, range(len(rows)))
        logits = model(batch.input_ids, attention_mask=batch.attention_mask).logits[:, first:]
        measured = question.lead(logits, batch.labels[:, first:])
        assert measured.item() == pytest.approx(lead, abs=1e-5)


def test_a_lead_above_nothing_is_a_right_answer(model: PreTrainedModel) -> None:
    """Exact answers: what greedy decoding writes, and what it does not."""
    prompt = [8, 2, 6]
    written: list[int] = []
    for _ in range(3):
        written.append(int(log_probabilities(model, prompt, [*written, 0])[-1].argmax()))
    wrong = [*written[:2], (written[2] + 1) % 13]
    questions = [UtilityQuestion(ChoiceQuestion(prompt, [each]), 0) for each in (written, wrong)]
    leads = UtilityLeads(model, questions, 4096).backbone
    assert leads[0] > 0 > leads[1]
    greedy = [row[0].lead > 0 for row in likelihoods(model, [q.question for q in questions], 4096)]
    assert greedy == [True, False]


def test_leads_of_either_kind_are_in_units_of_their_spread(model: PreTrainedModel) -> None:
    draw = np.random.default_rng(0)
    questions = [
        UtilityQuestion(ChoiceQuestion(draw.integers(1, 13, 4).tolist(), choices), 0)
        for choices in ([[5], [6]], [[7]])
        for _ in range(8)
    ]
    leads = UtilityLeads(model, questions, 4096)
    assert [leads.backbone[:8].std(), leads.backbone[8:].std()] == pytest.approx([1, 1])
    plain = leads.backbone * [leads.spread(place) for place in range(16)]
    alone = UtilityLeads(model, questions[3:4], 4096)
    assert plain[3] == pytest.approx(alone.backbone[0], abs=1e-5)


def test_spaced_takes_every_part_of_many() -> None:
    assert spaced([1, 2, 3], 9) == [1, 2, 3]
    assert spaced(list(range(10)), 4) == [0, 2, 5, 7]
