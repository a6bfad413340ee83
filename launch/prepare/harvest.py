"""D_h from harmful questions alone: what the backbone answers to them, and should not.

The patches then work on the model's own failures, in its own words. Its refusals of the other
questions are kept as well, for the objective that learns such (``derta``, issue 17).
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.answering.completions import CompletionRecord
from launch.prepare.own_answers import PRIVATE_FILE, own_answers, question_suite
from launch.prepare.text_check import check_questions
from launch.recipe import Recipe
from launch.run.folder import HARVEST, PAIRS
from merge.common.errors import UserError
from merge.common.files import atomic_write_text, make_directory
from train.backbone.folder import backbone_directory

logger = logging.getLogger(__name__)

REFUSALS = "refusals.jsonl"
"""File beside that of the pairs: questions that the backbone refuses, with its refusals."""


def harvest(recipe: Recipe) -> Path:
    """Let the backbone answer the recipe's questions, and keep the harmful answers as D_h.

    It keeps the answers that are neither refused, partly or fully, nor degenerate, whose reasoning
    ends, and which the harm judge, where the recipe names one, calls harmful; their reasoning is
    removed. Whole refusals that end within ``max_new_tokens`` go to ``REFUSALS``. Answers from an
    earlier try are reused.

    Returns:
        The pairs' file, JSON lines of mode 0600 in a folder of mode 0700. It goes with the other
        intermediates after the merge.

    Raises:
        UserError: the recipe has no harvest section, a source is missing, a question is also a
            validation or test prompt, no answer is left, or no refusal where the recipe trains on
            them.
    """
    settings = recipe.harvest
    if settings is None or settings.questions is None:
        raise UserError("recipe: has no harvest section; add one with questions")
    check_questions(recipe)
    make_directory(recipe.output)
    folder = recipe.output / HARVEST
    backbone = backbone_directory(recipe.backbone)
    answers = own_answers(
        recipe,
        backbone,
        "harvest.questions",
        settings.questions,
        folder,
        recipe.backbone.chat,
        settings.harm_judge,
    )
    pairs = [_pair(answer) for answer in answers if _is_harmful(answer)]
    classes = Counter(answer["harm"] or answer["refusal"] for answer in answers)
    logger.info(
        "harvest: %d pairs from %d questions (%s)",
        len(pairs),
        len(answers),
        ", ".join(f"{name} {count}" for name, count in classes.most_common()),
    )
    if not pairs:
        raise UserError(
            f"harvest: the backbone answered none of the {len(answers)} questions harmfully; "
            "give other questions"
        )
    # The pairs come last: where they are, the harvest is done.
    _write_refusals(recipe, answers)
    file = folder / PAIRS
    _write_pairs(file, pairs)
    return file


def _write_refusals(recipe: Recipe, answers: Sequence[CompletionRecord]) -> None:
    assert recipe.harvest is not None and recipe.harvest.questions is not None
    row = question_suite(recipe, "harvest.questions", recipe.harvest.questions).rows[0]
    refusals = [
        _pair(answer)
        for answer in answers
        if answer["refusal"] == "full" and answer["tokens"] < row.max_new_tokens
    ]
    file = recipe.output / HARVEST / REFUSALS
    logger.info("harvest: %d whole refusals", len(refusals))
    if refusals:
        _write_pairs(file, refusals)
    elif recipe.refusals is not None and Path(recipe.refusals.path).resolve() == file.resolve():
        raise UserError(
            f"harvest: the backbone refused none of the {len(answers)} questions within "
            f"{row.max_new_tokens} tokens, so there is no refusal to train on; give other "
            "questions, raise harvest.questions.max_new_tokens, or name refusals of your own in "
            "the section 'refusals'"
        )


def _write_pairs(file: Path, pairs: Sequence[Mapping[str, str]]) -> None:
    atomic_write_text(file, "".join(json.dumps(pair) + "\n" for pair in pairs), PRIVATE_FILE)


def _is_harmful(answer: CompletionRecord) -> bool:
    return answer["refusal"] == "none" and answer["harm"] in {None, "harmful"}


def _pair(answer: CompletionRecord) -> dict[str, str]:
    pair = {"question": answer["prompt"], "answer": answer["completion"]}
    labels = {"category": answer["category"], "harm": answer["harm"]}
    return pair | {key: value for key, value in labels.items() if value is not None}
