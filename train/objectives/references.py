"""What the backbone itself makes of samples, computed before the first step.

The model that is about to be trained still is the backbone then, so no second copy of it is ever
in memory. It is computed anew at every start, also of a resumed training, which loads the backbone
before its checkpoint: nothing that could be torn or stale lies on disk. The cost is one forward
pass of each sample, a third of its training step or less. (collective)
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from merge.common.progress import Progress
from train.data.batches import TokenizedExample, collate, micro_batches
from train.objectives.losses import TopDistributions, answer_losses, top_distributions
from train.zero.collectives import compute_device, gather_from_ranks, sum_over_ranks
from train.zero.ranks import World
from train.zero.zero3 import Zero3Model


def backbone_losses(
    model: Zero3Model,
    examples: Sequence[TokenizedExample],
    size: int,
    world: World,
    decay: float,
) -> Tensor:
    """``answer_losses`` of every sample, on every rank (collective).

    Returns:
        ``[samples]``, fp32 on the CPU: 4 bytes a sample are all that NPO needs of the backbone.
    """
    losses = [0.0] * len(examples)
    model.engine.eval()
    share = micro_batches(range(len(examples)), size, world.rank, world.size)
    with Progress("backbone's losses", len(share), "batches") as progress:
        for indices in progress.over(share):
            micro = collate(examples, indices).to(compute_device())
            with torch.no_grad():
                values = answer_losses(model.logits(micro), micro.labels, decay).tolist()
            for index, value in zip(indices, values, strict=False):
                losses[index] = value
    return torch.tensor(sum_over_ranks(losses), dtype=torch.float32)


def backbone_distributions(
    model: Zero3Model,
    examples: Sequence[TokenizedExample],
    wanted: Sequence[int],
    kept: int,
    size: int,
) -> dict[int, TopDistributions]:
    """``top_distributions`` of the samples that this rank will train on (collective).

    Whole distributions would be 128 KiB a token for LLaMA-2 and 1 MiB for Gemma. The 256 likeliest
    tokens as exact fp32 are 3 KiB, so 100,000 tokens take 300 MB of host memory over all ranks;
    all other tokens together are kept as one event.

    Args:
        wanted: this rank's samples; other ranks may have others, and other numbers of them.
    """
    model.engine.eval()
    count = max(int(number) for (number,) in gather_from_ranks([-(-len(wanted) // size)]))
    shares = [list(wanted[number * size : (number + 1) * size]) for number in range(count)]
    distributions: dict[int, TopDistributions] = {}
    with Progress("backbone's distributions", len(shares), "batches") as progress:
        for indices in progress.over(shares):
            micro = collate(examples, indices).to(compute_device())
            with torch.no_grad():
                logits = model.logits(micro)
            for row, index in enumerate(indices):
                top = top_distributions(logits[row : row + 1], micro.labels[row : row + 1], kept)
                distributions[index] = TopDistributions(
                    top.ids.cpu(), top.log_probabilities.cpu(), top.rest.cpu()
                )
    return distributions


def mean_answer_loss(
    model: Zero3Model, examples: Sequence[TokenizedExample], size: int, world: World
) -> float:
    """Mean of ``answer_losses`` over samples, in nats a token (collective)."""
    total = torch.zeros((), device=compute_device())
    model.engine.eval()
    for indices in micro_batches(range(len(examples)), size, world.rank, world.size):
        micro = collate(examples, indices).to(compute_device())
        with torch.no_grad():
            total += (answer_losses(model.logits(micro), micro.labels) * micro.weights).sum()
    model.engine.train()
    return sum_over_ranks([total.item()])[0] / len(examples)
