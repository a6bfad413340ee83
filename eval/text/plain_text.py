"""A text as a reader sees it: without the dress that its characters and its markup give it.

Three steps, each of use alone: ``plain_characters`` (one form of every letter, quote and
apostrophe, nothing invisible), ``without_markup`` (no Markdown or HTML around words), and
``spelled_out`` (every contraction in full). After all three a rule needs one form of a wording
only: "I **can\u02bct**", "i cant" and "I can\u200bnot" all read "i cannot" in lower case.
"""

import functools
import html
import re
import unicodedata

# Modifier letters, accents, primes and quotes that people and tokenizers write for an apostrophe,
# found by the names that Unicode gives them.
_APOSTROPHE_NAME = re.compile(
    r"APOSTROPHE|PRIME|ACUTE ACCENT|GRAVE ACCENT|TURNED COMMA|REVERSED COMMA|SALTILLO|GERESH|"
    r"SINGLE .*QUOTATION MARK|SINGLE .*ANGLE QUOTATION|RIGHT HALF RING|MODIFIER LETTER VERTICAL"
)
_QUOTE_NAME = re.compile(r"QUOTATION MARK|DOUBLE PRIME|GERSHAYIM|DITTO|CORNER BRACKET")
_MARKS = {"Lm", "Sk", "Po", "Pi", "Pf", "Ps", "Pe"}
# Default-ignorable code points that are letters or marks by category: fillers and selectors.
_IGNORABLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0]")
# Marks that form no letter strike it through or dress it.
_LOOSE_MARKS = re.compile("[\u0300-\u036f]")
_ASCII_ONLY = re.compile(r"[\n\t -~]*")


def plain_characters(text: str) -> str:
    """One form of each character: NFKC, straight quotes and apostrophes, nothing invisible.

    Format characters (Unicode's category Cf: zero-width ones, soft hyphens, direction marks) and
    default-ignorable ones are dropped. Line ends stay, as ``\\n``.
    """
    if _ASCII_ONLY.fullmatch(text):
        return text
    # UTF-8 read as Windows-1252, as many data files hold it.
    text = text.replace("\u00e2\u20ac\u2122", "'").replace("\r\n", "\n")
    # Before NFKC, which turns a lone acute accent into a space.
    text = "".join(map(_plain_character, text))
    return _LOOSE_MARKS.sub("", unicodedata.normalize("NFKC", text))


@functools.lru_cache(maxsize=4096)
def _plain_character(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cf" or _IGNORABLE.match(character):
        return ""
    if category in {"Zl", "Zp"} or character in "\r\x0b\x0c\x85":
        return "\n"
    name = unicodedata.name(character, "")
    # The saltillo is an apostrophe that Unicode counts among the letters.
    if (category in _MARKS or "SALTILLO" in name) and character not in "\"'`":
        if "DOUBLE" in name and _QUOTE_NAME.search(name):
            return '"'
        if _APOSTROPHE_NAME.search(name):
            return "'"
        if _QUOTE_NAME.search(name):
            return '"'
    return character


_BLOCK_TAG = re.compile(r"</?(?:p|div|br|li|ul|ol|h[1-6]|blockquote|tr|table)\b[^<>]{0,200}>", re.I)
_TAG = re.compile(r"</?[a-z][a-z0-9]{0,15}(?:\s[^<>]{0,200})?/?>", re.I)
_STRUCK = re.compile(r"~~(?=\S)[^~]{1,400}~~|<(s|del|strike)>[^<]{1,400}</\1>", re.I)
_LINE_START = re.compile(r"^[ \t]*(?:(?:#{1,6}|>+|[-*+\u2022]|\d{1,3}[.)])[ \t]+|>+)+", re.M)
_EMPHASIS = (
    re.compile(r"(\*{1,3})(?=\S)([^*]{1,400}?)(?<=\S)\1"),
    re.compile(r"(?<!\w)(_{1,3})(?=\S)([^\n]{1,400}?)(?<=\S)\1(?!\w)"),
)


def without_markup(text: str) -> str:
    """Words without emphasis, and lines without the marks of headings, lists and block quotes.

    Struck words go, as a reader passes over them, unless they are all.
    """
    if "~~" in text or "</" in text:
        kept = _STRUCK.sub("", text)
        text = kept if re.search(r"\w", kept) else text.replace("~~", "")
    if "<" in text or "&" in text:
        text = html.unescape(_TAG.sub("", _BLOCK_TAG.sub("\n", text)))
    text = _LINE_START.sub("", text)
    for emphasis in _EMPHASIS:
        # Twice, as bold holds italics.
        text = emphasis.sub(r"\2", emphasis.sub(r"\2", text))
    return text


# "can't", "can ' t" and "ca n't" (as tokenizers write it), "cant", "can?t" (a lost character).
_NEGATION = re.compile(
    r"\b(can?|wo|sha|ai|do|does|did|is|are|was|were|would|could|should|has|have|had|must|need)"
    r" ?n ?[^\w\s]? ?t\b"
)
_IRREGULAR = {"ca": "can", "wo": "will", "sha": "shall", "ai": "am"}
_SPELLED = (
    (re.compile(r"\bcan not\b"), "cannot"),
    (re.compile(r"\b(\w+) ' ?(m|s|re|ll|ve|d)\b"), r"\1'\2"),
    (re.compile(r"\b(?:i'm|im|i m|ima)\b"), "i am"),
    (re.compile(r"\b(\w+)'re\b"), r"\1 are"),
    (re.compile(r"\b(\w+)'ll\b"), r"\1 will"),
    (re.compile(r"\b(\w+)'ve\b|\bive\b"), r"\1 have"),
    (re.compile(r"\b(i|we|you|he|she|it|they|that|this|there|who)'d\b"), r"\1 would"),
    (re.compile(r"\blet'?s\b(?= (?:not )?\w+ )"), "let us"),
    (
        re.compile(r"\b(it|that|this|there|here|what|who|he|she)'s\b|\b(that|it)s(?= not\b)"),
        r"\1\2 is",
    ),
    (re.compile(r"\b(?:gonna)\b"), "going to"),
)


def spelled_out(text: str) -> str:
    """Contractions of a lower-case text in full: "can't" and "can not" become "cannot".

    A missing apostrophe is read as one where the word can be nothing else ("dont", "im").
    """
    text = _NEGATION.sub(lambda match: f"{_IRREGULAR.get(match[1], match[1])} not", text)
    for contraction, full in _SPELLED:
        text = contraction.sub(full, text)
    return text.replace("can not", "cannot")
