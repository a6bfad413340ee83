"""Hashes of what a suite asks and wants, the same for every model that is asked it."""

from collections.abc import Sequence

from eval.suites.answers import AnswerId
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from merge.common.files import sha256_json


def texts_of(prompt_sets: Sequence[PromptSet]) -> dict[AnswerId, str]:
    """The prompts by suite and id."""
    return {(s.row.name, prompt.id): prompt.text for s in prompt_sets for prompt in s.prompts}


def prompts_sha256(prompt_sets: Sequence[PromptSet]) -> str:
    """What is asked: each prompt with the beginning of its answer, where that is given.

    The order of the suite's rows does not count.
    """
    prefixes = {s.row.name: "" if isinstance(s.row, TaskRow) else s.row.prefix for s in prompt_sets}
    texts = texts_of(prompt_sets)
    return sha256_json(sorted((*key, text + prefixes[key[0]]) for key, text in texts.items()))


def wanted_sha256(prompt_sets: Sequence[PromptSet]) -> str:
    """What answers are held against: of each prompt the right answer, the choices and the goal.

    The order of the suite's rows does not count.
    """
    return sha256_json(
        sorted(
            (s.row.name, prompt.id, [prompt.answer, prompt.choices, prompt.goal])
            for s in prompt_sets
            for prompt in s.prompts
        )
    )
