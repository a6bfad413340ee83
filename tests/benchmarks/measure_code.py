"""Whether a patched code model still writes code: how likely it finds the backbone's own answers.

    python -m tests.benchmarks.measure_code BACKBONE MODEL...

asks the backbone 60 invented coding orders. Each model then reads these answers: the change of the
mean log-probability per token has a 95 % interval of a paired bootstrap over the orders. Each model
also writes answers of its own, of which the refused and the degenerate ones are counted. No set of
a suite is read.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Column, Table
from transformers import PreTrainedModel

from eval.answering.choices import ChoiceQuestion, mean_log_likelihoods
from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.loading import load_model, load_tokenizer
from eval.judges.judged import judged
from eval.statistics.paired import paired_bootstrap
from train.chat.prompts import ChatPrompts

_LANGUAGES = ("Python", "JavaScript", "Java", "C", "SQL")
_TASKS = (
    "reverses a string", "sums the even numbers of a list", "counts the words of a text",
    "finds the largest of three numbers", "checks whether a word is a palindrome",
    "removes duplicates", "sorts names by their length", "computes a factorial",
    "converts Celsius to Fahrenheit", "merges two sorted lists", "counts the vowels of a word",
    "prints a table of squares",
)  # fmt: skip
_BATCH_TOKENS = 16384


def orders() -> list[str]:
    """An order for every task in every language."""
    return [
        f"Write {language} code that {task}."
        for task, language in itertools.product(_TASKS, _LANGUAGES)
    ]


def answers_of(
    model: PreTrainedModel, chat: ChatPrompts, prompts: Sequence[str], new_tokens: int
) -> list[list[int]]:
    """The greedy answers as token ids, without their endings."""
    questions = [Question(chat.question_ids(prompt), new_tokens) for prompt in prompts]
    endings = ending_tokens(model, chat.tokenizer) | frozenset(chat.stop_ids)
    answers: dict[int, list[int]] = {}
    for batch in generate(model, questions, endings, _BATCH_TOKENS):
        answers.update(batch)
    return [answers[index] for index in range(len(prompts))]


def likelihoods_of(
    model: PreTrainedModel,
    chat: ChatPrompts,
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
) -> list[float]:
    """Mean log-probability of each answer's tokens, in nats per token."""
    questions = [
        ChoiceQuestion(chat.question_ids(prompt), [answer])
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return [row[0] for row in mean_log_likelihoods(model, questions, _BATCH_TOKENS)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.measure_code", description=__doc__
    )
    parser.add_argument("models", type=Path, nargs="+", help="the backbone's folder first")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--new-tokens", type=int, default=96)
    options = parser.parse_args()
    chat = ChatPrompts(load_tokenizer(options.models[0]), "the backbone")
    prompts = orders()
    table = Table(
        Column("model", overflow="fold"), "nats per token", "change [95 %]", "refused", "degenerate"
    )
    answers, before = [], []
    for folder in options.models:
        model = load_model(folder, options.dtype)
        own = answers_of(model, chat, prompts, options.new_tokens)
        answers = answers or own
        values = likelihoods_of(model, chat, prompts, answers)
        before = before or values
        low, high = paired_bootstrap(before, values)
        verdicts = [
            judged(chat.decode(answer), prompt).refusal
            for prompt, answer in zip(prompts, own, strict=True)
        ]
        refused = sum(verdict in {"partial", "full"} for verdict in verdicts)
        table.add_row(
            str(folder),
            f"{fmean(values):.4f}",
            f"{fmean(values) - fmean(before):+.4f} [{low:+.4f}, {high:+.4f}]",
            f"{refused} of {len(own)}",
            f"{verdicts.count('degenerate')} of {len(own)}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
