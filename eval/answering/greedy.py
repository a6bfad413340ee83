"""Plain decoding, which the baselines at decoding time change."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from eval.answering.generation import Question, generate
from train.chat.prompts import ChatPrompts


class Greedy:
    """The likeliest token at every step."""

    def __init__(self, chat: ChatPrompts) -> None:
        self.chat = chat

    def question(
        self,
        prompt: str,
        max_new_tokens: int,
        chat: ChatPrompts | None = None,
        begun: Sequence[int] = (),
    ) -> Question:
        """A prompt as the model is asked it.

        Args:
            chat: another one than the decoding's own, with reasoning on or off.
            begun: tokens of the answer that are given.
        """
        return Question([*(chat or self.chat).question_ids(prompt), *begun], max_new_tokens)

    def generate(
        self,
        model: PreTrainedModel,
        questions: Sequence[Question],
        eos_ids: frozenset[int],
        batch_tokens: int,
    ) -> Iterator[dict[int, list[int]]]:
        """As ``eval.answering.generation.generate``, with logits as ``adjusted``."""
        return generate(model, questions, eos_ids, batch_tokens, self.adjusted)

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        """See ``eval.answering.generation.Adjust``."""
        del step
        return logits[0]
