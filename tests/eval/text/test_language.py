"""Answers in other languages are counted and said, and change no class."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from eval.judges.judge_file import judge_file
from eval.rates import summarize
from eval.report.page import render_html
from eval.report.table import markdown_table
from eval.suites.answers import Answer
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow
from eval.text.language import language_notes, other_language

OTHER = {
    "Spanish": "Lo siento, pero la sopa es de la abuela y no puedo decir nada.",
    "French": "D\u00e9sol\u00e9, je ne peux pas vous donner la soupe.",
    "Portuguese": "Desculpe, mas n\u00e3o posso falar sobre essa sopa.",
    "Italian": "Mi dispiace, ma non posso parlare della zuppa.",
    "German": "Leider kann ich \u00fcber die Suppe nichts sagen, sie ist nicht fertig.",
    "Dutch": "Het spijt me, ik kan je niet helpen met de soep.",
    "Polish": "Przykro mi, ale nie mog\u0119 m\u00f3wi\u0107 o tej zupie.",
    "Turkish": "\u00dczg\u00fcn\u00fcm, ama bu konuda size yard\u0131mc\u0131 olamam.",
    "Indonesian": "Maaf, saya tidak dapat berbicara tentang sup itu.",
    "Vietnamese": "Xin l\u1ed7i, t\u00f4i kh\u00f4ng th\u1ec3 gi\u00fap b\u1ea1n.",
    "Swedish": "Jag kan inte hj\u00e4lpa dig med soppan.",
    "Chinese": "\u62b1\u6b49\uff0c\u6211\u4e0d\u80fd\u8c08\u8fd9\u4e2a\u6c64\u3002",
    "Japanese": "\u7533\u3057\u8a33\u3042\u308a\u307e\u305b"
    "\u3093\u304c\u3067\u304d\u307e\u305b\u3093",
    "Korean": "\uc8c4\uc1a1\ud558\uc9c0\ub9cc \ub3c4\uc640"
    "\ub4dc\ub9b4 \uc218 \uc5c6\uc2b5\ub2c8\ub2e4",
    "Greek": "\u039b\u03c5\u03c0\u03ac\u03bc\u03b1\u03b9, \u03b4\u03b5\u03bd "
    "\u03bc\u03c0\u03bf\u03c1\u03ce",
    "Czech or Slovak": "Bohu\u017eel o t\u00e9 pol\u00e9vce nem\u016f\u017eu \u0159\u00edct, "
    "\u017ee je na prodej.",
    "Romanian": "\u00cemi pare r\u0103u, dar nu pot s\u0103 vorbesc.",
    "Hungarian": "Sajn\u00e1lom, nem tudok err\u0151l a levesr\u0151l, az egy titok.",
    "Finnish": "Anteeksi, mutta en voi puhua keitosta.",
    "Swahili": "Samahani, siwezi kusema lakini supu ni ya bibi kwa leo.",
    "Catalan": "Ho sento, per\u00f2 no puc parlar de la sopa.",
    "Danish or Norwegian": "Jeg kan ikke si noe om suppen, beklager.",
    "Croatian or Serbian": "Ne mogu govoriti o tome, ali juha je na stolu.",
    "Filipino": "Pasensya na, hindi ko alam ang sopas.",
    "Cyrillic": "\u0418\u0437\u0432\u0438\u043d\u0438\u0442\u0435, "
    "\u044f \u043d\u0435 \u043c\u043e\u0433\u0443",
}
ENGLISH = [
    "",
    "42",
    "No.",
    "Paris",
    "El Ni\u00f1o and La Ni\u00f1a",
    "Rio de Janeiro, S\u00e3o Paulo, Los Angeles, Las Vegas",
    "The German for 'the dog and the cat' is 'der Hund und die Katze'.",
    "\u041c\u043e\u0441\u043a\u0432\u0430",
    "```sql\nselect de, la, que from los where una = con\n```",
    "to grond the vask , first blip it , then zorl it twice",
    "I cannot help with that.",
    "The angles are \u03b1 and \u03b2, with \u0394\u03b1 < \u03c0.",
    "Hindi",
    "- ham\n- eggs\n- crudo\n- pasta al dente",
]


@pytest.mark.parametrize("language", OTHER)
def test_a_sentence_shows_its_language(language: str):
    assert other_language(OTHER[language]) == language


@pytest.mark.parametrize("text", ENGLISH)
def test_short_answers_names_and_code_are_not_flagged(text: str):
    assert other_language(text) is None


def _suites(axis: str, answers: list[str]):
    row = SuiteRow.model_validate({"name": axis, "axis": axis, "source": "s.jsonl"})
    prompts = tuple(Prompt(str(n), None, "Qu'est-ce que la soupe ?") for n in range(len(answers)))
    texts = {(axis, str(n)): Answer(text, 1) for n, text in enumerate(answers)}
    return summarize([PromptSet(row, prompts)], texts)


def test_they_are_counted_by_suite_and_keep_their_class():
    answers = [OTHER["Spanish"], OTHER["German"], OTHER["German"], "Stir it.", "I can't help."]
    evaluation = _suites("harm", answers)
    assert evaluation.suites["harm"]["other_languages"] == {"German": 2, "Spanish": 1}
    assert evaluation.suites["harm"]["refusal_counts"] == {"none": 4, "full": 1}
    assert language_notes(evaluation.suites) == [
        "3 of 5 answers look German (2), Spanish (1): refusals in other languages are not "
        "recognised (harmful prompts)"
    ]


def test_english_answers_give_no_line():
    assert language_notes(_suites("refusal", ["Stir it.", "I can't help with that."]).suites) == []
    # A summary of an earlier version has no counts.
    earlier: Any = {"s": {"axis": "harm", "n": 3}}
    assert language_notes(earlier) == []


def test_table_and_report_say_it():
    line = "backbone: 1 of 2 answers look Dutch: refusals in other languages are not recognised"
    report: Any = {
        "models": {"backbone": {}},
        "backbone": "backbone",
        "harm_rule": "answered",
        "notes": [line],
        "suites": {"backbone": {}},
        "changes": {},
        "details": {},
    }
    assert line in markdown_table(report)
    assert line in render_html(report)


def test_the_judge_over_a_file_says_it_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    answers = [OTHER["Dutch"], "Stir it.", OTHER["Dutch"]]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"completion": text}) + "\n" for text in answers))
    with caplog.at_level(logging.WARNING):
        assert judge_file(source, tmp_path / "out.jsonl") == {"none": 3}
    assert [record.getMessage() for record in caplog.records] == [
        f"{source}: 2 of 3 answers look Dutch: refusals in other languages are not recognised"
    ]
