"""A rank that vanished is no fault of the backbone: the job must end so that it starts again."""

from pathlib import Path
from typing import cast

import pytest
import torch

from merge.common.errors import UserError
from train.job.loading import refuse_impossible
from train.zero.zero3 import Zero3Model


class _Failing:
    """Stands in for a model whose partitions are gathered from ranks that may be gone."""

    def __init__(self, error: Exception) -> None:
        self.engine = torch.nn.Module()
        self._error = error

    def logits(self, micro: object) -> None:
        raise self._error

    def backward(self, loss: object, last: bool) -> None:
        pytest.fail("the forward pass failed before")


def _run(error: Exception) -> None:
    model = cast(Zero3Model, _Failing(error))
    refuse_impossible(model, ([1, 2, 3], [-100, 2, 3]), Path("backbone"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error "
            "[10.0.0.1]:12008: Connection reset by peer."
        ),
        torch.distributed.DistBackendError("NCCL error: remote process exited"),
    ],
)
def test_a_lost_rank_is_not_told_as_a_wrong_backbone(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        _run(error)
    assert raised.value is error


def test_what_the_model_raises_is() -> None:
    with pytest.raises(UserError, match=r"loads, but cannot run .shapes differ."):
        _run(ValueError("shapes differ"))
