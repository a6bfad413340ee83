"""What asking a model needs, from its configuration and a suite: memory of one GPU, and time.

For search and evaluation, which have the whole model on one GPU. Times are rough: of the answers'
length only the limit is known, so they are times at most.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from eval.settings import MOST_LOGITS
from eval.suites.prompts import PromptSet, load_prompts
from eval.suites.suite import Suite, load_suite
from launch.search.settings import SearchSettings
from launch.sizing.gpus import ASSUMED_BANDWIDTH, Gpu
from launch.sizing.training_needs import Model, activation_bytes, logit_bytes
from train.data.tables import is_file
from train.settings import SafetyTraining

_BASE = 1.5e9
"""As in a training: CUDA context and workspaces."""
_SLACK = 1.1
"""What PyTorch's allocator keeps beyond what is in use, as caches grow."""
CHARACTERS_A_TOKEN = 3.0
TEMPLATE_TOKENS = 40
"""What a chat template adds, about."""
_UNREAD_PROMPT = 150
"""Tokens of a prompt that cannot be read here."""
_SHORTEST_ROW = 64
_LAYER_SECONDS = 8e-4
"""Seconds of a token in one layer, where starting the kernels takes longer than they do."""
_FIT_PASS = SafetyTraining(micro_batch_size=8, max_length=256)
"""A prompt with eight openings, of which a fit goes back through all layers."""


@dataclass(frozen=True)
class AnsweringMemory:
    """Bytes of the GPU that answers, in bf16."""

    weights: float
    cache: float
    """Keys and values of all tokens of a batch."""
    activations: float
    """Activations of one block while prompts are read; of all blocks in a fit's backward pass."""
    logits: float
    base: float = _BASE

    @property
    def total(self) -> float:
        """The peak."""
        return sum(getattr(self, field.name) for field in fields(self))


def answering_memory(
    model: Model, batch_tokens: int, search: SearchSettings | None = None
) -> AnsweringMemory:
    """Memory of an evaluation, or of a search, whose merges are made in the host's memory.

    Args:
        batch_tokens: rows x (prompt + new tokens) of one batch.
    """
    block = 5 * model.hidden + 2 * model.shape.attention_width + 3 * model.intermediate
    activations = 2.0 * batch_tokens * block
    of_answers = 6.0 * batch_tokens / _SHORTEST_ROW * model.vocabulary
    of_choices = 2.0 * min(MOST_LOGITS, batch_tokens * model.vocabulary)
    logits = max(of_answers, of_choices)
    if search is not None and search.fit != "none":
        gradient = 2 * max(model.sizes)
        activations = max(activations, activation_bytes(model, _FIT_PASS, 2) + gradient)
        logits = max(logits, logit_bytes(model, _FIT_PASS, 2))
    return AnsweringMemory(
        weights=2.0 * model.shape.parameters,
        cache=_SLACK * 4 * batch_tokens * model.shape.layers * model.key_value_width,
        activations=_SLACK * activations,
        logits=_SLACK * logits,
    )


@dataclass(frozen=True)
class Asked:
    """The prompts of one row of a suite."""

    count: int
    prompt_tokens: float
    """Tokens of one prompt with its choices."""
    new_tokens: int
    """Most tokens of an answer; 0 where a choice is scored."""
    axis: str


@dataclass(frozen=True)
class Questions:
    """The prompts of a suite, as far as they can be counted here."""

    rows: Sequence[Asked]
    uncounted: Sequence[str] = ()
    """Names of tasks, of the hub's rows without a limit, and of rows whose files are not here."""

    @property
    def count(self) -> int:
        """Prompts that are counted."""
        return sum(row.count for row in self.rows)


def read_questions(suite: Path, data_dir: Path | None) -> Questions:
    """Count a suite's prompts without the hub.

    Raises:
        UserError: the suite is missing, or it or a file that it names is wrong.
    """
    loaded = load_suite(suite, data_dir)
    rows: list[Asked] = []
    uncounted = [task.name for task in loaded.tasks]
    for row in loaded.rows:
        new_tokens = 0 if row.scoring == "choice" else row.max_new_tokens
        if row.absent_files:
            uncounted.append(row.name)
        elif is_file(row.source):
            (prompts,) = load_prompts(Suite(rows=[row]))
            rows.append(Asked(len(prompts.prompts), _tokens(prompts), new_tokens, row.axis))
        elif row.limit is not None:
            rows.append(Asked(row.limit, _UNREAD_PROMPT, new_tokens, row.axis))
        else:
            uncounted.append(row.name)
    return Questions(rows, uncounted)


def _tokens(prompts: PromptSet) -> float:
    characters = [len(prompt.text) + sum(map(len, prompt.choices)) for prompt in prompts.prompts]
    return sum(characters) / len(characters) / CHARACTERS_A_TOKEN + TEMPLATE_TOKENS


def answering_seconds(model: Model, questions: Questions, batch_tokens: int, gpu: Gpu) -> float:
    """Time of one model with all prompts, every answer as long as it may be.

    A new token reads all weights once for its whole batch.
    """
    weights = 2.0 * model.shape.parameters
    step = max(weights / (gpu.bandwidth * ASSUMED_BANDWIDTH), model.shape.layers * _LAYER_SECONDS)
    seconds = 0.0
    for row in questions.rows:
        width = row.prompt_tokens + row.new_tokens
        batches = math.ceil(row.count * width / batch_tokens)
        seconds += batches * row.new_tokens * step
        seconds += weights * row.count * row.prompt_tokens / gpu.flops
    return seconds


def margin_seconds(model: Model, questions: Questions, search: SearchSettings, gpu: Gpu) -> float:
    """Time of the forward passes of a search by margins, and of its fits' backward passes."""
    weights = 2.0 * model.shape.parameters
    read = sum(row.count * row.prompt_tokens for row in questions.rows)
    passes = search.trials * len(search.methods) * read
    if search.fit != "none":
        # A pass back costs twice the way there; every prompt stands once before each opening.
        longest = _FIT_PASS.micro_batch_size * _FIT_PASS.max_length
        passes += 3 * len(search.methods) * search.fit_rounds * search.fit_prompts * longest
    return weights * passes / gpu.flops
