"""Parameters of a model and the tensors of its files that hold the same values.

A conversion of transformers (``WeightConverter``) stacks, cuts, joins, transposes or permutes
tensors, and changes no value. So its inverse needs no rule of its own: the position of every value
is sent through the conversion, and values go back to where their positions came from.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorGroup:
    """The smallest set of tensors in the files that makes whole parameters of the model."""

    parameters: tuple[str, ...]
    """Names in the model; a conversion's first result comes first."""
    tensors: tuple[str, ...]
    """Names in the files, in the order in which a conversion takes them."""
    patterns: tuple[str, ...] = ()
    """The source pattern of the conversion that each tensor fits; empty without a conversion."""
    converter: Any = None
    """A ``WeightConverter`` of transformers; None where one tensor is one parameter as it is."""
    skeleton: Any = None
    """The model on the meta device, whose configuration and shapes conversions ask for."""

    def to_parameters(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """The group's parameters, from its tensors.

        Args:
            read: gives a tensor of the files by name, in its shape; any dtype, meta included.

        Returns:
            By name in the model. A conversion may also make buffers, which are left out.
        """
        if self.converter is None:
            return {self.parameters[0]: read(self.tensors[0])}
        made = self.convert(read)
        return {name: made[name] for name in self.parameters}

    def to_tensors(
        self, values: Mapping[str, Tensor], shapes: Mapping[str, Shape]
    ) -> dict[str, Tensor]:
        """The inverse of ``to_parameters``: each value goes to where it lies in the files.

        Args:
            values: by name in the model, all of one dtype.
            shapes: of the tensors in the files.
        """
        if self.converter is None:
            return {self.tensors[0]: values[self.parameters[0]]}
        starts = self._starts(shapes)
        flat = torch.zeros(starts[-1], dtype=values[self.parameters[0]].dtype)
        for name, positions in self._positions(shapes).items():
            flat[positions.reshape(-1)] = values[name].reshape(-1)
        pieces = zip(self.tensors, starts, starts[1:], strict=False)
        return {name: flat[start:stop].view(shapes[name]) for name, start, stop in pieces}

    def is_invertible(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every value of the files' tensors is in the parameters exactly once.

        Memory: about twelve bytes a value of the group.
        """
        if self.converter is None:
            return True
        positions = self._positions(shapes).values()
        count = self._starts(shapes)[-1]
        seen = torch.zeros(count, dtype=torch.bool)
        for each in positions:
            seen[each.reshape(-1)] = True
        return bool(seen.all()) and sum(each.numel() for each in positions) == count

    def convert(self, read: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """All that the conversion makes of the tensors, parameters and buffers, by name."""
        converter = deepcopy(self.converter)
        first = self.parameters[0]
        for tensor, pattern in zip(self.tensors, self.patterns, strict=True):
            converter.add_tensor(first, tensor, pattern, read(tensor))
        made = converter.convert(first, model=self.skeleton, config=self.skeleton.config)
        return {
            name: value[0] if isinstance(value, list) else value for name, value in made.items()
        }

    def _starts(self, shapes: Mapping[str, Shape]) -> list[int]:
        """Where each tensor begins when all are flattened into one row, and the row's length."""
        starts = [0]
        for tensor in self.tensors:
            starts.append(starts[-1] + torch.Size(shapes[tensor]).numel())
        return starts

    def _positions(self, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
        """For every parameter, where in that row each of its values comes from."""
        starts = self._starts(shapes)
        dtype = torch.int32 if starts[-1] < 1 << 31 else torch.int64
        begin = dict(zip(self.tensors, starts, strict=False))

        def numbered(tensor: str) -> Tensor:
            size = torch.Size(shapes[tensor])
            start = begin[tensor]
            return torch.arange(start, start + size.numel(), dtype=dtype).view(size)

        return self.to_parameters(numbered)
