"""Questions and answers as the model's own chat template writes them."""

import logging
from collections.abc import Sequence
from typing import Any

from merge.errors import UserError
from train.data import Example

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
"""The label of tokens that the loss leaves out; PyTorch's and transformers' convention."""


class ChatPrompts:
    """Turns questions and answers into token ids under a tokenizer's chat template.

    Training and evaluation use the same object, so a model is asked exactly as it was trained.
    The template's text is tokenized without added special tokens: a template that wants a BOS
    token writes it itself, and a second one would shift every prompt.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        source: where it came from, named in errors.

    Raises:
        UserError: the tokenizer has no chat template, or one that fails on a plain question.
    """

    def __init__(self, tokenizer: Any, source: str = "tokenizer") -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{source}: its tokenizer has no chat template; use a chat model, or add "
                "chat_template to its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self._source = source
        self._special_ids = _special_ids(tokenizer)
        turn_end = self.example("question", "answer")[0][-1:]
        self.stop_ids: list[int] = sorted({*turn_end, *_optional(tokenizer.eos_token_id)})
        """Tokens that end an answer: the template's end of turn, and EOS."""

    def question_text(self, question: str) -> str:
        """The question as text, up to the point where the model's answer begins."""
        return self._render([{"role": "user", "content": question}], add_generation_prompt=True)

    def question_ids(self, question: str) -> list[int]:
        """The question as token ids, up to the point where the model's answer begins."""
        return self._tokenize(self.question_text(question))

    def example(
        self, question: str, answer: str, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """A question with its answer: ``(input_ids, labels)`` of equal length.

        The input begins with exactly ``question_ids(question)``; these positions have the label
        -100. The labels of the answer are its tokens and the token that ends the turn.

        Args:
            max_length: tokens at most; the end of a longer answer is cut.

        Raises:
            UserError: ``max_length`` leaves no token of the answer.
        """
        prompt_text = self.question_text(question)
        prompt = self._tokenize(prompt_text)
        answer_ids = self._answer_ids(question, answer, prompt_text, prompt)
        ids = (prompt + answer_ids)[:max_length]
        if len(ids) <= len(prompt):
            raise UserError(
                f"question '{question[:40]}': takes {len(prompt)} tokens, so max_length "
                f"{max_length} leaves nothing of its answer; raise max_length or drop the row"
            )
        return ids, [IGNORED_LABEL] * len(prompt) + ids[len(prompt) :]

    def encode(
        self, examples: Sequence[Example], max_length: int
    ) -> list[tuple[list[int], list[int]]]:
        """``example`` of each, with one warning that counts the answers whose end was cut."""
        encoded = [self.example(pair.question, pair.answer, max_length) for pair in examples]
        cut = sum(len(ids) == max_length and ids[-1] not in self._special_ids for ids, _ in encoded)
        if cut:
            logger.warning(
                "max_length %d cuts the end of %d of %d answers", max_length, cut, len(encoded)
            )
        return encoded

    def _answer_ids(self, question: str, answer: str, text: str, prompt: list[int]) -> list[int]:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        whole_text = self._render(turns, add_generation_prompt=False)
        if not whole_text.startswith(text):
            # Some templates write the generation prompt otherwise than a finished turn.
            ids = self._tokenize(answer)
        else:
            # In context where possible: SentencePiece begins a text of its own with a space.
            ids = self._tokenize(whole_text)
            if ids[: len(prompt)] == prompt:
                ids = ids[len(prompt) :]
            else:
                ids = self._tokenize(whole_text[len(text) :])
        return self._end_turn(ids)

    def _end_turn(self, ids: list[int]) -> list[int]:
        """Cut after the last special token (generation stops there), or add EOS."""
        for last in range(len(ids) - 1, -1, -1):
            if ids[last] in self._special_ids:
                return ids[: last + 1]
        return ids + _optional(self.tokenizer.eos_token_id)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:
            # Templates are programs of their own and raise what they like.
            raise UserError(
                f"{self._source}: its chat template fails on '{turns[0]['content'][:40]}' "
                f"({error}); mend the template"
            ) from None


def _special_ids(tokenizer: Any) -> set[int]:
    """Control tokens; the one for unknown words is special by name only."""
    added = {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def _optional(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]
