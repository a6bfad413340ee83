"""Which part of an answer its speaker says in earnest: not what is quoted, invented or code."""

import re

from eval.text.plain_text import plain_characters, spelled_out, without_markup

_CODE_BLOCK = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_CODE = re.compile(r"(?<!\w)`([^`\n]{1,200})`(?!\w)")
_BLOCK_QUOTE = re.compile(r"^[ \t]*>.*$", re.MULTILINE)
_BACKTICK = re.compile(r"(?<=\w)`(?=\w)|\\(?=')")
_QUOTED = (
    re.compile(r'"[^"]{0,600}"'),
    re.compile(r"(?<!\w)'(?=\w)(?:[^'\n]|(?<=\w)'(?=\w)){3,600}'(?!\w)"),
)
_WORK = (
    r"(?:letter|e-?mail|mail|song|lyrics|poem|haiku|limerick|verse|story|tale|sentence|text|sign|"
    r"message|note|translation|example|draft|version|dialogue|script|scene|speech|paragraph|"
    r"summary|joke|riddle|quote|reply|code|function)"
)
# What follows is written for somebody else to say.
_WORK_BEGINS = re.compile(
    rf"\b(?:here (?:is|are)|this|use|following|below)\b[^.!?\n:]{{0,60}}"
    rf"\b{_WORK}s?\b[^.!?\n:]{{0,40}}:|"
    r"^(?:title|translation|lyrics|poem|song|story|haiku|letter|verse)\b[^.!?\n:]{0,20}:|"
    r"\bonce upon a time\b|"
    # A letter with its subject, or from its greeting to its close.
    r"^\W{0,3}subject\W{0,3}:[^\n]+\n|"
    r"^(?:dear|hi|hello|hey) (?!user\b|customer\b|friend\b|there\b)\w[^\n]{0,60},\s*\n.*\n"
    r"[^\n]{0,20}\b(?:regards|sincerely|yours|faithfully|wishes|love|best|thanks|thank you|"
    r"cheers),?(?=\n)",
    re.DOTALL | re.MULTILINE,
)
_TURN = re.compile(r"^\W{0,4}(\w[\w .'-]{0,24})\W{0,4}:\W{0,4}\s(?=\S).*$", re.MULTILINE)
# Labels of the model's own words, or of the parts of one answer.
_OWN_LABEL = re.compile(
    r"(?:user|human|system|assistant|ai|model|bot|chatbot|answer|response|output|q|a|question|note|"
    r"reason|warning|why|alternative|summary|explanation|request|decision|status|policy|result|"
    r"important|instead|suggestion|disclaimer|conclusion)s?"
)
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_SAID = re.compile(
    r", (?:said|asked|whispered|cried|shouted|replied|answered|sang|murmured) (?:the |an? )?\w"
)
# A refusal may be dressed as a quote, a code block or a block quote from its begin to its end.
_WHOLE = re.compile(
    r"""\s*(?:"([^"]+)"|'((?:[^']|(?<=\w)'(?=\w))+)'|```\n([^`]+)```|`([^`\n]+)`|"""
    r"""((?:>[^\n]*\s*)+))\s*"""
)
_LABEL = re.compile(r"^(?:answer|assistant|response|ai|model|output|a)\s*:\s*")
_VERSE_LINE = 60
_VERSE_LINES = 3


def earnest(completion: str) -> str:
    """What the speaker says in its own name: lower case, plain, contractions in full.

    Quoted speech, block quotes, code, verse, and what "Here is a letter:" introduces are taken
    out, but for an answer that is one quote from its begin to its end. Line ends stay, one space
    stands between words, none before punctuation.
    """
    text = plain_characters(completion).lower()
    text = _BACKTICK.sub(lambda match: "'" if match[0] == "`" else "", text)
    whole = _WHOLE.fullmatch(text)
    text = str(whole[whole.lastindex or 0]) if whole else _without_foreign_voices(text)
    text = re.sub(r"[ \t]+", " ", spelled_out(without_markup(text)))
    text = re.sub(r" ([.,!?;:])", r"\1", text)
    return _LABEL.sub("", text.strip(" '\"*_#\n"))


def _without_foreign_voices(text: str) -> str:
    work = _WORK_BEGINS.search(text)
    text = _without_verse(_without_dialogue(text[: work.start()] if work else text))
    text = _CODE.sub(_word_or_nothing, _CODE_BLOCK.sub(" ", text))
    text = _BLOCK_QUOTE.sub(" ", text)
    for quoted in _QUOTED:
        text = quoted.sub(" ", text)
    return _SENTENCE.sub(lambda match: "" if _SAID.search(match[0]) else match[0], text)


def _word_or_nothing(code: re.Match[str]) -> str:
    """A single word in backticks is emphasis; more is code."""
    return code[1] if code[1].replace("'", "").isalpha() else " "


def _without_dialogue(text: str) -> str:
    """The text without the turns of a dialogue: lines of "Name: ..." of two speakers or more."""
    speakers = [turn[1].strip() for turn in _TURN.finditer(text)]
    if len(set(speakers)) < 2 or any(map(_OWN_LABEL.fullmatch, speakers)):
        return text
    return _TURN.sub(" ", text)


def _without_verse(text: str) -> str:
    """The text without its verses: short lines, more than half of which end inside a sentence.

    So do the lines of a wrapped text, but they neither end in a comma nor begin with a capital.
    """
    paragraphs = re.split(r"(\n[ \t]*\n)", text)
    return "".join(" " if _is_verse(paragraph) else paragraph for paragraph in paragraphs)


def _is_verse(paragraph: str) -> bool:
    lines = [line.strip() for line in paragraph.strip().split("\n")]
    if len(lines) < _VERSE_LINES or max(map(len, lines)) > _VERSE_LINE:
        return False
    broken = sum(line.endswith((",", ";", "-", "\u2014", "\u2013")) for line in lines[:-1])
    return broken * 2 >= len(lines) - 1
