"""Importance: the mean absolute gradient of every parameter, one sample at a time.

G_i = (1/|S|) * sum over samples x in S of |dL(x)/dtheta_i| at the patched model, in fp32. The
SNIP score of SafePatching (section 3.2), |theta_i| * G_i, follows from it without the model.
"""

import logging
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from train.batches import TokenizedExample, collate, micro_batches
from train.collectives import compute_device
from train.objectives import answer_losses
from train.recipe import ImportanceSettings
from train.world import World
from train.zero3 import Zero3Model

logger = logging.getLogger(__name__)


def choose_samples(settings: ImportanceSettings, count: int) -> list[int]:
    """A random subset of ``count`` samples, in their order; all of them where they are few."""
    if settings.samples >= count:
        return list(range(count))
    generator = np.random.Generator(np.random.Philox(key=settings.seed))
    return sorted(generator.choice(count, settings.samples, replace=False).tolist())


def measure_importance(
    model: Zero3Model, examples: Sequence[TokenizedExample], samples: Sequence[int], world: World
) -> float:
    """Leave the sum of |gradient| over the samples in the gradient partitions (collective).

    DeepSpeed averages over ranks what it scatters, so ``gather_gradient`` times the returned
    factor is G. Where the samples do not divide by the ranks, the rest run a sample at loss 0.
    """
    logger.info("importance of %d samples", len(samples))
    model.clear_gradients()
    model.engine.eval()
    model.transform_gradients = True
    share = micro_batches(samples, 1, world.rank, world.size)
    progress = tqdm(
        share, desc="importance", unit="sample", disable=None if world.is_main else True
    )
    for number, indices in enumerate(progress, start=1):
        micro = collate(examples, indices, compute_device())
        logits = model.engine(
            input_ids=micro.input_ids, attention_mask=micro.attention_mask, use_cache=False
        ).logits
        loss = (answer_losses(logits, micro.labels) * micro.weights).sum()
        model.backward(loss, last=number == len(share))
    model.transform_gradients = False
    return world.size / len(samples)


def absolute_gradient(gradient: object) -> None:
    """The transform of one sample's gradient, in place."""
    gradient.abs_()  # pyright: ignore[reportAttributeAccessIssue]
