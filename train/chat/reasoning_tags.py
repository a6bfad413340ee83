"""The tags that models write around their reasoning, by one rule instead of a list of models.

A tag is a word for reasoning (``_NAME``) in angles, square brackets, triangles, angles with bars
(``<|...|>``) or escaped angles (``&lt;...&gt;``), in any case and with spaces inside. A slash, or
a word for "end", makes the closing tag. Forms that no rule covers stand in ``_SPECIAL``.
"""

import re

_STRONG = (
    r"(?:think(?:ing)?|thoughts?|reasoning|scratchpad|cot|chain[_-]of[_-]thoughts?|"
    r"(?:inner|internal)[_-]?(?:monologue|thoughts?|thinking|reasoning)|monologue)"
)
"""Words that are no heading and no element of a document; the others may be."""

_WORD = rf"(?:{_STRONG}|reason|rationale|reflection|analysis|plan(?:ning)?)"
# A namespace stands before words that mean nothing else: "seed:think", but not "test_plan".
_NAME = rf"(?:(?:[a-z]{{1,12}}[:_](?=think|thought|reasoning))?{_WORD})"
_SPECIAL = {
    "<|channel>thought": "<channel|>",
    "<unused94>thought": "<unused95>",
    "<|inner_prefix|>": "<|inner_suffix|>",
}
_LEFT, _RIGHT = r"(?:<|&lt;|◁)\s*", r"\s*(?:>|&gt;|▷)"
OPENING = re.compile(
    rf"{_LEFT}{_NAME}(?:\s+\w+=[^<>\n]{{0,80}})?{_RIGHT}|\[\s*{_NAME}\s*\]|"
    rf"<\|\s*(?:(?:begin|start)(?:_of)?_)?{_NAME}(?:_(?:start|begin))?\s*\|>|"
    + "|".join(map(re.escape, _SPECIAL)),
    re.IGNORECASE,
)
CLOSING = re.compile(
    rf"{_LEFT}/\s*{_NAME}{_RIGHT}|\[\s*/\s*{_NAME}\s*\]|"
    rf"<\|\s*(?:/\s*|end_(?:of_)?){_NAME}\s*\|>|<\|\s*{_NAME}_end\s*\|>|"
    + "|".join(map(re.escape, _SPECIAL.values())),
    re.IGNORECASE,
)
_ANSWER = r"(?:final[ _])?(?:answer|response|solution|output)"
_WRAPPER = re.compile(
    rf"<\s*({_ANSWER})\s*>|\[\s*({_ANSWER})\s*\]|<\|(?:begin_of|start)_({_ANSWER})\|>",
    re.IGNORECASE,
)
_WRAPPER_END = re.compile(
    rf"<\s*/\s*({_ANSWER})\s*>|\[\s*/\s*({_ANSWER})\s*\]|<\|end(?:_of)?_({_ANSWER})\|>",
    re.IGNORECASE,
)
_SURELY = re.compile(rf"(?:.*\b|.*_){_STRONG}(?![a-z])|<\|", re.IGNORECASE)
_ROLES = {"begin", "start", "end", "of", "lt", "gt"}


def is_tag_token(token: str) -> bool:
    """Whether a token of a vocabulary is a tag of reasoning or of an answer's wrapper."""
    patterns = (OPENING, CLOSING, _WRAPPER, _WRAPPER_END)
    return token.lower() in {"<|channel>", "<unused94>"} or any(
        pattern.fullmatch(token) for pattern in patterns
    )


def is_sure(opening: str) -> bool:
    """Whether an opening tag can be nothing but one: no element or heading of a document."""
    return bool(_SURELY.match(opening))


def closes(opening: str, closing: str) -> bool:
    """Whether two tags are a pair: the same word in the same kind of brackets."""
    special = _SPECIAL.get(opening.lower())
    if special or closing.lower() in _SPECIAL.values():
        return closing.lower() == special
    return _kind(opening) == _kind(closing)


def closing_of_tag(opening: str) -> str:
    """The closing tag of an opening one, in its spelling: "<|START_X|>" gives "<|END_X|>"."""
    if opening.lower() in _SPECIAL:
        return _SPECIAL[opening.lower()]
    ended = re.sub(
        r"begin|start",
        lambda match: "END" if match[0].isupper() else "end",
        opening,
        count=1,
        flags=re.IGNORECASE,
    )
    if ended != opening:
        return ended
    return re.sub(r"^(<\|?|&lt;|\[|◁)", r"\1/", re.sub(r"\s+\w+=[^<>]*(?=>)", "", opening))


def _kind(tag: str) -> tuple[str, tuple[str, ...]]:
    bare = re.sub(r"\s\w+=.*", "", tag.lower(), flags=re.DOTALL)
    words = tuple(word for word in re.findall(r"[a-z]+", bare) if word not in _ROLES)
    return "<|" if bare.startswith("<|") else bare[0], words


def unwrapped(text: str, whole: bool) -> str:
    """The answer without what some models put around it, such as "<answer>...</answer>".

    Args:
        whole: take off only a wrapper that ends where the text ends, and has but one end; for texts
            without reasoning, which may be documents with such elements.
    """
    start = _WRAPPER.match(text)
    if start is None:
        return text
    inner = text[start.end() :]
    name = (start.lastindex, start[start.lastindex or 0].lower())
    ends = [
        end
        for end in _WRAPPER_END.finditer(inner)
        if (end.lastindex, end[end.lastindex or 0].lower()) == name
    ]
    if whole and (len(ends) != 1 or inner[ends[0].end() :].strip()):
        return text
    return inner[: ends[-1].start()] + inner[ends[-1].end() :] if ends else inner
