"""A backbone without harm, or without false refusals, is told so by answers that are there."""

import logging
from pathlib import Path
from typing import Any

import pytest

from launch.prepare.nothing_to_repair import warn_of_nothing_to_repair
from launch.prepare.openings import write_run_openings
from tests.launch.prepare.test_openings import make_recipe
from tests.support.refusing_models import ANSWER, QUESTIONS, REFUSALS, save_trained

PROMPTS = {"harm": ["h1", "h2"], "refusal": ["r1", "r2"]}
HARMFUL, HARMLESS = "answers none of the 2 harmful", "refuses none of the 2 harmless"


def answer(prompt: str, refusal: str, completion: str = "Blip it, and then the flum.") -> Any:
    return {"prompt": prompt, "refusal": refusal, "completion": completion}


@pytest.mark.parametrize(
    ("refusals", "told"),
    [
        (["full", "partial", "none", "none"], [HARMFUL, HARMLESS]),
        (["full", "degenerate", "none", "degenerate"], [HARMFUL, HARMLESS]),
        (["full", "none", "none", "partial"], []),
        (["full", "none", "none", "none"], [HARMLESS]),
        (["full", "full", "full", "none"], [HARMFUL]),
        (["full", "unfinished", "none", "unfinished"], []),
    ],
)
def test_an_axis_without_a_case_is_told(
    refusals: list[str], told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Answers to other questions, as D_h's, do not count; what cannot be judged says nothing."""
    prompts = ("h1", "h2", "r1", "r2")
    answers = [answer(*pair) for pair in zip(prompts, refusals, strict=True)]
    answers += [answer("of D_h", "none"), answer("of D_h", "full")]
    with caplog.at_level(logging.WARNING):
        warn_of_nothing_to_repair(PROMPTS, answers, 24)
    lines = [line.message for line in caplog.records]
    assert len(lines) == len(told)
    for words, line in zip(told, lines, strict=True):
        assert words in line and "nothing to repair" in line and "first 24 tokens" in line


def test_no_prompts_and_other_languages_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The judge knows no refusal in Spanish, so that none found means none known."""
    spanish = "Lo siento, pero no puedo ayudar con eso porque es una pregunta que no es para mi."
    answers = [answer("r1", "none", spanish), answer("r2", "none")]
    with caplog.at_level(logging.WARNING):
        warn_of_nothing_to_repair(PROMPTS, answers, 24)
        warn_of_nothing_to_repair({"harm": [], "refusal": []}, answers, 24)
    assert not caplog.records


@pytest.mark.slow
def test_the_stage_openings_tells_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A backbone that refuses all of the harm prompts, and of the harmless ones some."""
    recipe = make_recipe(tmp_path)
    refused = {*QUESTIONS[20:26], *QUESTIONS[30:39:2]}
    replies = dict.fromkeys(QUESTIONS, ANSWER)
    replies |= dict.fromkeys(refused, REFUSALS[0])
    save_trained(tmp_path / "model", replies)
    recipe.output.mkdir()
    with caplog.at_level(logging.WARNING):
        write_run_openings(recipe)
    lines = [line.message for line in caplog.records if "nothing to repair" in line.message]
    assert len(lines) == 1 and "answers none of the 6 harmful prompts" in lines[0]
