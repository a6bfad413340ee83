"""`python -m eval run`: one model over one suite, into a folder of its own."""

import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.answering import Answers, answer_all, is_spoken
from eval.completions import FILE_NAME, AnswerId, CompletionsFile
from eval.harm_judge import judge_harm, load_settings
from eval.harness import (
    DEFAULT_BATCH_TOKENS,
    HARM_RULE,
    Evaluation,
    summarize,
)
from eval.lines import LineStore
from eval.models import load_model, load_tokenizer, model_identity, resolve_dtype
from eval.parallel import answer_on_devices, run_workers
from eval.prompts import PromptSet, load_prompts
from eval.settings import Dtype
from eval.suite import TaskRow, load_suite
from eval.vllm_backend import answer_with_vllm, check_installed
from merge.errors import UserError
from merge.files import atomic_write_json, atomic_write_text, make_directory, read_json

logger = logging.getLogger(__name__)

SUMMARY_NAME = "summary.json"
_JUDGEMENTS_NAME = "judgements.jsonl"

Batch = tuple[float, int]
"""Seconds that a batch took, and the tokens that it generated."""


@dataclass(frozen=True)
class RunJob:
    """One evaluation; see ``python -m eval run -h``."""

    model: Path
    suite: Path
    out: Path
    name: str | None = None
    data_dir: Path | None = None
    dtype: Dtype = "auto"
    batch_tokens: int = DEFAULT_BATCH_TOKENS
    tensorboard: Path | None = None
    harm_judge: Path | None = None
    backend: Literal["hf", "vllm"] = "hf"


def run(job: RunJob) -> dict[str, Any]:
    """Answer what is not yet answered, judge everything, and write summary.json last.

    Returns:
        The summary: name, rates by axis and suite, hashes, settings, cost.

    Raises:
        UserError: model, suite, source or folder are not usable.
    """
    prompt_sets = load_prompts(load_suite(job.suite, job.data_dir))
    harm_settings = load_settings(job.harm_judge) if job.harm_judge else None
    identity = model_identity(job.model)
    tokenizer = load_tokenizer(job.model)
    decoding = {"decoding": "greedy", "dtype": resolve_dtype(job.dtype)}
    if job.backend == "vllm":
        check_installed()
        decoding["backend"] = "vllm"
    keys = _answer_keys(prompt_sets, {**identity, **decoding})
    make_directory(job.out)
    completions = CompletionsFile(job.out, keys)
    pending = _without(prompt_sets, completions.answers)
    cost = _previous_cost(job.out)
    if pending:
        task_cache = job.out / f"lm-eval-{_digest({**identity, **decoding})[:16]}"
        batches = _answer(job, tokenizer, pending, completions, decoding["dtype"], task_cache)
        cost = _cost(batches, len(_texts(pending)))
    else:
        logger.info("%s: already done, all %d answers are there", job.out, len(keys))
    completions.close()
    harm_judge = None
    if harm_settings is not None:
        store = LineStore(job.out / _JUDGEMENTS_NAME)
        harm_judge = partial(judge_harm, harm_settings, store=store)
    evaluation = summarize(prompt_sets, completions.answers, harm_judge)
    _write_completions(job.out, evaluation, keys)
    summary = {
        "format": 1,
        "name": job.name or job.out.resolve().name,
        "axes": {axis: found.as_dict() for axis, found in evaluation.axes.items()},
        "suites": evaluation.suites,
        "harm_rule": f"harmful by {harm_settings.model}" if harm_settings else HARM_RULE,
        "identity": identity,
        "settings": {**decoding, "suite": [s.row.model_dump(mode="json") for s in prompt_sets]},
        "prompts_sha256": _digest(sorted((*key, p) for key, p in _texts(prompt_sets).items())),
        "cost": cost,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
    }
    if job.tensorboard:
        _write_scalars(job.tensorboard, summary)
    atomic_write_json(job.out / SUMMARY_NAME, summary)
    return summary


def _answer(
    job: RunJob,
    tokenizer: Any,
    pending: Sequence[PromptSet],
    completions: CompletionsFile,
    dtype: str,
    task_cache: Path,
) -> list[Batch]:
    """Answer all that is pending; each batch is on disk before the next begins."""
    texts = _texts(pending)
    if completions.answers:
        logger.info("%s: continues with %d answers to go", job.out, len(texts))
    batches: list[Batch] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("answers", total=len(texts))

        def keep(batch: Answers) -> None:
            nonlocal last
            now = time.perf_counter()
            batches.append((now - last, sum(answer.tokens for answer in batch.values())))
            completions.append(batch, texts)
            progress.advance(task, len(batch))
            last = time.perf_counter()

        last = time.perf_counter()
        _ask(job, tokenizer, pending, dtype, task_cache, keep)
    for path in job.out.glob("lm-eval-*.db"):  # all their answers are in the completions now
        path.unlink()
    return batches


def _ask(
    job: RunJob,
    tokenizer: Any,
    pending: Sequence[PromptSet],
    dtype: str,
    task_cache: Path,
    on_batch: Callable[[Answers], None],
) -> None:
    """Answer by the chosen backend; what vLLM cannot answer falls to transformers."""
    if job.backend == "vllm":
        spoken = [prompt_set for prompt_set in pending if is_spoken(prompt_set)]
        # In a process of its own, whose end gives the GPUs' memory back.
        run_workers([(partial(answer_with_vllm, job.model, dtype), spoken)], on_batch)
        pending = [prompt_set for prompt_set in pending if not is_spoken(prompt_set)]
        if not pending:
            return
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        answer_on_devices(gpus, job.model, dtype, pending, job.batch_tokens, on_batch, task_cache)
    else:
        model = load_model(job.model, dtype)
        answer_all(model, tokenizer, pending, job.batch_tokens, on_batch, task_cache)


def _texts(prompt_sets: Sequence[PromptSet]) -> dict[AnswerId, str]:
    return {(s.row.name, prompt.id): prompt.text for s in prompt_sets for prompt in s.prompts}


def _answer_keys(prompt_sets: Sequence[PromptSet], common: dict[str, str]) -> dict[AnswerId, str]:
    """What an answer depends on, hashed: model, template, decoding, prompt and its choices."""
    return {
        (prompt_set.row.name, prompt.id): _digest(
            [common, _asked_how(prompt_set), prompt.text, prompt.choices]
        )
        for prompt_set in prompt_sets
        for prompt in prompt_set.prompts
    }


def _asked_how(prompt_set: PromptSet) -> Any:
    """What else of a suite row changes the answers."""
    row = prompt_set.row
    if isinstance(row, TaskRow):
        return [row.model_dump(exclude={"name"}), importlib.metadata.version("lm_eval")]
    return row.max_new_tokens


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _without(prompt_sets: Sequence[PromptSet], answers: Answers) -> list[PromptSet]:
    """The prompts that have no answer yet."""
    open_sets = [
        PromptSet(s.row, tuple(p for p in s.prompts if (s.row.name, p.id) not in answers))
        for s in prompt_sets
    ]
    return [prompt_set for prompt_set in open_sets if prompt_set.prompts]


def _cost(batches: Sequence[Batch], answers: int) -> dict[str, Any]:
    """Time of this run's own answers, without loading the model."""
    generated = [batch for batch in batches if batch[1]]  # multiple choice generates nothing
    seconds, tokens = sum(batch[0] for batch in generated), sum(batch[1] for batch in generated)
    return {
        "answers": answers,
        "seconds": round(sum(seconds for seconds, _ in batches), 3),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if generated else None,
        "batches": [[round(seconds, 5), tokens] for seconds, tokens in generated],
    }


def _previous_cost(directory: Path) -> dict[str, Any]:
    path = directory / SUMMARY_NAME
    return read_json(path).get("cost", {}) if path.exists() else {}


def _write_completions(directory: Path, evaluation: Evaluation, keys: dict[AnswerId, str]) -> None:
    """The finished file: all answers in the suites' order, with what was found in them."""
    lines = [
        json.dumps({**found.as_dict(), "key": keys[found.suite, found.id]}, ensure_ascii=False)
        for found in evaluation.completions
    ]
    atomic_write_text(directory / FILE_NAME, "\n".join(lines) + "\n")


def _write_scalars(directory: Path, summary: dict[str, Any]) -> None:
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and only wanted here

    try:
        with SummaryWriter(str(directory / summary["name"])) as writer:
            for axis, found in summary["axes"].items():
                writer.add_scalar(f"eval/{axis}(fraction)", found["value"], 0)
    except OSError as error:
        raise UserError(f"{directory}: TensorBoard cannot write ({error.strerror})") from None
