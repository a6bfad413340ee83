"""Pairs from the backbone's own false refusals: harmless questions, answered by another model.

The backbone refuses them; the over-safety model, which is the backbone with a whole patch that was
trained on D_h, refuses hardly anything. An over-safety patch trained on its answers changes what
false refusals hang on, and not what true ones do (issue 14).
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.answering.completions import CompletionRecord
from eval.judges.judged import UNFINISHED
from launch.prepare.first_patch import delete_first, first_patch
from launch.prepare.own_answers import PRIVATE_FILE, own_answers, question_suite
from launch.recipe import Recipe
from launch.run.folder import FALSE_REFUSALS, HARVEST
from launch.run.variant import whole_patch
from merge.build import build
from merge.common.errors import UserError
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from merge.engine.resources import MergeResources
from train.backbone.folder import backbone_directory

logger = logging.getLogger(__name__)

REFUSED = frozenset({"partial", "full"})
_JUDGED_TOKENS = 32
"""Tokens of the backbone's answer that show whether it is a refusal."""
_SECTION = "harvest.harmless"


def harvest_false_refusals(recipe: Recipe) -> Path:
    """Let the over-safety model answer what the backbone refuses, and keep the good answers.

    It keeps the answers that are neither refused, partly or fully, nor degenerate. An answer that
    does not end within ``max_new_tokens`` is kept where the training uses only the first tokens of
    answers. Answers from an earlier try are reused. The model and its patch are deleted.

    Returns:
        The pairs' file, JSON lines of mode 0600 in a folder of mode 0700.

    Raises:
        UserError: a source is missing, or no answer is left; the counts say why.
    """
    assert recipe.harvest is not None and recipe.harvest.harmless is not None
    folder = recipe.output / HARVEST
    make_directory(folder, PRIVATE_FOLDER)
    file = folder / FALSE_REFUSALS
    if not file.is_file():
        pairs = _pairs(recipe, recipe.harvest.harmless, folder)
        atomic_write_text(file, "".join(json.dumps(pair) + "\n" for pair in pairs), PRIVATE_FILE)
    if not recipe.keep_intermediates:
        delete_first(recipe)
    return file


def _pairs(
    recipe: Recipe, harmless: Sequence[dict[str, Any]], folder: Path
) -> list[dict[str, str]]:
    limits = [row.max_new_tokens for row in question_suite(recipe, _SECTION, *harmless).rows]
    backbone, limit = backbone_directory(recipe.backbone), max(limits)
    short = [
        {**row, "max_new_tokens": min(own, _JUDGED_TOKENS)}
        for row, own in zip(harmless, limits, strict=True)
    ]
    asked = own_answers(
        recipe, backbone, _SECTION, short, folder / "harmless", recipe.backbone.chat
    )
    refused = [answer for answer in asked if answer["refusal"] in REFUSED]
    logger.info(
        "harvest: the backbone refuses %d of %d harmless questions", len(refused), len(asked)
    )
    if not refused:
        raise UserError(
            f"{_SECTION}: the backbone refuses none of the {len(asked)} questions; give others, or "
            "train the over-safety patch on D_h (over_safety.data: harmful)"
        )
    answers = _answers(recipe, backbone, refused, limit, folder)
    kinds = Counter(_kind(answer, limit) for answer in answers)
    counts = ", ".join(f"{name} {count}" for name, count in kinds.most_common())
    logger.info("harvest: of these the over-safety model leaves: %s", counts)
    good = {"answered"} if recipe.over_safety.answer_tokens is None else {"answered", UNFINISHED}
    kept = [answer for answer in answers if _kind(answer, limit) in good]
    if not kept:
        raise UserError(
            f"{_SECTION}: the over-safety model answers none of the {len(answers)} questions that "
            f"the backbone refuses ({counts}); give more questions, raise max_new_tokens, or train "
            "it longer (section over_safety)"
        )
    return [_pair(answer) for answer in kept]


def _answers(
    recipe: Recipe, backbone: Path, refused: Sequence[CompletionRecord], limit: int, folder: Path
) -> list[CompletionRecord]:
    """What the over-safety model says; it is built in its patch's folder, and deleted."""
    rows = [{"prompt": answer["prompt"], "category": answer["category"]} for answer in refused]
    questions = folder / "refused.jsonl"
    atomic_write_text(questions, "".join(json.dumps(row) + "\n" for row in rows), PRIVATE_FILE)
    patch = first_patch(recipe.output)
    model = patch / "model"
    settings = whole_patch("over_safety", recipe.merge.rounding)
    build(backbone, patch, patch, model, settings, MergeResources())
    row: dict[str, Any] = {"source": str(questions.resolve()), "max_new_tokens": limit}
    if all(answer["category"] is not None for answer in refused):
        row["columns"] = {"category": "category"}
    answers = own_answers(
        recipe, model, _SECTION, row, folder / "false_refusals", recipe.backbone.chat
    )
    shutil.rmtree(model)
    return answers


def _kind(answer: CompletionRecord, limit: int) -> str:
    if answer["refusal"] in REFUSED:
        return "refused"
    if answer["refusal"] == "degenerate":
        return "degenerate"
    cut = answer["tokens"] >= limit or answer["refusal"] == UNFINISHED
    return UNFINISHED if cut else "answered"


def _pair(answer: CompletionRecord) -> dict[str, str]:
    pair = {"question": answer["prompt"], "answer": answer["completion"]}
    return pair if answer["category"] is None else {**pair, "category": answer["category"]}
