"""Utility tasks through lm-eval's Python API: its prompts, its few-shot examples, its metrics.

Every question comes back as right or wrong, so that lm-eval's tasks get the same intervals, paired
tests and flips as all other suites. lm-eval's own cache of answers does not know which model gave
them; the file named by ``cache`` must, and stands for one model alone.
"""

import copy
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from functools import cache as remembered
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from eval.suites.answers import Answer
from eval.suites.prompts import Prompt
from eval.suites.suite import TaskRow
from merge.common.errors import UserError, first_line
from train.chat.prompts import ChatPrompts

# lm-eval's decorators hide the parameters of both from type checkers.
_LM: Any = HFLM
_evaluate: Any = simple_evaluate

logging.getLogger("lm_eval").setLevel(logging.WARNING)  # it logs every step at level INFO

_TOKENS_PER_ROW = 1024
"""How long a question with its examples is taken to be: five examples of MMLU are about 800."""


@remembered
def _manager(include: str | None) -> TaskManager:
    """The known tasks; it takes seconds to find them."""
    return TaskManager(include_path=include)


def task_prompts(row: TaskRow) -> list[Prompt]:
    """The questions that a task, or every task of a group, would ask, without its examples.

    Their ids are "task/number"; the category is the task, where there are several.

    Raises:
        UserError: lm-eval has no such task, cannot get its data, or it has no such metric.
    """
    where = f"suite '{row.name}'"
    if row.include is not None and not Path(row.include).is_dir():
        raise UserError(f"{where}: no folder {row.include}; fix 'include'")
    tasks = _load(row, where)
    metric, filtered = _metric(row)
    for name, task in tasks.items():
        known = set(task.aggregation())
        filters = {entry["name"] for entry in task.config.filter_list or []} or {"none"}
        if metric not in known or filtered not in filters:
            names = ", ".join(sorted(f"{m},{f}" for m in known for f in filters))
            raise UserError(f"{where}: task {name} has no metric '{row.metric}'; it has: {names}")
    return [
        _prompt(task, f"{name}/{number}", document, name if len(tasks) > 1 else None)
        for name, task in tasks.items()
        for number, document in enumerate(_documents(task, row.limit))
    ]


def answer_task(
    model: PreTrainedModel,
    chat: ChatPrompts,
    row: TaskRow,
    prompts: Sequence[Prompt],
    batch_tokens: int,
    cache: Path | None = None,
) -> Iterator[dict[str, Answer]]:
    """Ask every task that one of the prompts is from, and give its answers by prompt id.

    Args:
        chat: whether the model reasons, and which day it is, where the row has chat_template.
        cache: where lm-eval keeps single answers of an unfinished task; of this model only.

    Raises:
        UserError: the metric is not right or wrong for each question.
    """
    rows = max(1, batch_tokens // _TOKENS_PER_ROW)
    template, arguments = chat.template_with_settings
    tokenizer = copy.copy(chat.tokenizer)
    tokenizer.chat_template = template  # lm-eval renders by itself, and knows no day but today
    lm = _LM(pretrained=model, tokenizer=tokenizer, batch_size=rows, chat_template_args=arguments)
    metric, filtered = _metric(row)
    known = {prompt.id: prompt for prompt in prompts}
    for name in dict.fromkeys(_task_of(prompt) for prompt in prompts):
        with _without_bars():
            results = _evaluate(
                model=lm,
                tasks=[name],
                num_fewshot=row.few_shots,
                limit=row.limit,
                apply_chat_template=row.chat_template,
                task_manager=_manager(row.include),
                use_cache=None if cache is None else str(cache),
                bootstrap_iters=0,
            )
        assert results is not None  # that is what the other ranks of a distributed lm-eval get
        samples = {
            f"{name}/{sample['doc_id']}": sample
            for sample in results["samples"][name]
            if sample["filter"] == filtered
        }
        yield {
            id_: _answer(row, metric, prompt, samples[id_])
            for id_, prompt in known.items()
            if _task_of(prompt) == name
        }


def _without_bars() -> AbstractContextManager[object]:
    """Where stderr is no terminal: lm-eval shows its bars, whatever tqdm's variables say.

    What is logged still comes: a handler has the stream of its beginning.
    """
    return nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())


def _answer(row: TaskRow, metric: str, prompt: Prompt, sample: dict[str, Any]) -> Answer:
    score = sample[metric]
    if score not in (0, 1):  # True and 1.0 are 1
        raise UserError(
            f"suite '{row.name}': metric '{row.metric}' gives {score} for one question; name a "
            "metric that is right or wrong, as acc or exact_match"
        )
    if not prompt.choices:
        return Answer(str(sample["resps"][0][0]), 0, bool(score))
    likelihoods = [float(pair[0]) for pair in sample["filtered_resps"][: len(prompt.choices)]]
    if metric == "acc_norm":  # as lm-eval has it: per character of the choice
        likelihoods = [
            value / len(choice) for value, choice in zip(likelihoods, prompt.choices, strict=True)
        ]
    return Answer(prompt.choices[likelihoods.index(max(likelihoods))], 0, bool(score))


def _load(row: TaskRow, where: str) -> dict[str, Any]:
    """The row's tasks by name, those of a group in its order."""
    try:
        return dict(_manager(row.include).load([row.task])["tasks"])
    except KeyError:
        raise UserError(
            f"{where}: lm-eval has no task '{row.task}'; `lm-eval ls tasks` lists them, and "
            "'include' adds a folder of your own"
        ) from None
    except Exception as error:  # whatever the data set's own loader raises
        raise UserError(
            f"{where}: lm-eval cannot get the data of task '{row.task}' ({first_line(error)}); "
            "connect to the hub, or set HF_HOME to a folder into which they were downloaded before"
        ) from None


def _documents(task: Any, limit: int | None) -> list[dict[str, Any]]:
    return [document for _, document in task.doc_iterator(limit=limit)]


def _prompt(task: Any, id_: str, document: dict[str, Any], category: str | None) -> Prompt:
    choices: list[str] = []
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [str(choice) for choice in task.doc_to_choice(document)]
    text, target = task.doc_to_text(document), task.doc_to_target(document)
    if isinstance(text, int):  # as WinoGrande: the choices are beginnings, the target their end
        text, target = f"{' | '.join(choices)} ... {target}", text
    answer = choices[target] if choices and isinstance(target, int) else target
    return Prompt(id_, category, str(text), str(answer), tuple(choices))


def _metric(row: TaskRow) -> tuple[str, str]:
    """Metric and filter; lm-eval calls the filter of a task without any "none"."""
    metric, _, filtered = row.metric.partition(",")
    return metric, filtered or "none"


def _task_of(prompt: Prompt) -> str:
    return prompt.id.rpartition("/")[0]
