"""What all ranks of a training do together; every rank must call these, or the others wait."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import distributed


def compute_device() -> torch.device:
    """Where this rank computes."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_ranks(values: list[float]) -> list[float]:
    """Sum each value over all ranks, in fp64 (collective)."""
    tensor = torch.tensor(values, dtype=torch.float64, device=compute_device())
    distributed.all_reduce(tensor)
    return tensor.tolist()


def gather_from_ranks(values: Sequence[float]) -> list[list[float]]:
    """Every rank's values, by rank; all ranks give as many (collective)."""
    count = len(values)
    slots = [0.0] * (count * distributed.get_world_size())
    start = distributed.get_rank() * count
    slots[start : start + count] = values
    gathered = sum_over_ranks(slots)
    return [gathered[place : place + count] for place in range(0, len(gathered), count)]


def any_over_ranks(flag: bool) -> bool:
    """Whether the flag is set on any rank (collective).

    It goes through the hosts' memory: to ask the GPU would wait until it has done all its work.
    """
    tensor = torch.tensor([int(flag)], dtype=torch.int32)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_host_group())
    return bool(tensor.item())


@lru_cache(maxsize=1)
def _host_group() -> distributed.ProcessGroup | None:
    """A group of all ranks over the hosts; ``None`` where the usual one is that."""
    if distributed.get_backend() == "gloo":
        return None
    return distributed.new_group(backend="gloo")  # pyright: ignore[reportReturnType]


def wait_for_ranks() -> None:
    """Return when every rank has come here (collective)."""
    sum_over_ranks([0.0])


def lost_another_rank(error: Exception) -> bool:
    """Whether a collective failed because another rank or its node is gone; no fault of inputs."""
    # gloo raises plain RuntimeErrors, which name its own source file.
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)
