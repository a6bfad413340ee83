"""Plain greedy decoding, the base class of the baselines that change decoding."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from eval.answering.generation import Question, generate
from train.chat.prompts import ChatPrompts


class Decoding:
    """Greedy decoding: the likeliest token at every step. Subclasses change prompts or logits."""

    def __init__(self, chat: ChatPrompts) -> None:
        self.chat = chat

    def question(
        self,
        prompt: str,
        max_new_tokens: int,
        chat: ChatPrompts | None = None,
        begun: Sequence[int] = (),
    ) -> Question:
        """The tokens that the model continues for a prompt.

        Args:
            chat: used in place of the decoding's own chat, for example with reasoning off.
            begun: the first tokens of the answer, where they are given.
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
