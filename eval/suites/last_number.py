"""The number that a text ends with, as GSM8K's scoring wants it, in the forms that models write.

What is a number is decided by what stands around it: a hyphen is a sign only where no value stands
before it, a comma groups digits only in threes. A percentage, a price and a measure count by their
number.
"""

import math
import re
import unicodedata

_SPACES = re.compile(r"\\[,;:> ]|~|[\u00a0\u2009\u202f]")
"""LaTeX's and Unicode's thin and fixed spaces, which may group digits."""
_BOX = r"\boxed{"

_VULGAR = re.compile(r"(\d ?)?([\u00bc-\u00be\u2150-\u215e\u2189])")
"""Unicode's fractions of one character, and the end of a whole number before one."""
_SIGNS = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\uff0c\u066c", ",")
    | dict.fromkeys("\uff0e\u066b", ".")
)
"""One hyphen, slash, comma and point each for those of Unicode and of other scripts."""

_PART = r"-?\d[\d,]*(?:\.\d+)?"
_NUMBER = re.compile(
    r"(?:(?P<before>(?<![\d/.,])\d+) ?)?\\(?:[dtcs]|nice)?frac *"
    rf"(?:\{{ *(?P<over>{_PART}) *\}}|(?P<over1>\d)) *"
    rf"(?:\{{ *(?P<under>{_PART}) *\}}|(?P<under1>\d))"
    r"|(?P<whole>(?<![\d/.,])(?:\d{1,3}(?:,\d{3})+|\d+)) (?P<part>\d+)/(?P<parts>\d+)(?![\d/])"
    r"|(?P<top>(?<![\d/.,])\d+)/(?P<bottom>\d+)(?![\d/])"
    # 1.000,50 and 1 000,50: the other way round, where the groups say so.
    r"|(?P<turned>(?<![\d.,])\d{1,3}(?P<between>[. '\u2019])\d{3}(?:(?P=between)\d{3})*,\d{1,2})"
    r"(?![\d,]|\.\d)"
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

    ``10-15`` ends with 15, ``1,2,3`` with 3, ``8{,}000`` is 8000, ``1.000,50`` is 1000.5, ``$-5``
    is -5, ``.5``, ``1/2`` and ``\\frac12`` are a half, ``2 1/2`` is 2.5, ``1.2e3`` and
    ``1.2 \\times 10^3`` are 1200. ``None`` without any, or where it is more than a float holds.
    """
    boxed = _last_box(text)
    number = None if boxed is None else _last(boxed)
    return _last(text) if number is None else number


def _last(text: str) -> float | None:
    plain = _plain(text)
    number = None
    for match in _NUMBER.finditer(plain):
        before = plain[max(0, match.start() - _BEFORE) : match.start()]
        if not _EXPONENT.search(before):
            sign = -1 if _MINUS.search(_CURRENCY.sub("", before)) else 1
            number = sign * _value(match)
    return number if number is not None and math.isfinite(number) else None


def _plain(text: str) -> str:
    """The text with one hyphen, one kind of space, and without LaTeX's ways to set digits."""
    # LaTeX's dashes are hyphens in a row.
    text = re.sub("--+", "\u2014", text).translate(_SIGNS)
    text = text.replace(r"\!", "").replace("{,}", ",").replace(r"{\,}", " ")
    return _VULGAR.sub(_written_out, _SPACES.sub(" ", text))


def _written_out(match: re.Match[str]) -> str:
    whole, fraction = match.groups()
    plain = unicodedata.normalize("NFKC", fraction).replace("\u2044", "/")
    return plain if whole is None else f"{whole.rstrip()} {plain}"


def _value(match: re.Match[str]) -> float:
    part = match.groupdict()
    top, bottom = part["over"] or part["over1"], part["under"] or part["under1"]
    if top is not None:
        return _mixed(part["before"], _ratio(top, bottom))
    if part["parts"]:
        return _mixed(part["whole"], _ratio(part["part"], part["parts"]))
    if part["bottom"]:
        return _ratio(part["top"], part["bottom"])
    if part["turned"]:
        return float(re.sub(r"[. '\u2019]", "", part["turned"]).replace(",", "."))
    digits = part["digits"]
    digits = digits.replace(".", "") if digits.count(".") > 1 else digits
    digits = re.sub(r"[, '\u2019_]", "", digits)
    return float(f"{digits}e{part['e'] or part['power'] or 0}")


def _mixed(whole: str | None, fraction: float) -> float:
    """Only a proper fraction makes a mixed number: else two numbers stand side by side."""
    if whole is None or not 0 <= fraction < 1:
        return fraction
    return float(whole.replace(",", "")) + fraction


def _ratio(top: str, bottom: str) -> float:
    """Quotient of the two numbers; the second one where they have none."""
    over, under = (float(part.replace(",", "")) for part in (top, bottom))
    return over / under if under else under


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
