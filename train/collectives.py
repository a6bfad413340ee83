"""What all ranks of a training do together; every rank must call these, or the others wait."""

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


def gather_from_ranks(value: float) -> list[float]:
    """Every rank's value, in rank order (collective)."""
    values = [0.0] * distributed.get_world_size()
    values[distributed.get_rank()] = value
    return sum_over_ranks(values)


def wait_for_ranks() -> None:
    """Return when every rank has come here (collective)."""
    sum_over_ranks([0.0])
