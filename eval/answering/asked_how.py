"""How the rows of a suite are asked: with their reasoning, without a template, or half answered."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from eval.suites.answers import AnswerId
from eval.suites.prompts import PromptSet
from eval.suites.suite import TaskRow
from merge.common.files import sha256_json
from train.chat.prompts import ChatPrompts


class Untemplated(ChatPrompts):
    """Prompts that the model continues as text, after the tokenizer's own first tokens."""

    def __init__(self, chat: ChatPrompts) -> None:
        self.__dict__.update(chat.__dict__)
        self.opened = ""

    def question_text(self, question: str) -> str:
        return question

    def question_ids(self, question: str) -> list[int]:
        start = list(self.tokenizer("")["input_ids"])
        if start[-1:] == [self.tokenizer.eos_token_id]:
            start.pop()
        return [*start, *self.text_ids(question)]


def prompts_of(prompts: ChatPrompts, prompt_set: PromptSet) -> ChatPrompts:
    """The prompts as a suite row asks them: with reasoning where it says so, in the chat template.

    Raises:
        UserError: the template has no switch for reasoning.
    """
    row = prompt_set.row
    if isinstance(row, TaskRow):
        return prompts
    chat = prompts.reasoning(row.reasoning)
    return chat if row.in_template else Untemplated(chat)


def begun_answer(chat: ChatPrompts, question: str, prefix: str) -> list[int]:
    """The tokens between a question and the place where the model continues a given answer.

    What the template writes before an answer, then the prefix, as it is tokenized there: a token of
    its own for the space before it, or none. Where the template changes the prefix, its tokens are
    those of the text alone.
    """
    asked, start = chat.question_ids(question), chat.answer_start(question)
    ids = chat.example(question, prefix)[0]
    decode = chat.tokenizer.decode
    for end in range(len(start), len(ids)) if ids[: len(start)] == start else ():
        if str(decode(ids[len(start) : end + 1])).strip() == prefix.strip():
            return ids[len(asked) : end + 1]
    return [*start[len(asked) :], *chat.text_ids(prefix)]


def answer_keys(
    prompt_sets: Sequence[PromptSet], common: dict[str, Any], prompts: ChatPrompts
) -> dict[AnswerId, str]:
    """What an answer depends on, hashed: model, decoding, choices, and the prompt as it is asked.

    As the template renders it, since a template may write what stands in no file.
    """
    keys = {}
    for prompt_set in prompt_sets:
        row, chat = prompt_set.row, prompts_of(prompts, prompt_set)
        how = _asked_how(prompt_set)
        for prompt in prompt_set.prompts:
            asked = prompt.text if isinstance(row, TaskRow) else chat.question_text(prompt.text)
            keys[row.name, prompt.id] = sha256_json(
                [common, how, asked, prompt.choices], sort_keys=True
            )
    return keys


def _asked_how(prompt_set: PromptSet) -> Any:
    """What else of a suite row changes the answers."""
    row = prompt_set.row
    if isinstance(row, TaskRow):
        return [row.model_dump(exclude={"name"}), importlib.metadata.version("lm_eval")]
    return [row.max_new_tokens, row.prefix] if row.prefix else row.max_new_tokens
