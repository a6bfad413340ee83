"""SafeSwitch (Han et al., arXiv 2502.01042): a refusal head that takes over where probers say so.

A prober looks at the last layer's state after the question, and says whether the question is
unsafe; of questions that it finds unsafe, a second one looks at the state after the model's first
tokens, and says whether the model complies. Where both say so, the whole answer is written with
the refusal head in the lm_head's place. Both probers are softmax(W2 relu(W1 h + b1) + b2), and
unsafe is what has at least the threshold as the probability of their second class.

As in the authors' released code but for the training, which is ours in these: cross-entropy of the
probers' logits (theirs takes the softmax of probabilities); states brought to mean 0 and deviation
1, which is part of W1; the refusal head learns the answer's tokens alone (theirs the question's,
too), from the model's own refusals where it refuses (theirs by GPT-4o mini); what the model
complies with is said by our refusal rules (theirs by a judge model).
"""

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from eval.answering.generation import Question, generate
from eval.answering.plain_decoding import Decoding
from eval.answering.safe_switch.training import Learned, headed, last_states
from eval.decoding_settings import Switch
from train.chat.prompts import ChatPrompts


class Switched(Decoding):
    """SafeSwitch, prompt by prompt: the model's own head, or the refusal head."""

    def __init__(self, chat: ChatPrompts, learned: Learned, settings: Switch) -> None:
        super().__init__(chat)
        self._learned = learned
        self._settings = settings

    def generate(
        self,
        model: PreTrainedModel,
        questions: Sequence[Question],
        eos_ids: frozenset[int],
        batch_tokens: int,
    ) -> Iterator[dict[int, list[int]]]:
        if not questions:
            return
        how = (eos_ids, batch_tokens)
        switched = set(self.unsafe(model, questions, *how))
        kept = [index for index in range(len(questions)) if index not in switched]
        yield from _renumbered(kept, super().generate(model, _of(questions, kept), *how))
        if switched:
            group = sorted(switched)
            with headed(model, self._learned.head):
                yield from _renumbered(group, super().generate(model, _of(questions, group), *how))

    def unsafe(
        self,
        model: PreTrainedModel,
        questions: Sequence[Question],
        eos_ids: frozenset[int],
        batch_tokens: int,
    ) -> list[int]:
        """The questions that both probers find unsafe; the second one sees those of the first.

        An answer that ends before its first tokens are all there is looked at where it ends.
        """
        learned, decoded = self._learned, self._settings.decoded
        asked = [question.token_ids for question in questions]
        first = self._says(learned.safety, last_states(model, asked, batch_tokens))
        suspects = [index for index, unsafe in enumerate(first) if unsafe]
        if not suspects:
            return []
        openings = [Question(asked[index], decoded) for index in suspects]
        begun = [list(asked[index]) for index in suspects]
        for batch in generate(model, openings, eos_ids, batch_tokens):
            for place, tokens in batch.items():
                begun[place] += tokens
        second = self._says(learned.response, last_states(model, begun, batch_tokens))
        return [index for index, unsafe in zip(suspects, second, strict=True) if unsafe]

    @torch.inference_mode()
    def _says(self, prober: nn.Sequential, states: torch.Tensor) -> list[bool]:
        unsafe = prober(states).softmax(-1)[:, 1]
        return (unsafe >= self._settings.threshold).tolist()


def _of(questions: Sequence[Question], indices: Sequence[int]) -> list[Question]:
    return [questions[index] for index in indices]


def _renumbered(
    indices: Sequence[int], batches: Iterator[dict[int, list[int]]]
) -> Iterator[dict[int, list[int]]]:
    for batch in batches:
        yield {indices[place]: tokens for place, tokens in batch.items()}
