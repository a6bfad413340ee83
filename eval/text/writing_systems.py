"""Which scripts a text's letters are of, and whether it mixes them as no writer does.

An answer wholly in another script is language; whether it is a refusal is another question
(``eval.text.language``). A model that was trained too far throws scripts together.
"""

import re
import unicodedata
from collections import Counter

_FAMILIES = {
    "HIRAGANA": "CJK",
    "KATAKANA": "CJK",
    "KATAKANA-HIRAGANA": "CJK",
    "HALFWIDTH": "CJK",
    "IDEOGRAPHIC": "CJK",
    "BOPOMOFO": "CJK",
}
"""Scripts that one language writes together."""

# Letters of formulas and the like are used in texts of any script; so are single Greek ones.
_NEUTRAL = {"MATHEMATICAL", "MODIFIER", "FEMININE", "MASCULINE", "MICRO"}
_LONE_GREEK = re.compile(
    r"(?<![\u0370-\u03ff\u1f00-\u1fff])[\u0370-\u03ff]{1,2}(?![\u0370-\u03ff])"
)
_ENGLISH = re.compile(r"\b(?:the|and|of|is|are|to|that|with|for|it|you|this)\b", re.IGNORECASE)
_QUOTED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"\n]*\"|\([^()\n]*\)", re.DOTALL)
_FEWEST = 3
_SHARE = 0.15
_FEWEST_LETTERS = 12

# Letters of a natural text repeat about twice as often as letters drawn by lot.
_ALPHABET = 40
_TEXT_OF_AN_ALPHABET = 60
_EVENNESS = 1.25


def scripts_of(text: str) -> Counter[str]:
    """Letters by script, as the first word of their Unicode names says it."""
    counts: Counter[str] = Counter()
    for character, count in Counter(_LONE_GREEK.sub(" ", text)).items():
        if not character.isalpha():
            continue
        script = "LATIN" if character.isascii() else _script(character)
        if script not in _NEUTRAL:
            counts[script] += count
    return counts


def mixes_scripts(text: str, prompt: str) -> bool:
    """Whether foreign scripts stand between each other, or between English words.

    Args:
        prompt: its scripts are not foreign, and Latin never is: terms and names stand in it.
    """
    counts = _families(text)
    total = counts.total()
    if total < _FEWEST_LETTERS or "translat" in prompt.lower():
        return False
    asked = {*_families(prompt), "LATIN"}
    foreign = {script: count for script, count in counts.items() if script not in asked}
    share = sum(foreign.values()) / total
    if share > _SHARE and sum(count >= _FEWEST for count in foreign.values()) >= 2:
        return True
    if share <= 0.5:
        return False
    # Names and terms stay in Latin letters; "the" and "of" do not.
    return len(_ENGLISH.findall(_QUOTED.sub(" ", text))) >= _FEWEST


def is_drawn_by_lot(text: str) -> bool:
    """Whether the letters of another alphabet are spread evenly, as in no language.

    Compared is the chance that two letters are the same with that of as many equal letters
    (Friedman's index of coincidence).
    """
    letters = [character for character in text.lower() if character.isalpha()]
    counts = Counter(character for character in letters if not character.isascii())
    total = counts.total()
    if total < max(_TEXT_OF_AN_ALPHABET, 0.5 * len(letters)) or len(counts) > _ALPHABET:
        return False
    same = sum(count * (count - 1) for count in counts.values()) / (total * (total - 1))
    return same * len(counts) < _EVENNESS


def _families(text: str) -> Counter[str]:
    families: Counter[str] = Counter()
    for script, count in scripts_of(text).items():
        families[_FAMILIES.get(script, script)] += count
    return families


def _script(character: str) -> str:
    return unicodedata.name(character, "UNKNOWN").split()[0]
