"""A template's own text around an answer: where in a finished turn the answer's own text stands."""

from dataclasses import dataclass

from merge.common.errors import UserError
from train.chat.answer import closing_of, opened_block, without_blocks
from train.chat.chat_template import ChatTemplate

_PROBE = "a plain question"
_STAND_IN = "the-answer-stands-here"
"""Stands in for an answer, to find the text around it."""


@dataclass(frozen=True)
class Frame:
    """The text around the answer to one question.

    Attributes:
        asked: the generation prompt.
        before: what stands before the answer's own text; it begins with ``asked``.
        after: what the template writes behind an answer.
        turn: what the template itself writes before an answer in a finished turn.
    """

    asked: str
    before: str
    after: str
    turn: str


class Turns:
    """Finished turns that begin with the generation prompt, whatever the template makes of either.

    Between the generation prompt and the answer stands what the template writes there, such as an
    empty block of reasoning or a channel's header. A block that the generation prompt opens, and
    the finished turn does not close, is closed.

    Raises:
        UserError: the template ignores ``add_generation_prompt``, or writes no answer.
    """

    def __init__(self, template: ChatTemplate, source: str) -> None:
        self._template = template
        self._source = source
        self._closing = ""
        probe = self.frame(_PROBE)
        self._check_header(probe)
        self.opened = opened_block(probe.asked.rpartition(_PROBE)[2])
        """The reasoning that the generation prompt opens, from its tag on; else an empty text."""
        unclosed = opened_block(probe.before.rpartition(_PROBE)[2])
        self._closing = closing_of(unclosed) if unclosed else ""
        self.adds_text = bool(self._closing) or probe.before != probe.asked
        """Whether anything but space stands between generation prompt and answer."""

    def asked(self, question: str) -> str:
        """The text up to the point where the model's answer begins."""
        return self._template.render([{"role": "user", "content": question}], True)

    def frame(self, question: str) -> Frame:
        """The text around any answer to a question."""
        asked = self.asked(question)
        turn, stand_in, after = self._turn(question, _STAND_IN).rpartition(_STAND_IN)
        if not stand_in:
            raise UserError(
                f"{self._source}: its chat template does not write the assistant's answer; use the "
                "template that the model was trained with"
            )
        before = (turn if turn.startswith(asked) else asked) + self._closing
        if not before[len(asked) :].strip():
            before = asked  # a space before the answer is its own: tokenizers merge the two
        return Frame(asked, before, after, turn)

    def finished(self, frame: Frame, question: str, answer: str) -> str:
        """The whole text: the template's own where it holds the whole answer after ``before``.

        Some templates cut an answer where it speaks of reasoning tags.
        """
        whole = self._turn(question, answer)
        text = whole[len(frame.turn) : len(whole) - len(frame.after)]
        framed = whole.startswith(frame.turn) and whole.endswith(frame.after)
        own = frame.turn.startswith(frame.before)
        if own and framed and text.strip() == answer.strip():
            return whole
        return f"{frame.turn if own else frame.before}{answer}{frame.after}"

    def _turn(self, question: str, answer: str) -> str:
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self._template.render(turns, add_generation_prompt=False)

    def _check_header(self, frame: Frame) -> None:
        """A model that is asked without its header continues the user's text."""
        plain = self._template.render([{"role": "user", "content": _PROBE}], False)
        header = without_blocks(frame.turn[len(frame.asked) :]).strip()
        if frame.asked == plain and frame.turn.startswith(frame.asked) and header:
            raise UserError(
                f"{self._source}: its chat template ignores add_generation_prompt: a question ends "
                f"without the header '{header}' that stands before every answer; use a template "
                "that writes it ({% if add_generation_prompt %}...{% endif %})"
            )
