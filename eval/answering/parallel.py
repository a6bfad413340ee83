"""Answering in processes of their own: one for each visible GPU, or one for vLLM.

Every process has the whole model and its share of the prompts. The answers are those of one process
as long as no two tokens are equally likely: a batch of another shape may round them otherwise.
"""

import multiprocessing
import queue
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eval.answering.ask import Answers, answer_all
from eval.answering.loading import load_model, load_tokenizer
from eval.decoding_settings import DecodingSettings
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import TaskRow
from merge.common.errors import UserError
from train.chat.chat_settings import DEFAULT_CHAT, ChatSettings

_SECONDS_TO_END = 60.0

Worker = Callable[[Sequence[PromptSet], Callable[[Answers], None]], None]
"""Answers prompts and hands batches over; it must be a function of a module, or a partial."""


def answer_on_devices(
    devices: Sequence[str],
    model: Path,
    dtype: str,
    prompt_sets: Sequence[PromptSet],
    batch_tokens: int,
    on_batch: Callable[[Answers], None],
    task_cache: Path,
    decoding: DecodingSettings | None = None,
    chat: ChatSettings = DEFAULT_CHAT,
) -> None:
    """Like ``answer_all``, with one process and one copy of the model on each device.

    Raises:
        UserError: a process failed or was killed; what was handed over stays.
    """
    workers: list[tuple[Worker, Sequence[PromptSet]]] = []
    for rank, share in enumerate(split(prompt_sets, len(devices))):
        cache = task_cache.with_name(f"{task_cache.name}-{rank}")
        how = (batch_tokens, cache, decoding, chat)
        worker = partial(_answer_on, devices[rank], model, dtype, *how)
        workers.append((worker, share))
    run_workers(workers, on_batch)


def split(prompt_sets: Sequence[PromptSet], parts: int) -> list[list[PromptSet]]:
    """Shares of about equal work: prompts are dealt by length, lm-eval's tasks whole."""
    shares: list[list[PromptSet]] = [[] for _ in range(parts)]
    for prompt_set in prompt_sets:
        dealt: list[list[Prompt]] = [[] for _ in range(parts)]
        for number, group in enumerate(_groups(prompt_set)):
            dealt[number % parts] += group
        for share, prompts in zip(shares, dealt, strict=True):
            if prompts:
                share.append(PromptSet(prompt_set.row, tuple(prompts)))
    return shares


def _groups(prompt_set: PromptSet) -> list[list[Prompt]]:
    """What must stay together, largest first."""
    if not isinstance(prompt_set.row, TaskRow):
        longest_first = sorted(prompt_set.prompts, key=lambda prompt: -len(prompt.text))
        return [[prompt] for prompt in longest_first]
    tasks: dict[str, list[Prompt]] = {}
    for prompt in prompt_set.prompts:
        tasks.setdefault(prompt.id.rpartition("/")[0], []).append(prompt)
    return sorted(tasks.values(), key=len, reverse=True)


def run_workers(
    workers: Sequence[tuple[Worker, Sequence[PromptSet]]],
    on_batch: Callable[[Answers], None],
    have_children: bool = False,
) -> None:
    """Run each worker in a process on its prompts; ``on_batch`` is called in this one.

    Args:
        have_children: whether the processes start others, which Python forbids to daemons; each
            then ends these when its answers are there, or when it is ended itself.

    Raises:
        UserError: a process failed or was killed; what was handed over stays.
    """
    # CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    target = _report_as_parent if have_children else _report
    processes = [
        context.Process(target=target, args=(worker, share, results), daemon=not have_children)
        for worker, share in workers
    ]
    for process in processes:
        process.start()
    running = len(processes)
    try:
        while running:
            try:
                message = results.get(timeout=1)
            except queue.Empty:
                _check_alive(processes)
                continue
            if isinstance(message, str):
                raise UserError(message)
            if message is None:
                running -= 1
            else:
                on_batch(message)
        for process in processes if have_children else ():
            process.join(_SECONDS_TO_END)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _check_alive(processes: Sequence[Any]) -> None:
    killed = [process.exitcode for process in processes if process.exitcode not in (None, 0)]
    if killed:
        raise UserError(
            f"a process of the evaluation ended with status {killed[0]}, often for want of memory; "
            "lower --batch-tokens and run again: finished answers are kept"
        )


def _report_as_parent(worker: Worker, prompt_sets: Sequence[PromptSet], results: Any) -> None:
    """As ``_report``; ended by a signal, it exits as Python does, which ends its children."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _report(worker, prompt_sets, results)


def _report(worker: Worker, prompt_sets: Sequence[PromptSet], results: Any) -> None:
    """The whole life of a process: its batches, then ``None``; or a text that says what failed."""
    try:
        worker(prompt_sets, results.put)
    except UserError as error:
        results.put(str(error))
    else:
        results.put(None)


def _answer_on(
    device: str,
    folder: Path,
    dtype: str,
    batch_tokens: int,
    task_cache: Path,
    decoding: DecodingSettings | None,
    chat: ChatSettings,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
) -> None:
    if prompt_sets:
        model = load_model(folder, dtype, device)
        tokenizer = load_tokenizer(folder)
        how = (batch_tokens, on_batch, task_cache, decoding)
        answer_all(model, tokenizer, prompt_sets, *how, chat=chat)
