"""Importance: the mean absolute gradient of every parameter, one sample at a time.

G_i = (1/|S|) * sum over samples x in S of |dL(x)/dtheta_i| at the patched model, in fp32. The
SNIP score of SafePatching (section 3.2), |theta_i| * G_i, follows from it without the model.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from merge.common.progress import Progress
from train.backbone.recomputation import evaluating
from train.data.batches import TokenizedExample, collate, micro_batches, random_subset
from train.objectives.losses import answer_losses
from train.settings import ImportanceSettings
from train.zero.collectives import compute_device
from train.zero.ranks import World
from train.zero.resume import TrainingProgress
from train.zero.zero3 import Zero3Model

logger = logging.getLogger(__name__)

_CHUNK = 8
"""Samples a rank between two additions to the sums; what a stop makes the next start do again.
An addition reads and writes every partition once, which is little beside eight backward passes."""


def choose_samples(settings: ImportanceSettings, count: int) -> list[int]:
    """A random subset of ``count`` samples, in their order; all of them where they are few."""
    return random_subset(settings.samples, count, settings.seed)


def measure_importance(
    model: Zero3Model,
    examples: Sequence[TokenizedExample],
    samples: Sequence[int],
    world: World,
    progress: TrainingProgress,
    stop_asked: Callable[[], bool],
) -> TrainingProgress:
    """Leave the sums of |gradient| over the samples in the model's sums (collective).

    Args:
        progress: where the sums stand, in a resumed pass.
        stop_asked: a collective, asked before every sample.

    Returns:
        Where the sums stand: after all samples, or sooner where a stop was asked for.
    """
    logger.info("importance of %d samples", len(samples))
    if not progress.importance_samples:
        model.clear_sums()
    model.transform_gradients = True
    chunk = _CHUNK * world.size
    with (
        evaluating(model.engine),
        Progress("importance", len(samples), "samples", progress.importance_samples) as shown,
    ):
        for start in range(progress.importance_samples, len(samples), chunk):
            model.clear_gradients()
            # Where the samples do not divide by the ranks, the rest run a sample at loss 0.
            share = micro_batches(samples[start : start + chunk], 1, world.rank, world.size)
            for number, indices in enumerate(share, start=1):
                if stop_asked():
                    return progress
                micro = collate(examples, indices).to(compute_device())
                losses = answer_losses(model.logits(micro), micro.labels)
                model.backward((losses * micro.weights).sum(), last=number == len(share))
            model.add_gradients_to_sums()
            done = min(start + chunk, len(samples))
            shown.advance(done - start)
            progress = replace(progress, importance_samples=done)
    model.transform_gradients = False
    return progress


def absolute_gradient(gradient: object) -> None:
    """The transform of one sample's gradient, in place."""
    gradient.abs_()  # pyright: ignore[reportAttributeAccessIssue]
