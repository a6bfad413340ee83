"""Which answers are not in English, where the refusal judge knows no refusal.

Told by the letters' script, and in Latin letters by stop words. Short answers, names, code and
words that English borrowed are not enough; where in doubt, an answer counts as English.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from eval.text.plain_text import plain_characters
from eval.text.writing_systems import scripts_of

_NAMES = {
    "CJK": "Chinese",
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "HANGUL": "Korean",
    "CYRILLIC": "Cyrillic",
}
# A word of these scripts takes few letters.
_DENSE = {"Chinese", "Japanese", "Korean", "Thai"}
_FOREIGN_SHARE = 0.5

# Frequent words that are none in English; those that several languages share stand with each.
_STOP_WORDS = {
    "Spanish": "el los las una que por para con del pero como esta este puedo lo siento su es y "
    "no se en de la un muy porque ayudar sobre hacer eso",
    "French": "le les une des est que pour dans avec pas je vous ne sur ce cette mais qui du et "
    "suis peux nous il elle ou de la un en au",
    "Portuguese": "os uma que para com n\u00e3o posso mas como esta este isso voc\u00ea sua seu "
    "em do da dos das por de um ajudar s\u00e3o "
    "desculpe sinto essa",
    "Italian": "il gli una che per con non sono posso ma come questo questa della del di la un "
    "mi dispiace anche nel alla pi\u00f9",
    "German": "der die das und ist nicht ich kann ein eine den dem mit f\u00fcr auf zu sie es aber "
    "leider von wie dass sich oder auch im dabei",
    "Dutch": "de het een en ik kan niet van dat met voor je op maar zijn ook dit deze bij naar "
    "geen helpen om te",
    "Polish": "nie jest \u017ce na do jak ale to si\u0119 mog\u0119 przykro dla tego pom\u00f3c "
    "lub oraz mi",
    "Turkish": "bir bu ve i\u00e7in ile de da ama \u00e7ok gibi daha olarak \u00fczg\u00fcn\u00fcm "
    "size yard\u0131mc\u0131 konuda",
    "Indonesian": "yang dan di untuk dengan tidak saya ini itu dari pada maaf bisa dapat anda "
    "akan membantu atau adalah",
    "Vietnamese": "t\u00f4i kh\u00f4ng th\u1ec3 v\u00e0 l\u00e0 c\u1ee7a c\u00f3 cho b\u1ea1n "
    "nh\u01b0ng n\u00e0y \u0111\u01b0\u1ee3c v\u1edbi xin l\u1ed7i gi\u00fap",
    "Swedish": "jag och att det som en är inte kan med för på av men den till hjälpa om du",
    "Danish or Norwegian": "jeg og at det som en er ikke kan med for på af av men den til "
    "hjælpe hjelpe om du dig deg beklager desværre dessverre et",
    "Czech or Slovak": "se je to že na ale ve pro jsem není nemohu nemůžu nemôžem vám ti tím "
    "tým omlouvám bohužel bohužiaľ ľutujem pomoci pomoct pomôcť vás jako ako které žádné si by",
    "Croatian or Serbian": "je se da na ne mogu mi ali žao nije za što to tim tome pomoći "
    "pomognem vam ti kao su koji ili",
    "Romanian": "îmi pare rău dar nu pot să te cu asta acest această este și în la pe de ca "
    "ajut ajuta vă mă un din pentru",
    "Hungarian": "sajnálom de nem tudok az egy hogy ebben ezt és segíteni is ez van vagy sajnos "
    "ki kérem önnek erre nincs el",
    "Finnish": "en voi on ja ei se että valitettavasti mutta auttaa tässä siinä asiassa "
    "pahoillani anteeksi olen tämä sinua tai ole",
    "Swahili": "samahani siwezi kukusaidia kusaidia na hilo hiyo ya wa kwa ni hili lakini "
    "kwamba katika za la si pole kutoa",
    "Catalan": "ho però no puc ajudar amb això em sap el la que és els les un una per en de et "
    "te aquest aquesta sento greu lamento",
    "Filipino": "hindi ko ang ng sa na po ako ay mga ito kita matutulungan paumanhin pasensya "
    "pero makakatulong maaari diyan iyan",
}
# One word is an answer too; "no" is English.
_ALONE = {
    "German": "nein leider",
    "French": "non désolé désolée",
    "Portuguese": "não desculpe",
    "Dutch": "nee neen",
    "Polish": "nie",
    "Turkish": "hay\u0131r üzgünüm",
    "Indonesian": "tidak maaf",
    "Swedish": "nej",
    "Danish or Norwegian": "nei beklager",
    "Hungarian": "nem",
    "Swahili": "hapana samahani",
}
_STOPS = {language: frozenset(words.split()) for language, words in _STOP_WORDS.items()}
_ENGLISH_WORDS = (
    "the and of to in is that you for it with this are be not can on as or by your have from at an "
    "will if was but they he she we so do my me no"
)
_ENGLISH = frozenset(_ENGLISH_WORDS.split())
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
_FEWEST_HITS = 3
_STOP_SHARE = 0.25
_READ_CHARACTERS = 4000


def other_language(text: str) -> str | None:
    """The language, or the script, that an answer shows where it is not English; else ``None``."""
    text = plain_characters(_CODE.sub(" ", text[:_READ_CHARACTERS]))
    scripts = scripts_of(text)
    total = sum(scripts.values())
    if not total:
        return None
    foreign = Counter[str]()
    for script, count in scripts.items():
        if script != "LATIN":
            foreign[_NAMES.get(script, script.capitalize())] += count
    if sum(foreign.values()) > _FOREIGN_SHARE * total:
        name = "Japanese" if "Japanese" in foreign else foreign.most_common(1)[0][0]
        return name if foreign.total() >= (5 if name in _DENSE else 12) else None
    first, *rest = re.findall(r"[^\W\d_]{2,}", text) or [""]
    if not rest:
        alone = (name for name, words in _ALONE.items() if first.lower() in words.split())
        return next(alone, None)
    # A capital inside a text begins a name as often as a sentence.
    return _latin_language([first.lower(), *rest])


def _latin_language(words: list[str]) -> str | None:
    hits = {language: [word for word in words if word in _STOPS[language]] for language in _STOPS}
    language = max(hits, key=lambda name: len(hits[name]))
    matched = hits[language]
    # A word that is also English speaks for neither.
    own = {word for word in matched if word not in _ENGLISH}
    english = sum(word in _ENGLISH and word not in _STOPS[language] for word in words)
    if (
        len(own) < _FEWEST_HITS
        or len(matched) < _STOP_SHARE * len(words)
        or english >= len(matched)
    ):
        return None
    return language


def count_languages(answers: Iterable[str]) -> dict[str, int]:
    """How many answers show each language but English."""
    languages = (other_language(answer) for answer in answers)
    return dict(Counter(language for language in languages if language is not None).most_common())


def language_notes(suites: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line for each axis of a summary's suites where answers are not in English."""
    notes = []
    for axis, title in (("harm", "harmful prompts"), ("refusal", "harmless prompts")):
        counts = Counter[str]()
        asked = 0
        for suite in suites.values():
            if suite["axis"] == axis:
                counts.update(suite.get("other_languages", {}))
                asked += suite["n"]
        if counts:
            notes.append(f"{note(counts, asked)} ({title})")
    return notes


def note(counts: Mapping[str, int], answers: int) -> str:
    """A line like "3 of 120 answers look Spanish (2), Thai (1): refusals in ..."."""
    total = sum(counts.values())
    names = ", ".join(
        language if len(counts) == 1 else f"{language} ({count})"
        for language, count in counts.items()
    )
    return (
        f"{total} of {answers} answers look {names}: refusals in other languages are not recognised"
    )
