"""Inner products of a model's gradients with the sets of two patches.

A fit differentiates hundreds of questions (issue 14). On a GPU, bringing each question's gradients
to the host would take longer than the backward pass, so where they fit the patches go to the GPU.
"""

from typing import Protocol

import torch
from torch import Tensor

from merge.engine.inputs import ROLES
from merge.engine.set_products import SetProducts
from merge.in_memory import LoadedInputs
from merge.io.patch_directory import Role
from merge.kernels.products import INSIDE
from merge.settings import SETS, MergeSettings
from train.backbone.tensors import TORCH_DTYPES

_MOST_OF_FREE = 0.5
"""Share of a GPU's free memory that patches and labels may take; backward passes need the rest."""


class GradientProducts(Protocol):
    """Inner products with the sets of one selection.

    Attributes:
        device: where the gradients must be, and the sums are.
    """

    @property
    def device(self) -> torch.device: ...

    def of(self, name: str, gradient: Tensor) -> Tensor:
        """The sums of gradient * delta over kept entries: fp64 [2, 3], by role and by set.

        Args:
            gradient: of a value by a covered tensor's entries, fp32, in its shape or flat.
        """
        ...


def gradient_products(
    loaded: LoadedInputs, settings: MergeSettings, device: torch.device
) -> GradientProducts:
    """The products of the selection that settings make; their method and scales do not matter.

    Args:
        device: of the model. The products are there if it is a GPU with room, else on the host.
    """
    products = loaded.set_products(settings)
    if device.type == "cuda" and device_bytes(products) < _MOST_OF_FREE * _free_bytes(device):
        return DeviceProducts(products, device)
    return _HostProducts(products)


def _free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, with what PyTorch keeps there from products that are gone."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class _HostProducts:
    """By the merger's compiled loops."""

    device = torch.device("cpu")

    def __init__(self, products: SetProducts) -> None:
        self._products = products

    def of(self, name: str, gradient: Tensor) -> Tensor:
        return torch.from_numpy(self._products.of(name, gradient.numpy().reshape(-1)))


class DeviceProducts:
    """By PyTorch, on the device that has the gradients; see ``GradientProducts``."""

    def __init__(self, products: SetProducts, device: torch.device) -> None:
        self.device = device
        self._products = products
        self._labels: dict[str, Tensor] = {}
        self._deltas: dict[tuple[str, Role], Tensor] = {}

    def of(self, name: str, gradient: Tensor) -> Tensor:
        if name not in self._labels:
            self._read(name)
        labels, flat = self._labels[name], gradient.reshape(-1).float()
        sums = []
        for role, sets in zip(ROLES, INSIDE, strict=True):
            values = flat * self._deltas[name, role].float()
            for bits, wanted in sets:
                sums.append(values.where(labels & bits == wanted, 0.0).sum(dtype=torch.float64))
        return torch.stack(sums).reshape(len(ROLES), len(SETS)) / self._products.divisor

    def _read(self, name: str) -> None:
        self._labels[name] = torch.from_numpy(self._products.labels(name)).to(self.device)
        for role in ROLES:
            entry = self._products.inputs.patches[role].delta[name]
            bits = torch.from_numpy(self._products.delta(role, name))
            self._deltas[name, role] = bits.view(TORCH_DTYPES[entry.dtype]).to(self.device)


def device_bytes(products: SetProducts) -> int:
    """What ``DeviceProducts`` keeps on its device: two deltas, and a byte an entry."""
    inputs = products.inputs
    deltas = [inputs.patches[role].delta for role in ROLES]
    return sum(
        sum(index[name].bytes for index in deltas) + inputs.backbone[name].size
        for name in inputs.covered
    )
