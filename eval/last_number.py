"""The number that a text ends with, as GSM8K's scoring wants it, in the forms that models write.

What is a number is decided by what stands around it: a hyphen is a sign only where no value stands
before it, a comma groups digits only in threes. A percentage, a price and a measure count by their
number.
"""

import re

_SPACES = re.compile(r"\\[,;:> ]|~|[\u00a0\u2009\u202f]")
"""LaTeX's and Unicode's thin and fixed spaces, which may group digits."""
_BOX = r"\boxed{"

_NUMBER = re.compile(
    r"\\[dt]?frac\{(?P<over>-?\d+)\}\{(?P<under>\d+)\}"
    r"|(?P<whole>(?<![\d/.,])\d+) (?P<part>\d+)/(?P<parts>\d+)(?![\d/])"
    r"|(?P<top>(?<![\d/.,])\d+)/(?P<bottom>\d+)(?![\d/])"
    # In threes, the same separator all along, and no digit or list that goes on.
    r"|(?P<digits>(?:\d{1,3}(?P<gap>[, '\u2019_])\d{3}(?:(?P=gap)\d{3})*(?!\d|(?P=gap)\d)"
    r"|\d{1,3}(?:\.\d{3}){2,}(?!\.?\d)|\d+)(?:\.\d+)?|(?<![\d.])\.\d+)"
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\d)"
    r"|\s?(?:[\u00d7x*\u00b7]|\\times|\\cdot)\s?10\s?\^\s?\{?(?P<power>[-+]?\d{1,4})\}?)?"
)
_CURRENCY = re.compile(r"\\?[$\u20ac\u00a3\u00a5]\s?$")
_EXPONENT = re.compile(r"\^[({]?-?$")
_MINUS = re.compile(r"(?:^|[^\w)\]}%.])-$|[=(<>\u2248]\s?-\s$")
"""A sign: no value, word or closing bracket stands before it."""
_BEFORE = 6
"""Characters before a number that can say something of it."""


def last_number(text: str) -> float | None:
    """The value of the last number in a text; of its last ``\\boxed{}`` where that has one.

    ``10-15`` ends with 15, ``1,2,3`` with 3, ``8{,}000`` is 8000, ``$-5`` is -5, ``.5`` and ``1/2``
    are a half, ``2 1/2`` is 2.5, ``1.2e3`` and ``1.2 \\times 10^3`` are 1200. ``None`` without any.
    """
    boxed = _last_box(text)
    found = None if boxed is None else _last(boxed)
    return _last(text) if found is None else found


def _last(text: str) -> float | None:
    plain = _plain(text)
    found = None
    for match in _NUMBER.finditer(plain):
        before = plain[max(0, match.start() - _BEFORE) : match.start()]
        if not _EXPONENT.search(before):
            sign = -1 if _MINUS.search(_CURRENCY.sub("", before)) else 1
            found = sign * _value(match)
    return found


def _plain(text: str) -> str:
    """The text with one hyphen, one kind of space, and without LaTeX's ways to set digits."""
    text = re.sub(r"[\u2010-\u2013\u2212\ufe63\uff0d]", "-", text)
    text = text.replace(r"\!", "").replace("{,}", ",").replace(r"{\,}", " ")
    return _SPACES.sub(" ", text)


def _value(match: re.Match[str]) -> float:
    part = match.groupdict()
    if part["under"]:
        return _ratio(part["over"], part["under"])
    if part["parts"]:
        fraction = _ratio(part["part"], part["parts"])
        # Only a proper fraction makes a mixed number: else two numbers stand side by side.
        return fraction + (float(part["whole"]) if fraction < 1 else 0.0)
    if part["bottom"]:
        return _ratio(part["top"], part["bottom"])
    digits = part["digits"]
    digits = digits.replace(".", "") if digits.count(".") > 1 else digits
    digits = re.sub(r"[, '\u2019_]", "", digits)
    return float(f"{digits}e{part['e'] or part['power'] or 0}")


def _ratio(top: str, bottom: str) -> float:
    """Their quotient; the last of the two where there is none."""
    return float(top) / float(bottom) if float(bottom) else float(bottom)


def _last_box(text: str) -> str | None:
    """What the last ``\\boxed{...}`` holds, up to its closing brace or the text's end."""
    start = text.rfind(_BOX)
    if start < 0:
        return None
    start += len(_BOX)
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]
