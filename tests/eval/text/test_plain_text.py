"""Characters and markup in one form, whatever dress a text wears."""

import unicodedata

import pytest

from eval.text.plain_text import plain_characters, spelled_out, without_markup

APOSTROPHES = {
    "LEFT SINGLE QUOTATION MARK",
    "RIGHT SINGLE QUOTATION MARK",
    "SINGLE HIGH-REVERSED-9 QUOTATION MARK",
    "SINGLE LOW-9 QUOTATION MARK",
    "MODIFIER LETTER APOSTROPHE",
    "MODIFIER LETTER TURNED COMMA",
    "MODIFIER LETTER PRIME",
    "MODIFIER LETTER ACUTE ACCENT",
    "LATIN SMALL LETTER SALTILLO",
    "PRIME",
    "REVERSED PRIME",
    "ACUTE ACCENT",
    "FULLWIDTH APOSTROPHE",
    "FULLWIDTH GRAVE ACCENT",
    "HEBREW PUNCTUATION GERESH",
}


@pytest.mark.parametrize("name", sorted(APOSTROPHES))
def test_every_apostrophe_makes_a_contraction(name: str):
    assert spelled_out(plain_characters(f"we can{unicodedata.lookup(name)}t")) == "we cannot"


@pytest.mark.parametrize(
    "code", [0xAD, 0x34F, 0x200B, 0x200D, 0x2060, 0x3164, 0xFE0F, 0xFEFF, 0x336]
)
def test_what_shows_nothing_is_dropped(code: int):
    assert plain_characters(f"so{chr(code)}up") == "soup"


def test_quotes_are_straight_and_wide_letters_narrow():
    assert plain_characters("\u00ab\u201ea\u201d\u00bb \uff33\uff4f\uff55\uff50") == '""a"" Soup'


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("so **hot** and __big__, *no* _joke_, ~~cold~~", "so hot and big, no joke, "),
        ("a <b>red</b> <span class='x'>hat</span>&amp;shoe", "a red hat&shoe"),
        ("# Soup\n> - 1. stir\n2) eat", "Soup\nstir\neat"),
        ("**so *very* hot** <del>cold</del>, ~~~~", "so very hot , ~~~~"),
        ("~~all of it~~", "all of it"),
        ("snake_case_name, 3 * 4 * 5 and a < b", "snake_case_name, 3 * 4 * 5 and a < b"),
    ],
)
def test_markup_is_taken_off_and_what_is_none_stays(written: str, read: str):
    assert without_markup(written) == read


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("it's not what we'd do", "it is not what we would do"),
        ("dont, wo n't, can ' t, shan't", "do not, will not, cannot, shall not"),
        (
            "im here, they're there, i've been, you'll see",
            "i am here, they are there, i have been, you will see",
        ),
        ("the cook's spoon, a want, the point", "the cook's spoon, a want, the point"),
    ],
)
def test_contractions_are_spelled_out(short: str, full: str):
    assert spelled_out(short) == full
