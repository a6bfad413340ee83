"""Which tensors of a backbone's files hold which parameters of the model that transformers builds.

Most architectures use one name for both. Some rename on loading (GPT-NeoX, Gemma 3), some convert:
the files of Mixtral, Qwen-MoE or DeepSeek hold a tensor for every expert, the model one 3-D
parameter for all of them. Files may also hold what is no parameter at all: LLaMA-2's
``rotary_emb.inv_freq``, layers for multi-token prediction, a tied output layer once more. The map
applies transformers' own conversions, so that a patch is trained on the model's parameters and
written under the files' names (issue 13).
"""

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Any

import torch

from merge.common.errors import UserError, first_line
from train.backbone.tensor_groups import Shape, TensorGroup

_SHOWN = 3


def trainable(model: Any) -> dict[str, Any]:
    """The parameters of a model that take gradients, by name; some routers keep a fixed bias."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


class ParameterMap:
    """The tensors of every parameter of one backbone.

    Args:
        skeleton: see ``train.backbone.skeleton``.
        shapes: by name, of every tensor in the backbone's files.
        source: what errors call the backbone.

    Raises:
        UserError: a parameter has no tensor, shapes differ, or a conversion cannot be undone.
    """

    def __init__(self, skeleton: Any, shapes: Mapping[str, Shape], source: str) -> None:
        self.skeleton = skeleton
        self.shapes = shapes
        self.source = source
        """What errors call the backbone."""
        self.parameters: dict[str, Shape] = {
            name: tuple(parameter.shape) for name, parameter in trainable(skeleton).items()
        }
        """Shapes by name in the model."""
        groups = self._match()
        self._refuse_missing(groups)
        order = {name: place for place, name in enumerate(self.parameters)}
        self.groups = tuple(sorted(groups, key=lambda group: order[group.parameters[0]]))
        """In the order of the model's parameters."""
        self._group_of = {name: group for group in self.groups for name in group.parameters}
        for group in self.groups:
            self._check_shapes(group)
        for tensor, original in self.copies.items():
            self._check_shape(tensor, shapes[tensor], shapes[original])

    def group_of(self, parameter: str) -> TensorGroup:
        """The group that a parameter belongs to."""
        return self._group_of[parameter]

    @property
    def copies(self) -> dict[str, str]:
        """Tensors that repeat a tied parameter, with the tensor that the parameter is read from."""
        return {
            tensor: self._group_of[owner].tensors[0] for tensor, owner in self._repeated.items()
        }

    @property
    def untrained(self) -> list[str]:
        """Tensors in the files that are no parameters: never trained, and copied by a merge."""
        used = {tensor for group in self.groups for tensor in group.tensors}
        return sorted(self.shapes.keys() - used - self._repeated.keys())

    def tensors_of(self, parameters: Container[str]) -> list[str]:
        """Names in the files of what some parameters hold, sorted."""
        return sorted(
            tensor
            for group in self.groups
            if any(name in parameters for name in group.parameters)
            for tensor in group.tensors
        )

    def refuse_irreversible(self) -> None:
        """Try the inverse of one conversion of each kind.

        Memory: about twelve bytes a value of the largest group tried.

        Raises:
            UserError: a conversion loses or repeats values.
        """
        tried: set[tuple[str, ...]] = set()
        for group in self.groups:
            if group.patterns and (kind := tuple(sorted(set(group.patterns)))) not in tried:
                tried.add(kind)
                if not group.is_invertible(self.shapes):
                    raise self._unsupported(group, "it loses or repeats values")

    def _match(self) -> list[TensorGroup]:
        """Group the files' tensors by what transformers makes of them on loading."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        transforms = get_model_conversion_mapping(self.skeleton)
        renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
        converters = [each for each in transforms if isinstance(each, WeightConverter)]
        by_pattern = {pattern: each for each in converters for pattern in each.source_patterns}
        prefix, state = self.skeleton.base_model_prefix, self.skeleton.state_dict()
        owners = self._owners()
        plain: dict[str, str] = {}
        self._repeated: dict[str, str] = {}
        converted: dict[str, list[tuple[str, str]]] = {}
        for tensor in sorted(self.shapes, key=dot_natural_key):
            name, pattern = rename_source_key(tensor, renamings, converters, prefix, state)
            if name not in state and tensor in state:
                name, pattern = tensor, None
            if pattern is not None and name in state:
                converted.setdefault(name, []).append((tensor, pattern))
            elif name in self.parameters:
                if name in plain:
                    raise UserError(
                        f"backbone {self.source}: its tensors '{plain[name]}' and '{tensor}' are "
                        f"both the parameter '{name}'; fetch it again"
                    )
                plain[name] = tensor
            elif name in owners:
                self._repeated[tensor] = owners[name]
        for tensor, owner in list(self._repeated.items()):
            # The parameter is stored under the other of its tied names alone.
            if owner not in plain:
                plain[owner] = tensor
                del self._repeated[tensor]
        groups = [TensorGroup((name,), (tensor,)) for name, tensor in plain.items()]
        for first, members in converted.items():
            tensors, patterns = (tuple(part) for part in zip(*members, strict=True))
            group = TensorGroup((first,), tensors, patterns, by_pattern[patterns[0]], self.skeleton)
            groups += self._with_results(group)
        return groups

    def _owners(self) -> dict[str, str]:
        """The other names of tied parameters, with the name that ``named_parameters`` gives."""
        names = {id(parameter): name for name, parameter in self.skeleton.named_parameters()}
        return {
            name: names[id(parameter)]
            for name, parameter in self.skeleton.named_parameters(remove_duplicate=False)
            if names[id(parameter)] != name
        }

    def _with_results(self, group: TensorGroup) -> list[TensorGroup]:
        """The group with all parameters that its conversion makes; none where it makes buffers."""
        try:
            made = group.convert(lambda name: torch.empty(self.shapes[name], device="meta"))
        except Exception as error:
            # Conversions of single architectures raise what they like about what is missing.
            raise self._unsupported(group, first_line(error)) from None
        values = sum(torch.Size(self.shapes[tensor]).numel() for tensor in group.tensors)
        if sum(value.numel() for value in made.values()) != values:
            raise self._unsupported(group, "it changes the number of values")
        parameters = tuple(name for name in made if name in self.parameters)
        return [replace(group, parameters=parameters)] if parameters else []

    def _unsupported(self, group: TensorGroup, reason: str) -> UserError:
        return UserError(
            f"backbone {self.source}: '{group.tensors[0]}' in its files becomes "
            f"'{group.parameters[0]}' in the model by a conversion that cannot be undone "
            f"({reason}); this architecture is not supported"
        )

    def _refuse_missing(self, groups: list[TensorGroup]) -> None:
        present = {name for group in groups for name in group.parameters}
        missing = [name for name in self.parameters if name not in present]
        if missing:
            import transformers

            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise UserError(
                f"backbone {self.source}: its files have no tensors for {len(missing)} parameters "
                f"that transformers {transformers.__version__} gives this architecture "
                f"({', '.join(missing[:_SHOWN])}{more}); fetch the whole model, or one that this "
                "version loads without missing weights"
            )

    def _check_shapes(self, group: TensorGroup) -> None:
        made = group.to_parameters(lambda name: torch.empty(self.shapes[name], device="meta"))
        for name, value in made.items():
            self._check_shape(group.tensors[0], tuple(value.shape), self.parameters[name])

    def _check_shape(self, tensor: str, shape: Shape, expected: Shape) -> None:
        if shape != expected:
            raise UserError(
                f"backbone {self.source}: '{tensor}' has the shape {list(shape)}, and its "
                f"configuration says {list(expected)}; fetch config.json and weights of one model"
            )
