"""Written answers by vLLM, where it is installed; it is no dependency of this project.

Nothing here has been run by us: vLLM needs a GPU, and this was written on a machine without one.
Answers should equal those of the backend ``hf`` in float32, except where two tokens are equally
likely: the kernels sum in another order. Choices and lm-eval's tasks stay with ``hf``.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.answering.ask import Answers, Asking, chat_prompts, generated_prompts
from eval.answering.decoding import Decoding
from eval.answering.loading import load_tokenizer
from eval.answering.parallel import run_workers
from eval.suites.prompts import PromptSet
from train.chat.chat_settings import ChatSettings

_CHUNK = 1024
"""Prompts between two hand-overs of answers: vLLM batches inside them."""


def answer(
    asking: Asking,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
    on_ready: Callable[[], None],
) -> None:
    """As ``eval.answering.hf_backend.answer``, for prompts whose answers are written.

    In a process of its own, whose end gives the GPUs' memory back.
    """
    del on_ready  # that process does not tell
    worker = partial(answer_with_vllm, asking.folder, asking.dtype, asking.chat)
    run_workers([(worker, prompt_sets)], on_batch)


def answer_with_vllm(
    folder: Path,
    dtype: str,
    chat: ChatSettings,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
) -> None:
    """Answer all prompts whose answers are written, greedily, on all visible GPUs together."""
    from vllm import LLM, SamplingParams  # pyright: ignore[reportMissingImports]

    prompts = chat_prompts(load_tokenizer(folder), chat)
    asked = generated_prompts(Decoding(prompts), prompt_sets)
    model: Any = LLM(
        model=str(folder), dtype=dtype, tensor_parallel_size=max(1, torch.cuda.device_count())
    )
    endings = set(prompts.stop_ids)
    for start in range(0, len(asked), _CHUNK):
        chunk = asked[start : start + _CHUNK]
        outputs = model.generate(
            [{"prompt_token_ids": list(each.question.token_ids)} for each in chunk],
            [
                SamplingParams(
                    temperature=0,
                    max_tokens=each.question.max_new_tokens,
                    stop_token_ids=[*endings],
                )
                for each in chunk
            ],
        )
        answers = {}
        for each, output in zip(chunk, outputs, strict=True):
            tokens = list(output.outputs[0].token_ids)
            if tokens and tokens[-1] in endings:  # unlike ours, vLLM's answers hold their ending
                tokens.pop()
            answers[each.id] = each.answer(tokens)
        on_batch(answers)
