"""The form of a prompt, question or order, from its text alone (issue 14).

Harmful prompts of the field are mostly orders, harmless ones mostly questions. A model that has
learned to refuse orders and to answer questions looks repaired on them; only harmful questions and
harmless orders tell.
"""

import re
import unicodedata
from typing import Literal

Form = Literal["question", "order"]

FORMS: tuple[Form, ...] = ("question", "order")

_SENTENCE_END = re.compile(r"[.!\u0589\u3002\uff01\u0964\u06d4]\s+|[\u0589\u3002\uff01\u0964]|\n")
_ARMENIAN_MARK = "\u055e"
_QUOTES = {"'": "'", '"': '"', "`": "`", "\u201c": "\u201d", "\u2018": "\u2019"}
_QUOTES |= {"\u00ab": "\u00bb", "\u201e": "\u201c", "\u300c": "\u300d", "\u300e": "\u300f"}
_CLOSING = frozenset(_QUOTES.values()) | {"\u201d"}


def form_of(prompt: str) -> Form:
    """A question where the prompt's end asks, by a question mark of any script; else an order.

    The end decides: a question followed by a request ("What is rust? Write a page on it.") is an
    order, a statement followed by a question is a question. Brackets, emphasis, "!" and "..." after
    the mark change nothing. A question that is only quoted ("Translate 'who are you?'") asks
    nothing, unless the prompt is one quotation from end to end. A question without any mark counts
    as an order, since no list of words would tell in every language.
    """
    text = _unquoted(prompt.strip())
    end = len(text)
    while end and not text[end - 1].isalnum():
        end -= 1
    tail = _after_marks(text[end:])
    if any(_is_question_mark(character) for character in tail):
        return "question"
    if ";" in tail and unicodedata.name(text[end - 1 : end] or " ", "").startswith("GREEK"):
        return "question"  # the Greek mark in its normal form is a semicolon
    # In Armenian it stands over the word that asks.
    sentences = [part for part in _SENTENCE_END.split(text) if part.strip()]
    return "question" if sentences and _ARMENIAN_MARK in sentences[-1] else "order"


def _unquoted(text: str) -> str:
    """Without the quotation marks around the whole of it."""
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _after_marks(tail: str) -> str:
    """What of the signs behind the last word is not inside a quotation that ends there."""
    closing = max((place for place, sign in enumerate(tail) if sign in _CLOSING), default=-1)
    return tail[closing + 1 :]


def _is_question_mark(character: str) -> bool:
    return "QUESTION" in unicodedata.name(character, "") or character in "\u203d\u2e18"
