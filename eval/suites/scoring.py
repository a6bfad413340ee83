"""Utility answers: does the completion say the wanted thing?"""

import re

from eval.suites.last_number import last_number

_EDGE = re.compile(r"^[\s\"'*_`.,:;!?]+|[\s\"'*_`.,:;!?]+$")
_LABEL = re.compile(r"(?<!\w)\(?(\w)\)")
"""The label of an option: (B), or B)."""


def is_correct(completion: str, answer: str, scoring: str) -> bool:
    """Whether a completion counts as right.

    Both are compared in lower case, with single spaces and no spaces around punctuation.
    ``exact``: the same text, but for quotes and punctuation at its edges. ``contains``: the
    answer stands in it as whole words, so that "2" is not found in "12". ``final_words``: its last
    words are the answer, as for BBH; of an answer that is a label, as "(B)", the last label counts,
    which its option's text may follow. ``final_number``: the last number of both has the same
    value, as for GSM8K, whose answers reason first.
    """
    if scoring == "final_number":
        wanted_number = last_number(answer)
        return wanted_number is not None and last_number(completion) == wanted_number
    given, wanted = _plain(completion), _plain(answer)
    if scoring == "exact":
        return given == wanted
    if scoring == "final_words":
        label = re.fullmatch(r"\((\w)\)", wanted)
        return _last_label(completion) == label[1] if label else _ends_with(given, wanted)
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None


def _last_label(completion: str) -> str | None:
    """The last label of an option, in lower case; without any in parentheses, a last bare letter.

    A bare letter inside a sentence is a capital: a completion that was cut may end with "a".
    """
    labels = _LABEL.findall(completion)
    if labels:
        return labels[-1].lower()
    bare = re.search(r"(?:^\W*\w|(?<!\w)[A-Z])\W*$", completion)
    return _plain(bare[0]) if bare else None


def _ends_with(given: str, wanted: str) -> bool:
    """Whether a text ends with another one as whole words, but for quotes and brackets behind it.

    Of an answer without any word, as BBH's brackets to be closed, all signs at the end count.
    """
    if not re.search(r"\w", wanted):
        signs = re.sub(r".*\w", "", given, flags=re.DOTALL)
        return _EDGE.sub("", signs).replace(" ", "") == wanted.replace(" ", "")
    # A sign or a digit before it makes another number of it: -8 is not 8.
    return re.search(rf"(?<![\w.,/-]){re.escape(wanted)}\W*$", given) is not None


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", text.lower())
    text = re.sub(r" ([.,!?;:])", r"\1", text)
    return _EDGE.sub("", text)
