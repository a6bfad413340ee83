"""What `launch plan` says of judges that are models, and of MT-Bench, whose answers one rates.

As of answers, only the limit of a text's length is known, so these are times at most.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from eval.judges.by_model.settings import (
    HarmJudgeSettings,
    JudgeSettings,
    RefusalJudgeSettings,
    load_judge_file,
)
from eval.settings import EvaluationSettings, MtBenchSettings
from launch.sizing.answering_needs import (
    CHARACTERS_A_TOKEN,
    TEMPLATE_TOKENS,
    Asked,
    Questions,
    answering_seconds,
)
from launch.sizing.gpus import GPUS
from launch.sizing.training_needs import Model
from merge.common.errors import UserError
from merge.common.json_lines import read_lines
from train.backbone.folder import read_config
from train.recipe import BackboneSettings

_TURNS = ((80, 40.0), (80, 40.0))
"""MT-Bench's questions by turn, and their tokens, where its file is not here."""
_RATING_TOKENS = 512
"""A judge's explanation and its rating, ``eval.judges.rating``."""
_INSTRUCTION = 120
"""Tokens of what that judge is told, about."""
_JUDGED_AXES = {HarmJudgeSettings: ("harm",), RefusalJudgeSettings: ("harm", "refusal")}

Times = tuple[str, list[float]]
"""What is done, in words, and its seconds on each of the GPUs of ``launch.sizing.gpus``."""


def mt_bench_times(
    model: Model, bench: MtBenchSettings, batch_tokens: int, models: int
) -> Iterator[Times]:
    """Times of so many models' answers, and of their ratings where the judge's size is known."""
    turns = _turns(bench.questions)
    answers = [
        Asked(count, tokens + place * bench.max_new_tokens, bench.max_new_tokens, "utility")
        for place, (count, tokens) in enumerate(turns)
    ]
    count = sum(row.count for row in answers)
    asked = Questions(answers)
    yield (
        f"{models} times {count} answers",
        [models * answering_seconds(model, asked, batch_tokens, gpu) for gpu in GPUS],
    )
    judge = _causal_model(bench.judge)
    words = f"{models} times {count} ratings by {bench.judge}"
    if judge is None:
        yield f"{words}: not counted, its configuration is not here", []
        return
    rated = [
        replace(
            row,
            prompt_tokens=_INSTRUCTION + row.prompt_tokens + row.new_tokens,
            new_tokens=_RATING_TOKENS,
        )
        for row in answers
    ]
    ratings = Questions(rated)
    yield (
        words,
        [models * answering_seconds(judge, ratings, batch_tokens, gpu) for gpu in GPUS],
    )


def judge_times(settings: EvaluationSettings, asked: Questions, models: int) -> Iterator[Times]:
    """Times of the judges that are models, with the answers of so many models."""
    for file, kind in (
        (settings.harm_judge, HarmJudgeSettings),
        (settings.refusal_judge, RefusalJudgeSettings),
    ):
        if isinstance(file, Path):
            judge = load_judge_file(file, kind)
            rows = [row for row in asked.rows if row.axis in _JUDGED_AXES[kind]]
            if rows:
                yield _judge_time(judge, rows, models)


def _judge_time(judge: JudgeSettings, rows: Sequence[Asked], models: int) -> Times:
    count = sum(row.count for row in rows)
    words = f"{models} times {count} judgements by {judge.model}"
    template = len(judge.template or "") / CHARACTERS_A_TOKEN
    times = max(1, len(judge.policies))
    if judge.kind == "classifier":
        parameters = _parameters(judge.model)
        if parameters is None:
            return f"{words}: not counted, its configuration is not here", []
        tokens = sum(row.count * min(judge.max_length, row.new_tokens) for row in rows)
        return words, [models * 2.0 * parameters * tokens / gpu.flops for gpu in GPUS]
    model = _causal_model(judge.model)
    if model is None:
        return f"{words}: not counted, its configuration is not here", []
    # A scorer's word is one token.
    new_tokens = judge.max_new_tokens if judge.kind == "guard" else 1
    read = [
        Asked(times * row.count, template + row.prompt_tokens + row.new_tokens, new_tokens, "harm")
        for row in rows
    ]
    seconds = [answering_seconds(model, Questions(read), judge.batch_tokens, gpu) for gpu in GPUS]
    return words, [models * each for each in seconds]


def _turns(questions: Path) -> Sequence[tuple[int, float]]:
    """By turn the number of questions that have it, and the tokens of what is said up to it."""
    if not questions.is_file():
        return _TURNS
    dialogues = [record.get("turns", []) for record in read_lines(questions)]
    judged = []
    for turn in range(max(map(len, dialogues), default=0)):
        lengths = [
            sum(map(len, said[: turn + 1])) / CHARACTERS_A_TOKEN
            for said in dialogues
            if turn < len(said)
        ]
        judged.append((len(lengths), sum(lengths) / len(lengths) + TEMPLATE_TOKENS))
    return judged


def _causal_model(path: str) -> Model | None:
    """A judge that writes, by its configuration; None where that cannot be read."""
    try:
        return Model.from_config(read_config(BackboneSettings(path=path)), source=path)
    except UserError:
        return None


def _parameters(path: str) -> int | None:
    """The number of a classifier's parameters; None where its configuration cannot be read."""
    from transformers import AutoModelForSequenceClassification

    try:
        config = read_config(BackboneSettings(path=path))
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except (UserError, ValueError):
        return None
    return sum(parameter.numel() for parameter in model.parameters())
