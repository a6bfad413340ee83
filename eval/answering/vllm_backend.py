"""Answers by vLLM, where it is installed; it is no dependency of this project.

Never run on a real vLLM: it needs a GPU, and this was written on a machine without one. It is
written against vLLM's own documentation, read in parts in releases from 0.9 to 0.32: ``LLM``,
``SamplingParams``, ``RequestOutput``, ``LLM.collective_rpc`` with ``worker_extension_cls``, and
``LLM.reset_prefix_cache``. It is tested with a stand-in of the same signatures
(tests/support/vllm_stand_in).

In float32, answers should equal those of the backend ``hf`` except where two tokens are equally
likely: the kernels sum in another order. lm-eval's tasks stay with ``hf``.
"""

import gc
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from eval.answering.ask import (
    Answers,
    Asked,
    Asking,
    chat_prompts,
    choice_question,
    choose,
    generated_prompts,
    is_generated,
)
from eval.answering.asked_how import prompts_of
from eval.answering.choices import ChoiceQuestion
from eval.answering.decoding import Decoding
from eval.answering.generation import configured_endings
from eval.answering.loading import load_generation_config, load_tokenizer, stored_dtype
from eval.answering.parallel import run_workers
from eval.suites.prompts import PromptSet
from merge.common.errors import UserError, first_line
from train.chat.chat_settings import ChatSettings

_CHUNK = 1024
"""Prompts between two hand-overs of answers: vLLM batches inside them."""


def answer(
    asking: Asking,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
    on_ready: Callable[[], None],
) -> None:
    """As ``eval.answering.hf_backend.answer``, for prompts that are no tasks of lm-eval.

    In a process of its own, whose end gives the GPUs' memory back.
    """
    del on_ready  # that process does not tell
    _let_go_of_gpus()
    worker = partial(_answer_once, asking.folder, asking.dtype, asking.chat)
    run_workers([(worker, prompt_sets)], on_batch, have_children=True)


def _answer_once(
    folder: Path,
    dtype: str,
    chat: ChatSettings,
    prompt_sets: Sequence[PromptSet],
    on_batch: Callable[[Answers], None],
) -> None:
    Engine(folder, dtype, chat, prompt_sets).answer(prompt_sets, on_batch)


class Engine:
    """A vLLM engine that stays up: one model, tensor-parallel over all visible GPUs.

    vLLM takes nine tenths of each GPU's memory, its default.

    Args:
        folder: the model's.
        dtype: as ``eval.answering.loading.resolve_dtype`` gives it.
        chat: whether the model reasons, and which day its prompts name.
        prompt_sets: all that will be asked; the longest of them sizes the key-value cache.
        worker_extension: full name of a class whose methods vLLM's workers get; they are called
            by ``call_workers``.

    Raises:
        UserError: the model cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        chat: ChatSettings,
        prompt_sets: Sequence[PromptSet],
        worker_extension: str | None = None,
    ) -> None:
        from vllm import LLM  # pyright: ignore[reportMissingImports]

        _let_go_of_gpus()
        tokenizer = load_tokenizer(folder)
        self._chat = chat_prompts(tokenizer, chat)
        configured = configured_endings(load_generation_config(folder), tokenizer)
        self._endings = configured | frozenset(self._chat.stop_ids)
        options: dict[str, Any] = {
            "dtype": stored_dtype(folder) if dtype == "auto" else dtype,
            "tensor_parallel_size": max(1, torch.cuda.device_count()),
            # The model's own longest input may need more memory for its cache than there is.
            "max_model_len": max(self._lengths(prompt_sets), default=1),
        }
        if worker_extension is not None:
            options["worker_extension_cls"] = worker_extension
        try:
            self._llm: Any = LLM(model=str(folder), **options)
        except Exception as error:  # vLLM raises many unrelated types, also for want of memory
            raise UserError(f"model {folder}: vLLM cannot start ({first_line(error)})") from None

    def answer(self, prompt_sets: Sequence[PromptSet], on_batch: Callable[[Answers], None]) -> None:
        """Write the answers greedily, and pick the likeliest choices.

        Args:
            on_batch: gets the answers of each chunk of prompts.
        """
        asked = generated_prompts(Decoding(self._chat), prompt_sets)
        for start in range(0, len(asked), _CHUNK):
            on_batch(self._written(asked[start : start + _CHUNK]))
        for prompt_set in _with_choices(prompt_sets):
            choose(self._scores, prompts_of(self._chat, prompt_set), prompt_set, on_batch)

    def call_workers(self, method: str, *arguments: str | None) -> None:
        """Call a method of the worker extension in each of vLLM's processes.

        Args:
            method: it returns ``None``, or a text that says what went wrong.

        Raises:
            UserError: with the first such text.
        """
        for problem in self._llm.collective_rpc(method, args=arguments):
            if problem is not None:
                raise UserError(problem)

    def forget_prefixes(self) -> None:
        """Drop the cached keys and values of prompts, which other weights have computed."""
        if self._llm.reset_prefix_cache() is False:  # older versions return nothing
            raise RuntimeError("vLLM kept its prefix cache: requests are still running")

    def _written(self, asked: Sequence[Asked]) -> Answers:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        endings = sorted(self._endings)
        limits = [each.question.max_new_tokens for each in asked]
        outputs = self._generate(
            [each.question.token_ids for each in asked],
            [SamplingParams(temperature=0, max_tokens=n, stop_token_ids=endings) for n in limits],
        )
        answers = {}
        for each, output in zip(asked, outputs, strict=True):
            tokens = list(output.outputs[0].token_ids)
            if tokens and tokens[-1] in self._endings:  # unlike ours, vLLM's hold their ending
                tokens.pop()
            answers[each.id] = each.answer(tokens)
        return answers

    def _scores(self, questions: Sequence[ChoiceQuestion]) -> list[list[float]]:
        """See ``eval.answering.ask.Score``. vLLM reads a prompt again for each choice: a request
        for the log-probabilities of its own tokens uses no cached prefix."""
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]

        prompts = [
            [*question.prompt_ids, *choice] for question in questions for choice in question.choices
        ]
        own_tokens = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
        outputs = iter(self._generate(prompts, [own_tokens] * len(prompts)))
        return [
            [
                _mean_log_probability(next(outputs).prompt_logprobs, choice)
                for choice in question.choices
            ]
            for question in questions
        ]

    def _generate(self, prompts: Sequence[Sequence[int]], how: Sequence[Any]) -> list[Any]:
        return self._llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], how)

    def _lengths(self, prompt_sets: Sequence[PromptSet]) -> Iterator[int]:
        """Tokens of every prompt and its answer."""
        for each in generated_prompts(Decoding(self._chat), prompt_sets):
            yield each.question.width
        for prompt_set in _with_choices(prompt_sets):
            chat = prompts_of(self._chat, prompt_set)
            for prompt in prompt_set.prompts:
                question = choice_question(chat, prompt.text, prompt.choices)
                # vLLM generates a token behind each, which nobody reads.
                yield len(question.prompt_ids) + max(map(len, question.choices)) + 1


def _let_go_of_gpus() -> None:
    """Give back what this process has freed: else vLLM finds less memory than it wants."""
    gc.collect()
    torch.cuda.empty_cache()


def _with_choices(prompt_sets: Sequence[PromptSet]) -> Iterator[PromptSet]:
    return itertools.filterfalse(is_generated, prompt_sets)


def _mean_log_probability(log_probabilities: Any, choice: Sequence[int]) -> float:
    """The mean over a prompt's last tokens; each token has its own log-probability by its id."""
    own = log_probabilities[-len(choice) :]
    return sum(each[token].logprob for each, token in zip(own, choice, strict=True)) / len(choice)
