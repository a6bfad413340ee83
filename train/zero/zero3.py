"""DeepSpeed ZeRO-3: the one module that knows the names of its engine, inner and outer.

No rank holds the whole model: weights, gradients and optimizer states are cut into one flat
partition a parameter and rank. A method called a collective must be called by every rank.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from merge.common.errors import UserError
from train.backbone.flops import ModelShape
from train.backbone.parameter_map import trainable
from train.data.batches import MicroBatch
from train.zero.collectives import compute_device, sum_over_ranks
from train.zero.group import comm, deepspeed
from train.zero.recut import recut

_utils = deepspeed.utils
_SUMS = "exp_avg"


class Zero3Model:
    """A model and its optimizer, partitioned over all ranks.

    Args:
        config: of ``train.zero.ds_config``.
        load: builds the transformers model; called while transformers partitions what it builds.
        gradient_transform: see ``transform_gradients``.
    """

    def __init__(
        self,
        config: dict[str, Any],
        load: Callable[[], Any],
        gradient_transform: Callable[[Tensor], object],
    ) -> None:
        from transformers.integrations.deepspeed import HfDeepSpeedConfig

        # It tells transformers to build models in partitions. transformers keeps a weak reference:
        # it must outlive the loading, or every rank would hold the whole model.
        self._declaration = HfDeepSpeedConfig(config)
        model = load()
        self.parameters: dict[str, Parameter] = trainable(model)
        self.vocabulary_size: int = model.config.get_text_config().vocab_size
        # p.numel() is 0 for a partitioned parameter.
        self.sizes: dict[str, int] = {name: p.ds_numel for name, p in self.parameters.items()}  # pyright: ignore
        self.shape = ModelShape.of(model, self.sizes)
        self.transform_gradients = False
        """While true, every sample's gradient goes through ``gradient_transform`` in place,
        before it is summed over samples and ranks; meaningful at one sample a backward."""

        def transform(parameter: Parameter) -> None:
            if self.transform_gradients and parameter.grad is not None:
                gradient_transform(parameter.grad)

        for parameter in self.parameters.values():
            # Before DeepSpeed's own hooks, which it registers at initialisation and which
            # scatter the gradient: until then the parameter and its gradient are whole.
            parameter.register_post_accumulate_grad_hook(transform)
        try:
            engine, optimizer, _, _ = deepspeed.initialize(
                model=model,
                model_parameters=list(self.parameters.values()),  # pyright: ignore
                config=config,
            )
        except RuntimeError as error:
            if "cpu_adam" not in str(error):
                raise
            raise UserError(
                "ds_config: DeepSpeed could not compile its Adam for CPUs, which offloading uses; "
                'install g++ and ninja, or put "torch_adam": true into optimizer.params'
            ) from None
        self.engine = engine
        # DeepSpeed types it as any of its optimizers; under stage 3 it is one that has these names.
        self._optimizer: Any = optimizer
        self._normalised = isinstance(self._optimizer.optimizer, torch.optim.SGD)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the computation; the masters are fp32."""
        return next(iter(self.parameters.values())).dtype

    def logits(self, micro: MicroBatch) -> Tensor:
        """``[samples, tokens, vocabulary]`` of a forward pass (collective)."""
        return self.engine(
            input_ids=micro.input_ids, attention_mask=micro.attention_mask, use_cache=False
        ).logits

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradient of ``loss``, averaged over ranks, to the partitions (collective).

        Args:
            last: whether this ends the accumulation.
        """
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Update the weights from the accumulated gradients (collective).

        Args:
            learning_rate: under SGD the Euclidean length of the step, over all parameters.

        Returns:
            The gradient norm before clipping. It is NaN when the gradient was not finite:
            DeepSpeed then leaves the weights as they are, without a word.
        """
        # Without a gradient there is no direction, and no step.
        length = (self._gradient_norm() or math.inf) if self._normalised else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate / length
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        return float(norm) if self.engine.was_step_applied() and norm is not None else float("nan")

    def _gradient_norm(self) -> float:
        """Euclidean, of what was accumulated, over all parameters (collective)."""
        squares = torch.zeros((), dtype=torch.float64, device=compute_device())
        for name, parameter in self.parameters.items():
            start, stop = self.local_range(name)
            squares += _utils.safe_get_local_grad(parameter)[: stop - start].double().square().sum()
        return math.sqrt(sum_over_ranks([squares.item()])[0])

    @property
    def skipped_steps(self) -> int:
        """How many steps DeepSpeed left out because the gradient was not finite."""
        return self.engine.skipped_steps

    def clear_gradients(self) -> None:
        """Forget what was accumulated; the engine's own zero_grad keeps the partitions."""
        self._optimizer.zero_grad()

    def local_range(self, name: str) -> tuple[int, int]:
        """Which flat elements of a parameter this rank owns; the partition may be longer."""
        parameter: Any = self.parameters[name]
        length, total = parameter.ds_tensor.ds_numel, parameter.ds_numel
        start = min(comm.get_rank() * length, total)
        return start, min(start + length, total)

    def local_master(self, name: str) -> Tensor:
        """This rank's elements of a parameter's fp32 master: flat, without the padding."""
        start, stop = self.local_range(name)
        return _utils.safe_get_local_fp32_param(self.parameters[name])[: stop - start]

    def local_weights(self, name: str) -> Tensor:
        """This rank's elements of a parameter in the computation's dtype: flat, no padding."""
        start, stop = self.local_range(name)
        parameter: Any = self.parameters[name]
        return parameter.ds_tensor.flatten()[: stop - start]

    def gather_master(self, name: str) -> Tensor:
        """A whole parameter's fp32 master, in its shape, on every rank (collective)."""
        return _present(_utils.safe_get_full_fp32_param(self.parameters[name]))

    def clear_sums(self) -> None:
        """Make room for ``add_gradients_to_sums``; the training cannot go on after it."""
        for flat in self._optimizer.fp32_partitioned_groups_flat if self._normalised else ():
            self._optimizer.optimizer.state[flat][_SUMS] = torch.zeros_like(flat)
        self.scale_sums(0.0)

    def add_gradients_to_sums(self) -> None:
        """Add the accumulated gradients to fp32 sums, in the memory of Adam's first moment.

        The optimizer has done its work then. So the sums take no memory of their own, and a
        checkpoint holds them. SGD has no moment, and gets the memory for it.
        """
        for parameter in self.parameters.values():
            gradient = _utils.safe_get_local_grad(parameter)
            sums = _utils.safe_get_local_optimizer_state(parameter, _SUMS)
            _utils.safe_set_local_optimizer_state(parameter, sums + gradient, _SUMS)

    def gather_sum(self, name: str) -> Tensor:
        """A whole parameter's sum of gradients, fp32, in its shape, on every rank (collective)."""
        return _present(_utils.safe_get_full_optimizer_state(self.parameters[name], _SUMS))

    def save(self, directory: Path, tag: str) -> None:
        """Write a checkpoint of all partitions into ``directory/tag`` (collective)."""
        self.engine.save_checkpoint(str(directory), tag, save_latest=False)

    def load(self, directory: Path, tag: str) -> None:
        """Load all partitions from a checkpoint of the same number of ranks (collective).

        Raises:
            UserError: a file of it is missing.
        """
        try:
            path, _ = self.engine.load_checkpoint(str(directory), tag)
        except FileNotFoundError:
            path = None
        if path is None:
            raise UserError(
                f"{directory / tag}: this checkpoint is not whole; delete it and run again: the "
                "training continues from an earlier one, or begins anew"
            )

    def load_recut(self, directory: Path, tag: str, written_by: int) -> None:
        """Load all partitions from a checkpoint of another number of ranks (collective)."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        groups = [[names[id(member)] for member in group] for group in self._optimizer.fp16_groups]
        rank, ranks = comm.get_rank(), comm.get_world_size()
        self._load_state(recut(directory / tag, written_by, groups, rank, ranks))

    def copy_masters(self) -> dict[str, Tensor]:
        """This rank's partitions of the fp32 masters, padding and all, in host memory."""
        return {
            name: _utils.safe_get_local_fp32_param(parameter).to("cpu", copy=True)
            for name, parameter in self.parameters.items()
        }

    def put_masters(self, masters: Mapping[str, Tensor]) -> None:
        """Set what ``copy_masters`` gave, and the computation's weights with it (collective)."""
        for name, parameter in self.parameters.items():
            _utils.safe_set_local_fp32_param(parameter, masters[name])
        names = ("loss_scaler", "dynamic_loss_scale", "overflow")
        state = {name: getattr(self._optimizer, name) for name in names}
        state["fp32_flat_groups"] = self._optimizer.fp32_partitioned_groups_flat
        self._load_state(state, load_optimizer_states=False)

    def _load_state(self, state: dict[str, Any], **options: bool) -> None:
        """Hand this rank's state to DeepSpeed (collective); the weights follow the masters."""
        self._optimizer.checkpoint_event_prologue()
        self._optimizer.load_state_dict({comm.get_rank(): state}, **options)
        self._optimizer.checkpoint_event_epilogue()

    def scale_sums(self, factor: float) -> None:
        """Multiply what ``add_gradients_to_sums`` has summed."""
        for parameter in self.parameters.values():
            sums = _utils.safe_get_local_optimizer_state(parameter, _SUMS)
            _utils.safe_set_local_optimizer_state(parameter, sums * factor, _SUMS)

    def close(self) -> None:
        """Release what DeepSpeed holds."""
        with suppress(Exception):
            self.engine.destroy()


def _present(tensor: Tensor | None) -> Tensor:
    """DeepSpeed answers None for a parameter that it does not train; all are trained here."""
    assert tensor is not None
    return tensor
