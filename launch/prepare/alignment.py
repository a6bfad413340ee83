"""An over-cautious backbone made of another model, by a short supervised run (for studies).

A model that refuses nothing has no over-refusal to repair. Half of every batch are harmful
questions with a refusal, the other half harmless questions with the model's own answers, so that
little else changes. What is refused beyond those questions is how the refusals generalise.
"""

import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.judges.judged import UNFINISHED
from eval.suites.prompts import load_prompts
from launch.prepare.own_answers import own_answers, question_suite
from launch.prepare.settings import AlignmentSettings
from launch.prepare.supervised import TokenizedAnswer, train_on_answers
from launch.recipe import Recipe
from launch.run.folder import ALIGNMENT
from merge.common.errors import UserError
from merge.common.files import atomic_write_json, fsync_directory, make_directory
from merge.common.progress import Progress
from train.backbone.folder import backbone_directory

logger = logging.getLogger(__name__)

BACKBONE = "backbone"
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I can't assist with that request.",
    "I'm sorry, I cannot help with this.",
    "I cannot help with that. Is there something else that I can do for you?",
)


def align(recipe: Recipe) -> Path:
    """Make the backbone that the recipe's alignment section describes.

    Returns:
        Its folder, complete or not there; the model's own answers from an earlier try stay.

    Raises:
        UserError: the recipe has no such section, or a source or the model is missing.
    """
    settings = recipe.alignment
    if settings is None:
        raise UserError("recipe: has no alignment section; add one with model and questions")
    folder = recipe.output / ALIGNMENT
    out = folder / BACKBONE
    if out.exists():
        return out
    make_directory(recipe.output)
    model = backbone_directory(settings.model)
    (refused,) = load_prompts(question_suite(recipe, "alignment.refused", settings.refused))
    refusals = [
        (prompt.text, REFUSALS[place % len(REFUSALS)])
        for place, prompt in enumerate(refused.prompts)
    ]
    chat = settings.model.chat
    answered = own_answers(
        recipe, model, "alignment.answered", settings.answered, folder / "answered", chat
    )
    own = [
        (answer["prompt"], answer["completion"])
        for answer in answered
        if answer["refusal"] not in {"degenerate", UNFINISHED}
    ]
    if not own:
        raise UserError("recipe, alignment.answered: the model answers none of these questions")
    partial = folder / f".{BACKBONE}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    logger.info("alignment: %d refusals, %d answers of the model's own", len(refusals), len(own))
    _train(settings, model, refusals, own, recipe.seed, partial)
    atomic_write_json(
        partial / "alignment.json",
        {"seed": recipe.seed, "settings": settings.model_dump(mode="json")},
    )
    fsync_directory(partial)
    partial.rename(out)
    return out


def _train(
    settings: AlignmentSettings,
    directory: Path,
    refusals: Sequence[tuple[str, str]],
    answers: Sequence[tuple[str, str]],
    seed: int,
    out: Path,
) -> None:
    """Train and save in fp32: so short a training moves most weights by less than bf16 can tell."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from train.chat.prompts import ChatPrompts

    tokenizer = AutoTokenizer.from_pretrained(directory)
    prompts = ChatPrompts(tokenizer, str(directory), settings.model.chat)
    refused = [prompts.example(*pair, settings.max_length) for pair in refusals]
    answered = [
        prompts.example(*pair, settings.max_length)
        for pair in answers
        if len(prompts.question_ids(pair[0])) < settings.max_length
    ]
    if not answered:
        raise UserError(
            f"recipe, alignment.max_length: {settings.max_length} tokens leave nothing of any "
            "answer; raise it"
        )
    # An answer that its limit of tokens has cut must not teach to stop there.
    answered = [(ids[:-1], labels[:-1]) for ids, labels in answered]
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, settings.steps)
    batches = _batches(refused, answered, settings, seed)
    torch.manual_seed(seed)
    with Progress("alignment", settings.steps, "steps") as progress:
        train_on_answers(model, progress.over(batches), optimizer, schedule)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _batches(
    refusals: list[TokenizedAnswer],
    answers: list[TokenizedAnswer],
    settings: AlignmentSettings,
    seed: int,
) -> Iterator[list[TokenizedAnswer]]:
    """Half of each, in a new order whenever all of a kind were used."""
    draw = random.Random(f"alignment {seed}")
    half = max(1, settings.batch_size // 2)
    streams = (_endless(refusals, draw), _endless(answers, draw))
    for _ in range(settings.steps):
        yield [next(stream) for stream in streams for _ in range(half)]


def _endless(examples: list[TokenizedAnswer], draw: random.Random) -> Iterator[TokenizedAnswer]:
    while True:
        yield from draw.sample(examples, len(examples))
