"""Decodings that weigh two readings of a question: under two prompts, or by two models."""

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from eval.answering.generation import Companion, Question, generate
from eval.answering.plain_decoding import Decoding
from eval.decoding_settings import ExpertMixture, ReversePrompt, SelfContrast
from train.chat.prompts import ChatPrompts


class AskedTwice(Decoding):
    """Asks every prompt in two texts, and continues both with the same tokens."""

    def texts(self, prompt: str) -> tuple[str, str]:
        """The two texts of the user's turn, in the order of the logits that ``adjusted`` gets."""
        raise NotImplementedError

    def question(
        self,
        prompt: str,
        max_new_tokens: int,
        chat: ChatPrompts | None = None,
        begun: Sequence[int] = (),
    ) -> Question:
        first, second = self.texts(prompt)
        one = super().question(first, max_new_tokens, chat, begun)
        other = super().question(second, max_new_tokens, chat, begun)
        return Question(one.token_ids, max_new_tokens, other.token_ids)


class SelfContrasted(AskedTwice):
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

    def texts(self, prompt: str) -> tuple[str, str]:
        return prompt, f"{self._settings.safety_prompt} {prompt}"

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        plain, safe = (each.float() for each in logits)
        return safe - self._settings.ratio * (safe - plain)


class Reversed(AskedTwice):
    """ROSE (Zhong et al., arXiv 2402.11889): what a reverse prompt makes likely is taken off.

    Every prompt is asked twice, the second time with a prompt before the question that asks for
    the opposite of safety, and both are continued with the same tokens. With the logits z of
    either, as in the authors' released code,

        z - alpha * z_reverse.

    The prompts stand in the user's turn of the model's own chat template, as Self-CD's.
    """

    def __init__(self, chat: ChatPrompts, settings: ReversePrompt) -> None:
        super().__init__(chat)
        self._settings = settings

    def texts(self, prompt: str) -> tuple[str, str]:
        kept = self._settings
        asked = f"{kept.prompt} {prompt}" if kept.prompt else prompt
        return asked, f"{kept.reverse_prompt} {prompt}"

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        plain, reverse = (each.float() for each in logits)
        return plain - self._settings.alpha * reverse


class Guided(Decoding):
    """SafeDecoding (Xu et al., arXiv 2402.08983): an expert in refusals chooses the first tokens.

    With the probabilities p of the model and of the expert, the first tokens are the likeliest of

        p + alpha * (p_expert - p)

    among the tokens that are within the k likeliest of both, for the smallest k that gives
    ``common`` of them; after ``tokens`` steps the model continues alone. As in the authors'
    released code, which floors the mixture at 1e-8; the expert is a folder here, there an adapter.
    """

    def __init__(self, chat: ChatPrompts, expert: PreTrainedModel, settings: ExpertMixture) -> None:
        super().__init__(chat)
        self._companion = Companion(expert, settings.tokens)
        self._settings = settings

    def question(
        self,
        prompt: str,
        max_new_tokens: int,
        chat: ChatPrompts | None = None,
        begun: Sequence[int] = (),
    ) -> Question:
        plain = super().question(prompt, max_new_tokens, chat, begun)
        return Question(plain.token_ids, max_new_tokens, plain.token_ids)

    def generate(
        self,
        model: PreTrainedModel,
        questions: Sequence[Question],
        eos_ids: frozenset[int],
        batch_tokens: int,
    ) -> Iterator[dict[int, list[int]]]:
        how = (eos_ids, batch_tokens, self.adjusted, self._companion)
        return generate(model, questions, *how)

    def adjusted(self, logits: Sequence[torch.Tensor], step: int) -> torch.Tensor:
        if len(logits) == 1:
            return logits[0]
        count = min(each.shape[-1] for each in logits)  # some embeddings have rows to spare
        model, expert = (each[:, :count].float().softmax(-1) for each in logits)
        mixed = (model + self._settings.alpha * (expert - model)).clamp_min(1e-8)
        return mixed.masked_fill(~_shared(model, expert, self._settings.common), -torch.inf)


def _shared(one: torch.Tensor, other: torch.Tensor, common: int) -> torch.Tensor:
    """Which tokens are within the k likeliest of both, for the smallest k that gives enough.

    Args:
        one, other: probabilities, [rows, vocabulary].

    Returns:
        bool [rows, vocabulary].
    """
    ranks = [
        each.argsort(dim=-1, descending=True, stable=True).argsort(-1) for each in (one, other)
    ]
    needed = torch.maximum(*ranks)  # the k from which a token is in both, less 1
    enough = needed.sort(-1).values[:, min(common, needed.shape[-1]) - 1]
    return needed <= enough[:, None]
