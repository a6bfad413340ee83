"""Control tokens that a question or an answer spells out are text, and never tokens.

A template's own "<|im_end|>" ends a turn. The same characters in a user's text must not: a person
may ask about them, or try to end the turn (issue 13).
"""

import re
from collections.abc import Mapping
from typing import Any

from merge.common.errors import UserError

# Two of Unicode's noncharacters, which no text holds: a template copies them like letters.
_START, _END = "\ufdd0", "\ufdd1"


class ControlTokens:
    """Marks control tokens inside texts, and tokenizes what a template made of such texts.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        ids: of its control tokens.
        source: where it came from, named in errors.
    """

    def __init__(self, tokenizer: Any, ids: set[int], source: str) -> None:
        self._tokenizer = tokenizer
        self._ids = ids
        self._source = source
        tokens: Mapping[int, Any] = tokenizer.added_tokens_decoder
        # Some tokenizers have one for a line break, which a text may hold as it is.
        spelled = {t.content for id_, t in tokens.items() if id_ in ids and not t.content.isspace()}
        longest_first = sorted(spelled, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._marked = re.compile(f"{_START}({self._spelled.pattern}){_END}|[{_START}{_END}]")

    def marked(self, text: str) -> str:
        """A text of a person, or a model, with marks around what reads like a control token."""
        return self._spelled.sub(f"{_START}\\g<0>{_END}", text)

    @staticmethod
    def unmarked(text: str) -> str:
        """The text without marks."""
        return text.replace(_START, "").replace(_END, "")

    def token_ids(self, text: str) -> list[int]:
        """The ids of a rendered text, without added special tokens; what is marked stays text.

        Raises:
            UserError: the tokenizer knows no other form of what is marked than the control token.
        """
        if _START not in text and _END not in text:
            return self._ids_of(text)
        # Text and marked token in turn; a template that cuts texts may leave one mark alone.
        first, *pieces = self._marked.split(text)
        ids = self._ids_of(first)
        for place, piece in enumerate(pieces):
            if piece and place % 2:
                ids += self._continued(piece)
            elif piece:
                ids += self._spelled_out(piece)
        return ids

    def _spelled_out(self, token: str) -> list[int]:
        """A control token's name as plain text: no part of it is the name."""
        middle = len(token) // 2
        ids = [id_ for part in (token[:middle], token[middle:]) for id_ in self._continued(part)]
        if self._ids.intersection(ids):
            raise UserError(
                f"{self._source}: a text holds '{token}', which its tokenizer cannot read but as a "
                "control token; take it out of the text"
            )
        return ids

    def _continued(self, text: str) -> list[int]:
        """Ids inside a longer text: SentencePiece begins a text of its own with a space."""
        line, ids = self._ids_of("\n"), self._ids_of("\n" + text)
        return ids[len(line) :] if line and ids[: len(line)] == line else self._ids_of(text)

    def _ids_of(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
