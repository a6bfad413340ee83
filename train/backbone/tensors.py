"""The backbone's weights as they are on disk, read as parameters of the model, one at a time."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merge.common.errors import UserError
from merge.io.tensor_files import TensorEntry, read_index
from merge.io.tensor_reader import TensorReader
from train.backbone.folder import config_of
from train.backbone.parameter_map import ParameterMap
from train.backbone.skeleton import build_skeleton
from train.backbone.tensor_groups import TensorGroup
from train.recipe import BackboneSettings

TORCH_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""By the names that safetensors files have for them."""
_COMPARED_VALUES = 1 << 22
"""Values of two tensors that are in memory at a time while these are compared."""


def open_backbone(directory: Path, settings: BackboneSettings) -> "BackboneTensors":
    """The tensors of a backbone's folder, seen to fit the model that transformers builds of it.

    Raises:
        UserError: see ``build_skeleton`` and ``BackboneTensors``.
    """
    config = config_of(directory, settings)
    skeleton = build_skeleton(config, settings.trust_remote_code, str(directory))
    return BackboneTensors(directory, skeleton)


class BackboneTensors:
    """Reads parameters by their names in the model, whatever the files call and how they cut them.

    Memory: one parameter, or one group of those that transformers converts together (see
    ``train.backbone.tensor_groups``), which is kept until another is asked for.

    Args:
        skeleton: the backbone's model without values, see ``train.backbone.skeleton``.

    Raises:
        UserError: no safetensors weights, files that are torn or contradict their index, tensors
            that do not fit the model, or quantized ones.
    """

    def __init__(self, directory: Path, skeleton: Any) -> None:
        self._entries = read_index(directory, "model")
        self._reader = TensorReader(self._entries)
        shapes = {name: entry.shape for name, entry in self._entries.items()}
        self.map = ParameterMap(skeleton, shapes, str(directory))
        for group in self.map.groups:
            for name in group.tensors:
                _refuse_quantized(self._entries[name])
        self._held: tuple[TensorGroup | None, torch.dtype, dict[str, Tensor]] = (
            None,
            torch.float32,
            {},
        )

    def read(self, parameter: str, dtype: torch.dtype) -> Tensor:
        """One whole parameter on the CPU, in ``dtype``."""
        return self._parameters(self.map.group_of(parameter), dtype)[parameter]

    def read_flat(self, parameter: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Elements ``start`` to ``stop`` of a flattened parameter.

        Nothing else is read, unless the parameter is converted from several tensors.
        """
        group = self.map.group_of(parameter)
        if group.patterns:
            return self.read(parameter, dtype).reshape(-1)[start:stop]
        return self._values(group.tensors[0], start, stop, dtype)

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """One whole tensor by its name in the files, in ``dtype``."""
        entry = self._entries[name]
        return self._values(name, 0, entry.size, dtype).view(entry.shape)

    def refuse_differing_copies(self) -> None:
        """See that tensors which repeat a tied parameter hold its values.

        Raises:
            UserError: naming those that do not, and the fix.
        """
        differing = [name for name in self.map.copies if self._copy_differs(name)]
        if differing:
            raise UserError(
                f"backbone {self.map.source}: {', '.join(differing)} should repeat the embeddings, "
                "to which config.json ties it, and holds other values; set "
                '"tie_word_embeddings": false there'
            )

    def _copy_differs(self, name: str) -> bool:
        """Whether a tensor that should repeat a tied parameter holds other values."""
        both = [self._entries[each] for each in (name, self.map.copies[name])]
        dtype = torch.promote_types(*(TORCH_DTYPES[entry.dtype] for entry in both))
        for start in range(0, both[0].size, _COMPARED_VALUES):
            stop = min(start + _COMPARED_VALUES, both[0].size)
            first, second = (self._values(entry.name, start, stop, dtype) for entry in both)
            if not torch.equal(first, second):
                return True
        return False

    def _parameters(self, group: TensorGroup, dtype: torch.dtype) -> dict[str, Tensor]:
        held, held_dtype, values = self._held
        if held is not group or held_dtype != dtype:
            values = group.to_parameters(lambda name: self.tensor(name, dtype))
            self._held = (group, dtype, values) if group.patterns else (None, dtype, {})
        return values

    def _values(self, name: str, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        entry = self._entries[name]
        stored = TORCH_DTYPES[entry.dtype]
        values = torch.empty(stop - start, dtype=stored)
        # As bytes: numpy, through which the reader fills it, knows no bfloat16.
        place = entry.offset + start * stored.itemsize
        self._reader.read_bytes(entry.file, values.view(torch.uint8).numpy(), place)
        return values.to(dtype)


def _refuse_quantized(entry: TensorEntry) -> None:
    if entry.dtype not in TORCH_DTYPES:
        raise UserError(
            f"{entry.file}: '{entry.name}' is {entry.dtype}; use a backbone of "
            f"{', '.join(TORCH_DTYPES)} weights, which are not quantized"
        )
