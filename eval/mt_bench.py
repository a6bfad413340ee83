"""`python -m eval mt-bench`: two-turn answers, rated from 1 to 10 by a model that the user names.

The questions are MT-Bench's or a file in its form: JSON lines with question_id, category and turns.
Decoding is greedy in every category, unlike FastChat's own script, which draws creative answers.
"""

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eval.answering.ask import chat_prompts
from eval.answering.generation import Question, ending_tokens, generate
from eval.answering.loading import load_model, load_tokenizer, model_identity, resolve_dtype
from eval.judges.rating import Dialogue, rate_dialogues
from eval.settings import DEFAULTS, EvaluationSettings, MtBenchSettings
from eval.statistics.rates import GroupedMean, grouped_mean
from merge.common.errors import UserError
from merge.common.files import atomic_write_json, make_directory, sha256_json
from merge.common.json_lines import LineStore, read_lines
from merge.common.progress import Progress
from merge.common.settings import Settings, parse_settings
from train.chat.answer import answer_of
from train.chat.prompts import ChatPrompts

logger = logging.getLogger(__name__)

RESULT_NAME = "mt_bench.json"
_ANSWERS_NAME = "mt_bench_answers.jsonl"
_RATINGS_NAME = "mt_bench_ratings.jsonl"


class MtQuestion(Settings):
    """One question: what the user says in each turn."""

    question_id: int | str
    category: str
    turns: list[str] = Field(min_length=1)
    reference: list[str] = Field(default_factory=list)
    """Answers that are right, where there are any, by turn: mathematics, code."""


@dataclass(frozen=True)
class MtBenchJob:
    """One evaluation; see ``python -m eval mt-bench -h``.

    Attributes:
        out: the folder of the model's ``eval run``.
        name: the model's in reports; the folder's by default.
        settings: how it is asked.
    """

    model: Path
    bench: MtBenchSettings
    out: Path
    name: str | None = None
    settings: EvaluationSettings = DEFAULTS


class RatingsSummary(GroupedMean):
    """Mean rating over ``n`` questions, with its parts."""

    unparsed: int
    """Judgements without a readable rating."""
    turns: list[GroupedMean]
    categories: dict[str, GroupedMean]
    ratings: dict[str, list[float | None]]
    """By question the rating of each turn; None where it could not be read."""


class MtBenchResult(RatingsSummary):
    """The content of mt_bench.json."""

    format: int
    name: str
    judge: str
    identity: dict[str, str]
    settings: dict[str, Any]
    unfinished: int
    """Answers whose reasoning never ends."""
    versions: dict[str, str]


def run_mt_bench(job: MtBenchJob) -> MtBenchResult:
    """Answer, rate, and write mt_bench.json; answers and ratings that exist are kept.

    Returns:
        The mean rating with its interval over questions, by turn and category; the number of
        ratings that could not be read, which count nowhere; every question's ratings; the number
        of answers whose reasoning never ends.

    Raises:
        UserError: model, judge, questions or folder are not usable.
    """
    questions = read_questions(job.bench.questions)
    identity = model_identity(job.model)
    make_directory(job.out)
    chat = chat_prompts(load_tokenizer(job.model), job.settings.chat)
    answers = _answer(job, questions, identity, chat)
    unfinished = sum(answer_of(completion) is None for said in answers for completion in said)
    if unfinished:
        logger.warning(
            "%d answers end inside their reasoning, and are rated as empty: raise "
            "--max-new-tokens, or turn reasoning off (--reasoning off)",
            unfinished,
        )
    dialogues = [
        Dialogue(tuple(q.turns[: turn + 1]), _shown(said[: turn + 1]), _reference(q, turn))
        for q, said in zip(questions, answers, strict=True)
        for turn in range(len(q.turns))
    ]
    ratings_in_order = iter(
        rate_dialogues(job.bench.judge, dialogues, LineStore(job.out / _RATINGS_NAME))
    )
    ratings = [[next(ratings_in_order) for _ in question.turns] for question in questions]
    result: MtBenchResult = {
        "format": 1,
        "name": job.name or job.out.resolve().name,
        "judge": job.bench.judge,
        "identity": identity,
        "settings": {"max_new_tokens": job.bench.max_new_tokens, **chat.recorded},
        "unfinished": unfinished,
        **summarize_ratings(questions, ratings),
        "versions": {"transformers": importlib.metadata.version("transformers")},
    }
    atomic_write_json(job.out / RESULT_NAME, result)
    return result


def summarize_ratings(
    questions: Sequence[MtQuestion], ratings: Sequence[Sequence[float | None]]
) -> RatingsSummary:
    """Means over what could be read; ``None`` is a judgement that gave no rating."""
    readable = [[value for value in row if value is not None] for row in ratings]
    turns = max(len(row) for row in ratings)
    categories = dict.fromkeys(question.category for question in questions)
    return {
        **grouped_mean(readable),
        "unparsed": sum(value is None for row in ratings for value in row),
        "turns": [
            grouped_mean([[v for v in row[turn : turn + 1] if v is not None] for row in ratings])
            for turn in range(turns)
        ],
        "categories": {
            category: grouped_mean(
                [row for q, row in zip(questions, readable, strict=True) if q.category == category]
            )
            for category in categories
        },
        "ratings": {
            str(q.question_id): list(row) for q, row in zip(questions, ratings, strict=True)
        },
    }


def read_questions(path: Path) -> list[MtQuestion]:
    """Read questions in MT-Bench's form; other keys of a line are ignored.

    Raises:
        UserError: the file is missing, empty or broken, or a line lacks a key.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give --questions MT-Bench's question.jsonl")
    known = MtQuestion.model_fields.keys()
    questions = [
        parse_settings(
            MtQuestion,
            {key: value for key, value in record.items() if key in known},
            f"{path} line {number}",
        )
        for number, record in enumerate(read_lines(path), start=1)
    ]
    if not questions:
        raise UserError(f"{path}: holds no question")
    return questions


def _reference(question: MtQuestion, turn: int) -> str | None:
    return question.reference[turn] if turn < len(question.reference) else None


def _answer(
    job: MtBenchJob, questions: Sequence[MtQuestion], identity: dict[str, str], chat: ChatPrompts
) -> list[list[str]]:
    """All turns of all questions, each turn on the answers before it."""
    store = LineStore(job.out / _ANSWERS_NAME)
    dtype = resolve_dtype(job.settings.dtype)
    common = [
        identity,
        dtype,
        job.bench.max_new_tokens,
        *([chat.recorded] if chat.recorded else []),
    ]
    model = None
    answers: list[list[str]] = [[] for _ in questions]
    for turn in range(max(len(question.turns) for question in questions)):
        asked = [number for number, q in enumerate(questions) if turn < len(q.turns)]
        keys = {
            number: sha256_json(
                [common, questions[number].turns[: turn + 1], answers[number]], sort_keys=True
            )
            for number in asked
        }
        pending = [number for number in asked if keys[number] not in store.values]
        if pending:
            model = model or load_model(job.model, dtype)
            prompts = [
                Question(_ids(chat, questions[n].turns, answers[n]), job.bench.max_new_tokens)
                for n in pending
            ]
            endings = ending_tokens(model, chat.tokenizer) | set(chat.stop_ids)
            with Progress(f"turn {turn + 1}", len(pending), "answers") as progress:
                for batch in generate(model, prompts, endings, job.settings.batch_tokens):
                    store.add({keys[pending[n]]: chat.decode(ids) for n, ids in batch.items()})
                    progress.advance(len(batch))
        for number in asked:
            answers[number].append(store.values[keys[number]])
    return answers


def _shown(completions: Sequence[str]) -> tuple[str, ...]:
    """What the judge, and later turns, see: answers without reasoning; none of an endless one."""
    return tuple(answer_of(completion) or "" for completion in completions)


def _ids(chat: ChatPrompts, turns: list[str], completions: list[str]) -> list[int]:
    """The dialogue so far, up to where the next answer begins."""
    said = [{"role": "user", "content": turns[0]}]
    for answer, turn in zip(_shown(completions), turns[1:], strict=False):
        said += [{"role": "assistant", "content": answer}, {"role": "user", "content": turn}]
    return chat.dialogue_ids(said)
