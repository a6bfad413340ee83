"""Whether chat template, tokenizer and model do for all texts of a run, before any training."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from eval.answering.asked_how import begun_answer, prompts_of
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from launch.prepare.text_check import Texts
from launch.recipe import Recipe
from launch.run.variant_list import trained_baselines
from merge.common.errors import UserError
from train.backbone.folder import load_tokenizer
from train.chat.example import Example
from train.chat.prompts import ChatPrompts
from train.chat.round_trip import check_round_trip
from train.chat.vocabulary import embedding_count, refuse_unknown_ids
from train.recipe import ROLES

_POSITION_TABLES = ("wpe", "position", "embed_positions")


def check_prompts(recipe: Recipe, directory: Path, skeleton: Any, texts: Texts) -> None:
    """See that chat template, tokenizer and model do for every text.

    Args:
        directory: the backbone's folder.
        skeleton: its model without values.

    Raises:
        UserError: the template does not give pairs back, a switch or room for an answer is
            missing, or tokens are made that the model has no embedding or position for.
    """
    source = f"backbone {recipe.backbone.path}"
    chat = ChatPrompts(load_tokenizer(directory, recipe.backbone), source, recipe.backbone.chat)
    pairs = (*texts.examples, *texts.harmless, *texts.refusals)
    check_round_trip(chat, [*pairs, *texts.baselines])
    embeddings, positions = embedding_count(skeleton), position_count(skeleton)

    @cache  # the baselines learn the same pairs, mostly at the same length
    def check_pair(pair: Example, max_length: int) -> None:
        ids = chat.example(pair.question, pair.answer, max_length)[0]
        _check_length(len(ids), positions, f"{source}: '{pair.question[:40]}' and its answer")
        refuse_unknown_ids([ids], embeddings, source)

    lengths = sorted({recipe.training(role).max_length for role in ROLES})
    for pair in pairs:
        for max_length in lengths:
            check_pair(pair, max_length)
    for patch in trained_baselines(recipe):
        for pair in (*texts.examples, *texts.baselines, *texts.refusals):
            try:
                check_pair(pair, patch.training.max_length)
            except UserError as error:
                raise UserError(f"ablate.baselines.{patch.name}: {error}") from error
    for prompt_set in texts.prompt_sets:
        for ids, room, name in _asked(chat, prompt_set):
            refuse_unknown_ids([ids], embeddings, source)
            _check_length(len(ids) + room, positions, f"{source}: {name}")


def position_count(skeleton: Any) -> int | None:
    """How many tokens a model with learned positions can read; None where positions are computed.

    Args:
        skeleton: a ``PreTrainedModel``, on any device.
    """
    words = skeleton.get_input_embeddings()
    tables = [
        module.num_embeddings
        for name, module in skeleton.get_decoder().named_modules()
        if isinstance(module, nn.Embedding)
        and module is not words
        and any(part in name for part in _POSITION_TABLES)
    ]
    if not tables:
        return None
    configured = getattr(skeleton.config.get_text_config(), "max_position_embeddings", None)
    # Some tables have rows for an offset besides.
    return min(tables) if configured is None else min(*tables, configured)


def _asked(chat: ChatPrompts, prompt_set: PromptSet) -> Iterator[tuple[list[int], int, str]]:
    """Token ids of every prompt, or of it with each choice; room for an answer; and a name."""
    row = prompt_set.row
    if isinstance(row, TaskRow):
        return
    chat = prompts_of(chat, prompt_set)
    for prompt in prompt_set.prompts:
        name = f"prompt {prompt.id} of suite row '{row.name}'"
        if prompt_set.scoring == "choice":
            for choice in prompt.choices:
                yield chat.example(prompt.text, choice)[0], 0, name
        else:
            room = row.max_new_tokens
            begun = begun_answer(chat, prompt.text, row.prefix) if row.prefix else []
            ids = [*chat.question_ids(prompt.text), *begun]
            yield ids, room, f"{name} with max_new_tokens {room}"


def _check_length(tokens: int, positions: int | None, name: str) -> None:
    if positions is not None and tokens > positions:
        raise UserError(
            f"{name} takes {tokens} tokens, and the model has {positions} positions; lower "
            "max_length or max_new_tokens, or drop the row"
        )
