"""Throughput of the evaluation's generation beside plain loops over `model.generate`.

    python -m tests.benchmarks.benchmark_generate --model models/smollm2-135m-instruct

asks one model the same prompts of mixed length three ways, in one process and in turns: one prompt
at a time, in batches of 16 in file order (as most scripts do), and by `eval.generation`. All are
greedy, in float32 on a CPU. Answers of another way may differ where two tokens are nearly equally
likely, as a batch of another shape sums in another order; the share of equal ones is printed.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.loading import load_model, load_tokenizer
from eval.answering.token_streams import left_padded
from train.chat.prompts import ChatPrompts

_WORDS = "how do I paint the old garden fence green before winter and what does a good brush cost"
_BATCH = 16
_BATCH_TOKENS = 4096

Answers = list[list[int]]


def questions_of(chat: ChatPrompts, count: int, new_tokens: int) -> list[Question]:
    """Prompts of 5 to 160 words, short ones more often, as in benchmarks."""
    draw = random.Random(0)
    lengths = [round(5 * 32 ** draw.random()) for _ in range(count)]
    texts = [" ".join(draw.choices(_WORDS.split(), k=length)) + "?" for length in lengths]
    return [Question(chat.question_ids(text), new_tokens) for text in texts]


def by_plain_generate(
    model: Any, questions: Sequence[Question], endings: frozenset[int], batch: int
) -> Answers:
    """Answers by transformers' own generate, in file order."""
    answers: Answers = []
    for start in range(0, len(questions), batch):
        chunk = questions[start : start + batch]
        ids, mask = left_padded([question.token_ids for question in chunk], model.device)
        whole = model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=chunk[0].max_new_tokens,
            eos_token_id=sorted(endings),
            pad_token_id=min(endings),
        )
        for row in whole[:, ids.shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in endings), len(row))
            answers.append(row[:end])
    return answers


def by_evaluation(model: Any, questions: Sequence[Question], endings: frozenset[int]) -> Answers:
    answers: dict[int, list[int]] = {}
    for batch in generate(model, questions, endings, _BATCH_TOKENS):
        answers.update(batch)
    return [answers[index] for index in range(len(questions))]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.benchmark_generate", description=__doc__
    )
    parser.add_argument("--model", type=Path, required=True, help="a chat model's folder")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    model, tokenizer = load_model(options.model, "float32"), load_tokenizer(options.model)
    chat = ChatPrompts(tokenizer)
    endings = ending_tokens(model, tokenizer) | frozenset(chat.stop_ids)
    questions = questions_of(chat, options.prompts, options.new_tokens)
    ways: dict[str, Callable[[], Answers]] = {
        "generate, one by one": lambda: by_plain_generate(model, questions, endings, 1),
        f"generate, batches of {_BATCH}": lambda: by_plain_generate(
            model, questions, endings, _BATCH
        ),
        "eval.answering.generation": lambda: by_evaluation(model, questions, endings),
    }
    by_evaluation(model, questions[:2], endings)  # the first call is slower than all others
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Answers] = {}
    for turn in range(options.turns):
        order = list(ways) if turn % 2 == 0 else list(ways)[::-1]
        for name in order:
            start = time.perf_counter()
            answers[name] = ways[name]()
            tokens = sum(map(len, answers[name]))
            speeds[name].append(tokens / (time.perf_counter() - start))
    _show(speeds, answers)


def _show(speeds: dict[str, list[float]], answers: dict[str, Answers]) -> None:
    first = next(iter(answers))
    table = Table(title="Tokens per second, mean over the turns")
    for column in ("", "tokens/s", "lowest to highest", "against the first", "equal answers"):
        table.add_column(column)
    for name, runs in speeds.items():
        equal = sum(a == b for a, b in zip(answers[name], answers[first], strict=True))
        table.add_row(
            name,
            f"{statistics.fmean(runs):.1f}",
            f"{min(runs):.1f} - {max(runs):.1f}",
            f"{statistics.fmean(runs) / statistics.fmean(speeds[first]):.2f}x",
            f"{equal} of {len(answers[first])}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
