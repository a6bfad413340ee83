"""Decodings that contrast a prompt with another one before the same question."""

from collections.abc import Sequence

import torch

from eval.answering.generation import Question
from eval.answering.greedy import Greedy
from eval.settings import SelfContrast
from train.chat.prompts import ChatPrompts


class SelfContrasted(Greedy):
    """Self-CD (Shi et al., arXiv 2401.17633): less of what a prompt for safety adds.

    Every prompt is asked twice, plainly and with a safety prompt before the question, and both
    are continued with the same tokens. With the logits z of either, as in the authors' released
    code (their SelfCD.py, ratio 2.5),

        z_safe - ratio * (z_safe - z_plain)  =  z_plain + (ratio - 1) * (z_plain - z_safe),

    so a ratio above 1 goes further from the safety prompt than plain decoding does. The question
    stands in the model's own chat template, the safety prompt in the user's turn: some templates
    have no system turn.
    """

    def __init__(self, chat: ChatPrompts, settings: SelfContrast) -> None:
        super().__init__(chat)
        self._settings = settings

    def question(
        self,
        prompt: str,
        max_new_tokens: int,
        chat: ChatPrompts | None = None,
        begun: Sequence[int] = (),
    ) -> Question:
        plain = super().question(prompt, max_new_tokens, chat, begun)
        guided = f"{self._settings.safety_prompt} {prompt}"
        safe = super().question(guided, max_new_tokens, chat, begun)
        return Question(plain.token_ids, max_new_tokens, safe.token_ids)

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        plain, safe = (each.float() for each in logits)
        return safe - self._settings.ratio * (safe - plain)
