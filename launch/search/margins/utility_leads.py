"""How far right answers are ahead: the utility that forward passes see (issue 14).

The lead of a question with given choices is by how much the right one's mean log-probability, in
nats per token, exceeds the best other one's. That of a question with an exact answer is by how much
the least sure of its tokens is likelier than the likeliest other token in its place, in nats. It is
above 0 exactly where the question is answered right. Leads of either kind are divided by their
spread over the backbone, so that a lead of 1 is as sure in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from eval.answering.ask import choice_question, prompts_of
from eval.answering.choices import ChoiceQuestion, Likelihood, likelihoods
from eval.suites.prompts import PromptSet
from eval.suites.suite import SuiteRow
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.batches import TokenizedExample
from train.guards.refusal_margin import label_log_probabilities

Value = TypeVar("Value")


@dataclass(frozen=True)
class UtilityQuestion:
    """A question and its right answer.

    Attributes:
        question: with all choices; with the exact answer alone where there are none.
        right: the place of the right choice.
    """

    question: ChoiceQuestion
    right: int

    @property
    def is_exact(self) -> bool:
        """Whether the answer must be written, not chosen."""
        return len(self.question.choices) == 1

    def examples(self) -> list[TokenizedExample]:
        """The prompt with every choice, whose tokens are the labels."""
        prompt = list(self.question.prompt_ids)
        masked = [IGNORED_LABEL] * len(prompt)
        return [([*prompt, *choice], [*masked, *choice]) for choice in self.question.choices]

    def score(self, likelihoods: Sequence[Likelihood]) -> float:
        """Its lead in nats by the likelihoods of its choices, not divided by any spread."""
        if self.is_exact:
            return likelihoods[0].lead
        means = self._means(likelihoods)
        return means[self.right] - means[self._rival(means)]

    def closest(self, likelihoods: Sequence[Likelihood]) -> "UtilityQuestion":
        """The same question, and lead, with the right choice and the likeliest other alone."""
        if self.is_exact:
            return self
        rival = self._rival(self._means(likelihoods))
        choices = [self.question.choices[place] for place in (self.right, rival)]
        return UtilityQuestion(ChoiceQuestion(self.question.prompt_ids, choices), right=0)

    def _means(self, likelihoods: Sequence[Likelihood]) -> list[float]:
        lengths = map(len, self.question.choices)
        return [of.total / length for of, length in zip(likelihoods, lengths, strict=True)]

    def _rival(self, means: Sequence[float]) -> int:
        others = (place for place in range(len(means)) if place != self.right)
        return max(others, key=means.__getitem__)

    def lead(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Its lead by the logits of ``examples``, differentiable, not divided by any spread.

        Args:
            logits: [choices, tokens, vocabulary] from the prompt's last token on, any dtype.
            labels: int64 [choices, tokens] of the same tokens, ``IGNORED_LABEL`` where none is.

        Returns:
            fp32 scalar, in nats.
        """
        if self.is_exact:
            wanted = labels[0, 1:]
            counted = wanted != IGNORED_LABEL
            predicted = logits[0, :-1][counted].float()
            places = wanted[counted][:, None]
            best_other = predicted.scatter(-1, places, -torch.inf).amax(-1)
            return (predicted.gather(-1, places)[:, 0] - best_other).min()
        lengths = (labels[:, 1:] != IGNORED_LABEL).sum(-1)
        means = label_log_probabilities(logits, labels) / lengths
        others = torch.cat([means[: self.right], means[self.right + 1 :]])
        return means[self.right] - others.max()


def utility_questions(
    chat: ChatPrompts, prompt_sets: Sequence[PromptSet], most: int
) -> list[UtilityQuestion]:
    """Those of a suite that forward passes can score, at most so many of either kind."""
    by_kind: dict[bool, list[UtilityQuestion]] = {False: [], True: []}
    for prompt_set in prompt_sets:
        row = prompt_set.row
        if not isinstance(row, SuiteRow) or row.axis != "utility":
            continue
        if row.scoring not in ("choice", "exact"):
            continue
        prompts, is_exact = prompts_of(chat, prompt_set), row.scoring == "exact"
        for prompt in prompt_set.prompts:
            assert prompt.answer is not None
            choices = [prompt.answer] if is_exact else prompt.choices
            question = choice_question(prompts, prompt.text, choices)
            by_kind[is_exact].append(UtilityQuestion(question, choices.index(prompt.answer)))
    return [question for kind in by_kind.values() for question in spaced(kind, most)]


def spaced(values: Sequence[Value], most: int) -> list[Value]:
    """At most so many of the values, evenly spaced."""
    count = min(len(values), most)
    return [values[number * len(values) // count] for number in range(count)]


class UtilityLeads:
    """Measures the leads of some questions, in units of the backbone's spread.

    Args:
        model: with the backbone's weights, by which the spread of either kind is measured.
        batch_tokens: rows x tokens of one batch stay at or below this.
    """

    def __init__(
        self, model: PreTrainedModel, questions: Sequence[UtilityQuestion], batch_tokens: int
    ) -> None:
        self.questions = questions
        self._batch_tokens = batch_tokens
        plain, kinds = self._plain(model), [question.is_exact for question in questions]
        is_exact = np.array(kinds, dtype=bool)
        self._spreads = np.ones(len(questions))
        for kind in filter(np.any, (is_exact, ~is_exact)):
            self._spreads[kind] = plain[kind].std() or 1.0
        self.backbone = plain / self._spreads
        """fp64 [questions]."""

    def measure(self, model: PreTrainedModel) -> np.ndarray:
        """The leads by the weights that the model has, fp64 [questions]."""
        return self._plain(model) / self._spreads

    def closest(self, model: PreTrainedModel, places: Sequence[int]) -> list[UtilityQuestion]:
        """Some questions, each with its right choice and the one that the model holds likeliest."""
        asked = [self.questions[place] for place in places]
        scored = zip(asked, self._scores(model, asked), strict=True)
        return [question.closest(row) for question, row in scored]

    def spread(self, place: int) -> float:
        """What the lead of one question is divided by."""
        return float(self._spreads[place])

    def _plain(self, model: PreTrainedModel) -> np.ndarray:
        scored = zip(self.questions, self._scores(model, self.questions), strict=True)
        return np.array([question.score(row) for question, row in scored], dtype=np.float64)

    def _scores(
        self, model: PreTrainedModel, questions: Sequence[UtilityQuestion]
    ) -> list[list[Likelihood]]:
        return likelihoods(model, [each.question for each in questions], self._batch_tokens)
