"""Answers by transformers: in this process, or on several visible GPUs in one process each."""

from collections.abc import Callable, Sequence

import torch

from eval.answering.ask import Answers, Asking, answer_all
from eval.answering.parallel import answer_on_devices
from eval.suites.prompts import PromptSet


def answer(
    asking: Asking,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
    on_ready: Callable[[], None],
) -> None:
    """Answer every prompt.

    Args:
        on_batch: gets each batch's answers as soon as they exist.
        on_ready: called when the first prompt is about to be asked, where that is known.
    """
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    how = (prompt_sets, asking.batch_tokens, on_batch, asking.task_cache, asking.decoding)
    if len(gpus) > 1:
        answer_on_devices(gpus, asking.folder, asking.dtype, *how, asking.chat)
    else:
        answer_all(asking.load(), asking.tokenizer, *how, on_ready=on_ready, chat=asking.chat)
