"""Questions and answers as the model's own chat template writes them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from merge.common.errors import UserError
from train.chat.answer import answer_of, reasoning_tokens
from train.chat.chat_settings import DEFAULT_CHAT, ChatSettings
from train.chat.chat_template import ChatTemplate
from train.chat.control_tokens import ControlTokens
from train.chat.example import Example
from train.chat.turns import Frame, Turns

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
"""The label of tokens that the loss leaves out; PyTorch's and transformers' convention."""

_PROBE = "a plain question"


class ChatPrompts:
    """Turns questions and answers into token ids under a tokenizer's chat template.

    Training and evaluation use the same object, so a model is asked exactly as it was trained.
    The template's text is tokenized without added special tokens: a template that wants a BOS
    token writes it itself, and a second one would shift every prompt.

    What the template writes between the generation prompt and the answer's own text, as an empty
    block of reasoning or a channel's header, is prompt (issue 13). A block that the generation
    prompt opens, and a finished turn does not, is closed before the answer.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        source: where it came from, named in errors.
        settings: whether the model shall reason, and which day it is.

    Raises:
        UserError: the tokenizer has no chat template; one that fails on a plain question, ignores
            ``add_generation_prompt``, has no end of turn, or no switch for the reasoning asked for.
    """

    def __init__(
        self, tokenizer: Any, source: str = "tokenizer", settings: ChatSettings = DEFAULT_CHAT
    ) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{source}: its tokenizer has no chat template; use a chat model, or add "
                "chat_template to its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.source = source
        self.settings = settings
        self._variants: dict[bool, ChatPrompts] = {}
        self._template = ChatTemplate(tokenizer, source, settings)
        self._special_ids = _special_ids(tokenizer)
        self._control = ControlTokens(tokenizer, self._special_ids, source)
        self._turns = Turns(self._template, source)
        self.opened: str = self._turns.opened
        """The reasoning that the generation prompt opens, from its tag on; else an empty text."""
        turn_end = self.example(_PROBE, "answer")[0][-1:]
        self.stop_ids: list[int] = sorted({*turn_end, *_optional(tokenizer.eos_token_id)})
        """Tokens that end an answer: the template's end of turn, and EOS."""

    def reasoning(self, wanted: bool | None) -> "ChatPrompts":
        """A copy of these prompts with reasoning on or off; ``None`` leaves it as it is.

        Raises:
            UserError: the template has no switch for it.
        """
        if wanted is None or wanted is self.settings.reasoning:
            return self
        if wanted not in self._variants:
            settings = replace(self.settings, reasoning=wanted)
            self._variants[wanted] = ChatPrompts(self.tokenizer, self.source, settings)
        return self._variants[wanted]

    @property
    def recorded(self) -> dict[str, Any]:
        """What prompts depend on besides template and texts: settings that change them, as JSON."""
        return self._template.recorded

    @property
    def follow_the_template(self) -> bool:
        """Whether template and texts alone say what is trained on, and labels begin after the
        generation prompt; older patches know no other prompts."""
        return not self.recorded and not self._turns.adds_text

    @property
    def template_with_settings(self) -> tuple[str, dict[str, Any]]:
        """Template and arguments by which others, as lm-eval, render the same conversations."""
        return self._template.fixed or self._template.text, self._template.arguments

    def question_text(self, question: str) -> str:
        """The question as text, up to the point where the model's answer begins."""
        return self._control.unmarked(self._turns.asked(self._control.marked(question)))

    def question_ids(self, question: str) -> list[int]:
        """The question as token ids, up to the point where the model's answer begins."""
        return self._control.token_ids(self._turns.asked(self._control.marked(question)))

    def answer_start(self, question: str) -> list[int]:
        """The question as token ids, up to where an answer's own text begins: there refusals open.

        With what the template writes before it, as an empty block of reasoning.
        """
        ids, labels = self.example(question, "a")
        return ids[: labels.count(IGNORED_LABEL)]

    def dialogue_ids(self, turns: Sequence[Mapping[str, str]]) -> list[int]:
        """A dialogue of several turns as token ids, up to where the model's next answer begins.

        Args:
            turns: ``{"role": ..., "content": ...}``, the user's last.
        """
        marked = [{**turn, "content": self._control.marked(turn["content"])} for turn in turns]
        return self._control.token_ids(self._template.render(marked, add_generation_prompt=True))

    def example(
        self, question: str, answer: str, max_length: int | None = None
    ) -> tuple[list[int], list[int]]:
        """A question with its answer: ``(input_ids, labels)`` of equal length.

        The input begins with exactly ``question_ids(question)``; these positions, and those of what
        the template writes before the answer's own text, have the label -100. The labels of the
        answer are its tokens and the token that ends the turn. A token across the border belongs
        to the answer. Reasoning that stands before an answer is left out.

        Args:
            max_length: tokens at most; the end of a longer answer is cut.

        Raises:
            UserError: ``max_length`` leaves no token of the answer, or it is reasoning alone.
        """
        own = self.own_answer(question, answer)
        marked = self._control.marked(question)
        frame = self._turns.frame(marked)
        whole = self._turns.finished(frame, marked, self._control.marked(own))
        prompt, answer_ids = self._split_ids(frame, whole)
        ids = (prompt + self._end_turn(answer_ids))[:max_length]
        if len(ids) <= len(prompt):
            raise UserError(
                f"question '{question[:40]}': takes {len(prompt)} tokens, so max_length "
                f"{max_length} leaves nothing of its answer; raise max_length or drop the row"
            )
        return ids, [IGNORED_LABEL] * len(prompt) + ids[len(prompt) :]

    @staticmethod
    def own_answer(question: str, answer: str) -> str:
        """What counts of an answer: what stands after its reasoning.

        Raises:
            UserError: it is reasoning alone.
        """
        own = answer_of(answer)
        if own is None or (answer.strip() and not own):
            raise UserError(
                f"question '{question[:40]}': its answer is reasoning alone; drop the row"
            )
        return own

    def text_ids(self, text: str) -> list[int]:
        """The ids of a person's text alone, in which control tokens are text."""
        return self._control.token_ids(self._control.marked(text))

    def template_ids(self, text: str) -> list[int]:
        """The ids of a template's text, without added special tokens."""
        return self._control.token_ids(text)

    def encode(
        self, examples: Sequence[Example], max_length: int
    ) -> list[tuple[list[int], list[int]]]:
        """``example`` of each, with warnings that count the answers of which a part is left out."""
        encoded = [self.example(pair.question, pair.answer, max_length) for pair in examples]
        cut = sum(len(ids) == max_length and ids[-1] not in self._special_ids for ids, _ in encoded)
        if cut:
            logger.warning(
                "max_length %d cuts the end of %d of %d answers", max_length, cut, len(encoded)
            )
        thoughtful = sum(answer_of(pair.answer) != pair.answer for pair in examples)
        if thoughtful:
            logger.warning(
                "%d of %d answers begin with reasoning, which is left out", thoughtful, len(encoded)
            )
        return encoded

    def decode(self, tokens: Sequence[int]) -> str:
        """What a model wrote, as text without space at its edges.

        Special tokens are dropped, but for those that tell reasoning from answer; where the prompt
        opened a block of reasoning, the text begins with its tag. So ``answer_of`` can read it.
        """
        pieces, plain = [self.opened], []
        for token in tokens:
            if token in self._reasoning_tokens:
                pieces += [self._plain_text(plain), self._reasoning_tokens[token]]
                plain = []
            else:
                plain.append(token)
        return "".join([*pieces, self._plain_text(plain)]).strip()

    def turn_end(self, question: str) -> str:
        """What the template writes behind the answer to a question."""
        return self._turns.frame(self._control.marked(question)).after

    @cached_property
    def _reasoning_tokens(self) -> dict[int, str]:
        tokens = self.tokenizer.added_tokens_decoder
        special = {tokens[id_].content: id_ for id_ in self._special_ids if id_ in tokens}
        return {special[token]: token for token in reasoning_tokens(set(special))}

    def _plain_text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True)) if tokens else ""

    def _split_ids(self, frame: Frame, whole: str) -> tuple[list[int], list[int]]:
        """Token ids of the prompt and of what comes after it."""
        token_ids = self._control.token_ids
        asked = token_ids(frame.asked)
        ids = token_ids(whole)
        if frame.before == frame.asked:
            # In context where possible: SentencePiece begins a text of its own with a space.
            if ids[: len(asked)] == asked:
                return asked, ids[len(asked) :]
            return asked, token_ids(whole[len(frame.asked) :])
        prompt = token_ids(frame.before)
        shared = next(
            (n for n, pair in enumerate(zip(ids, prompt, strict=False)) if pair[0] != pair[1]),
            min(len(ids), len(prompt)),
        )
        if shared >= len(asked) and ids[: len(asked)] == asked:
            return ids[:shared], ids[shared:]
        own_text = token_ids(frame.before[len(frame.asked) :])
        return asked + own_text, token_ids(whole[len(frame.before) :])

    def _end_turn(self, ids: list[int]) -> list[int]:
        """Cut after the last special token (generation stops there), or add EOS."""
        for last in range(len(ids) - 1, -1, -1):
            if ids[last] in self._special_ids:
                return ids[: last + 1]
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"{self.source}: its chat template ends a turn with no special token, and its "
                "tokenizer has no EOS, so no answer would end; set eos_token in "
                "tokenizer_config.json"
            )
        return ids + _optional(self.tokenizer.eos_token_id)


def _special_ids(tokenizer: Any) -> set[int]:
    """Control tokens; the one for unknown words is special by name only."""
    added = {
        token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def _optional(token_id: int | None) -> list[int]:
    return [] if token_id is None else [token_id]
