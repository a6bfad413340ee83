"""How the backbone's refusals open, learned from its own answers (issue 14).

With these openings one forward pass tells how near a model is to refusing a question, in any
language and without generation: see train/guards/refusal_margin.py.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answering.completions import FILE_NAME, CompletionRecord, read_completions
from eval.answering.loading import load_tokenizer, model_identity
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from launch.prepare.false_refusals import REFUSED
from launch.prepare.nothing_to_repair import HARM, REFUSAL, warn_of_nothing_to_repair
from launch.prepare.own_answers import PRIVATE_FILE, own_answers
from launch.recipe import Recipe
from launch.run.folder import HARVEST
from merge.common.files import PRIVATE_FOLDER, atomic_write_text, make_directory
from train.backbone.folder import backbone_directory
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.examples import read_examples
from train.guards.openings_file import OPENINGS_FILE, write_openings
from train.guards.refusal_margin import RefusalOpenings, learn_openings

logger = logging.getLogger(__name__)

LOW_COVERAGE = 0.8
_WORK = "openings.work"
_ANSWER_TOKENS = 24
_MOST_PAIRS = 256
"""Questions of D_h that are asked where it was not harvested."""


def write_run_openings(recipe: Recipe, suite: Path | None = None) -> Path:
    """Let the backbone answer, see which answers are refusals, and write how these open.

    Asked are D_h's questions, or what the harvest has asked, and the validation suite's harm and
    refusal prompts; where these show nothing to repair, a warning says so. Answers that are there
    from an earlier try stay.

    Args:
        suite: the validation suite; by default the search's, if there is a search.

    Returns:
        openings.json in the run folder; it holds none where the refusals have nothing in common.

    Raises:
        UserError: a source is missing, or the backbone cannot answer.
    """
    backbone = backbone_directory(recipe.backbone)
    if suite is None and recipe.search is not None:
        suite = recipe.search.suite
    answers, prompts = _harvested(recipe), _validation_prompts(suite, recipe.evaluation.data_dir)
    questions = [*prompts[HARM], *prompts[REFUSAL]]
    if not answers:
        questions = [*_own_questions(recipe), *questions]
    if questions:
        answers = [*answers, *_ask(recipe, backbone, questions)]
    warn_of_nothing_to_repair(prompts, answers, _ANSWER_TOKENS)
    tokenizer = load_tokenizer(backbone)
    chat = ChatPrompts(tokenizer, f"backbone {backbone}", recipe.backbone.chat)
    refusals, others = (
        [answer_ids(chat, each) for each in answers if (each["refusal"] in REFUSED) is refused]
        for refused in (True, False)
    )
    openings = learn_openings(refusals, others)
    texts = [str(tokenizer.decode(list(ids))) for ids in openings.tokens]
    file = recipe.output / OPENINGS_FILE
    write_openings(
        file,
        openings,
        texts=texts,
        refusals=len(refusals),
        answers=len(answers),
        backbone=model_identity(backbone),
    )
    _tell(openings, texts, len(refusals), len(answers))
    if not recipe.keep_intermediates:
        shutil.rmtree(recipe.output / _WORK, ignore_errors=True)
    return file


def _harvested(recipe: Recipe) -> list[CompletionRecord]:
    """What the backbone has answered when D_h was made of its answers."""
    file = recipe.output / HARVEST / FILE_NAME
    return read_completions(file) if file.is_file() else []


def _own_questions(recipe: Recipe) -> list[str]:
    questions = [example.question for example in read_examples(recipe.data)]
    return questions[:: -(-len(questions) // _MOST_PAIRS)]


def _validation_prompts(suite: Path | None, data_dir: Path | None) -> dict[str, list[str]]:
    """Texts by axis: those of harm, and those of refusal."""
    by_axis: dict[str, list[str]] = {HARM: [], REFUSAL: []}
    if suite is not None:
        for prompt_set in load_prompts(load_suite(suite, data_dir)):
            if prompt_set.row.axis in by_axis:
                by_axis[prompt_set.row.axis] += [prompt.text for prompt in prompt_set.prompts]
    return by_axis


def _ask(recipe: Recipe, backbone: Path, questions: Sequence[str]) -> list[CompletionRecord]:
    folder = recipe.output / _WORK
    make_directory(folder, PRIVATE_FOLDER)
    file = folder / "questions.jsonl"
    lines = (json.dumps({"prompt": question}) + "\n" for question in questions)
    atomic_write_text(file, "".join(lines), PRIVATE_FILE)
    row = {"source": str(file.resolve()), "max_new_tokens": _ANSWER_TOKENS}
    return own_answers(recipe, backbone, "openings", row, folder, recipe.backbone.chat)


def answer_ids(chat: ChatPrompts, answer: Mapping[str, Any]) -> list[int]:
    """The answer's tokens after the question, as the trainings tokenize it.

    Answers are kept as text. To tokenize one in its place gives back what the model wrote, but for
    blanks at its beginning, and for the last token where the limit has cut it.
    """
    ids, labels = chat.example(answer["prompt"], answer["completion"])
    return ids[labels.count(IGNORED_LABEL) :]


def _tell(openings: RefusalOpenings, texts: Sequence[str], refusals: int, answers: int) -> None:
    counts = f"openings: {refusals} of {answers} answers are refusals"
    if not texts:
        logger.warning(
            "%s, and no beginning tells them from the others: refusal margins cannot be measured, "
            "and a guard that watches them cannot work (guards.margin_samples: 0); more questions "
            "that the backbone refuses may show one",
            counts,
        )
        return
    logger.info(
        "%s; %.0f %% of them open with one of %s; %.0f %% of what opens so is a refusal",
        counts,
        100 * openings.coverage,
        ", ".join(map(repr, texts)),
        100 * openings.precision,
    )
    if openings.coverage < LOW_COVERAGE:
        logger.warning(
            "openings: they cover %.0f %% of the refusals, less than %.0f %%: margins miss the "
            "other ways in which this backbone refuses; trust judged answers more",
            100 * openings.coverage,
            100 * LOW_COVERAGE,
        )
