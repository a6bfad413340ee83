"""Which samples each step sees, and how one process turns its share into tensors.

Everything here is a function of the step alone, so a resumed training continues without a gap or
a repeat, and any number of processes sees the same batches.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from train.chat.prompts import IGNORED_LABEL

TokenizedExample = tuple[list[int], list[int]]
"""``(input_ids, labels)`` of ``ChatPrompts.example``."""


def prompt_tokens(example: TokenizedExample) -> int:
    """How many tokens of an example stand before the first that has a label."""
    return next(at for at, label in enumerate(example[1]) if label != IGNORED_LABEL)


@dataclass(frozen=True)
class BatchPlan:
    """Epochs of shuffled batches, whose sizes differ by one at most.

    A small last batch would weigh its samples more, and under Adam or normalised steps its noise.
    """

    samples: int
    batch_size: int
    """At most."""
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps until every sample was seen once."""
        return math.ceil(self.samples / self.batch_size)

    def batch(self, step: int) -> list[int]:
        """The samples of optimizer step ``step``, counted from 0."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _epoch_order(self.samples, self.seed, epoch)
        start, stop = (edge * self.samples // self.steps_per_epoch for edge in (place, place + 1))
        return order[start:stop].tolist()


@lru_cache(maxsize=2)
def _epoch_order(samples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(samples)


def random_subset(size: int, samples: int, seed: int) -> list[int]:
    """``size`` of so many samples, in their order; all of them where they are few."""
    if size >= samples:
        return list(range(samples))
    generator = np.random.Generator(np.random.Philox(key=seed))
    return sorted(generator.choice(samples, size, replace=False).tolist())


def order_seed(seed: int, role: str) -> int:
    """A seed of the data order that differs between the roles of one recipe."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{role}".encode()).digest()[:6], "little")


def micro_batches(batch: Sequence[int], size: int, rank: int, world: int) -> list[list[int]]:
    """This rank's share of a batch, in micro-batches of at most ``size`` samples.

    Every rank gets the same number of micro-batches, because each one is a collective; where the
    samples do not suffice, some are empty.
    """
    count = math.ceil(len(batch) / (size * world))
    starts = ((step * world + rank) * size for step in range(count))
    return [list(batch[start : start + size]) for start in starts]


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded samples."""

    indices: tuple[int, ...]
    """Which samples these are; empty for the stand-in of an empty share."""
    input_ids: Tensor
    """``[samples, tokens]``, int64."""
    attention_mask: Tensor
    """``[samples, tokens]``, int64."""
    labels: Tensor
    """``[samples, tokens]``, int64, -100 outside the answers."""
    weights: Tensor
    """``[samples]``, fp32: 1, or 0 for the stand-in of an empty share."""

    def pinned(self) -> "MicroBatch":
        """In memory from which a GPU copies by itself."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> "MicroBatch":
        """On the computing device; from pinned memory without waiting."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "MicroBatch":
        names = ("input_ids", "attention_mask", "labels", "weights")
        return replace(self, **{name: change(getattr(self, name)) for name in names})


def collate(examples: Sequence[TokenizedExample], indices: Sequence[int]) -> MicroBatch:
    """Put the samples ``indices`` into tensors; no index gives one stand-in of weight 0."""
    chosen = [examples[index] for index in indices] or [examples[0]]
    width = max(len(ids) for ids, _ in chosen)
    input_ids = torch.zeros(len(chosen), width, dtype=torch.int64)
    labels = torch.full((len(chosen), width), IGNORED_LABEL)
    attention_mask = torch.zeros(len(chosen), width, dtype=torch.int64)
    for row, (ids, targets) in enumerate(chosen):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(targets)
        attention_mask[row, : len(ids)] = 1
    weights = torch.full((len(chosen),), 1.0 if indices else 0.0)
    return MicroBatch(tuple(indices), input_ids, attention_mask, labels, weights)
