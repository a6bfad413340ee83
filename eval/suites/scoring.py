"""Utility answers: does the completion say the wanted thing?"""

import re

from eval.suites.last_number import last_number

_EDGE = re.compile(r"^[\s\"'*_`.,:;!?]+|[\s\"'*_`.,:;!?]+$")


def is_correct(completion: str, answer: str, scoring: str) -> bool:
    """Whether a completion counts as right.

    Both are compared in lower case, with single spaces and no spaces around punctuation.
    ``exact``: the same text, but for quotes and punctuation at its edges. ``contains``: the
    answer stands in it as whole words, so that "2" is not found in "12". ``final_number``: the
    last number of both has the same value, as for GSM8K, whose answers reason first.
    """
    if scoring == "final_number":
        wanted_number = last_number(answer)
        return wanted_number is not None and last_number(completion) == wanted_number
    given, wanted = _plain(completion), _plain(answer)
    if scoring == "exact":
        return given == wanted
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", text.lower())
    text = re.sub(r" ([.,!?;:])", r"\1", text)
    return _EDGE.sub("", text)
