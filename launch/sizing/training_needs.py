"""What a training needs, from a model's configuration alone: memory, disk, tokens and time.

No weights are read and no GPU is asked. Bytes are counted by what DeepSpeed 0.19 allocates under
ZeRO-3; ``tests/benchmarks/measure_train_memory.py`` compares the sum with measured peaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from train.backbone.block_weights import block_weights
from train.backbone.flops import ModelShape
from train.backbone.skeleton import build_skeleton
from train.settings import OptimizerName, TrainingSettings

_OPTIMIZER: dict[OptimizerName, int] = {"adamw": 4 + 8, "sgd_normalised": 4 + 4}
"""Bytes a parameter: its fp32 master and, by Adam, two fp32 moments. SGD has none, but then the
importance's fp32 sums take memory of their own; see ``Zero3Model.add_gradients_to_sums``."""
_ACCUMULATED = 4
"""Bytes a parameter: its gradient is accumulated in fp32."""
_BEST = 4
"""Bytes a parameter: the fp32 masters of the best state so far, where a guard keeps them."""
_GPU_BASE = 1.5e9
"""CUDA context, NCCL's buffers and cuBLAS workspaces, as usually seen."""
_HOST_BASE = 0.6e9
"""A rank's Python, PyTorch, DeepSpeed and transformers, as measured."""
_FRAGMENTATION = 1.05
"""What PyTorch's allocator keeps beyond what is in use, for tensors that come and go."""
_DEFAULTS = {
    "stage3_max_live_parameters": 1e9,
    "stage3_prefetch_bucket_size": 5e7,
    "stage3_param_persistence_threshold": 1e5,
    "reduce_bucket_size": 5e8,
    "sub_group_size": 1e9,
}
"""DeepSpeed's own, where a file does not say."""


@dataclass(frozen=True)
class Model:
    """A backbone as its configuration describes it."""

    shape: ModelShape
    sizes: tuple[int, ...]
    """Number of values of each parameter tensor."""
    hidden: int
    intermediate: int
    """Width of the feed-forward layer, of all experts that a token visits together."""
    key_value_width: int
    vocabulary: int
    attention_heads: int
    """0 where a fused attention keeps no matrix of tokens by tokens."""

    @classmethod
    def from_config(cls, config: Any, trust_remote_code: bool = False, source: str = "") -> "Model":
        """Build it on the meta device, where parameters have shapes and no memory.

        Args:
            source: what errors call the backbone.

        Raises:
            UserError: transformers builds no causal language model from the configuration.
        """
        return cls.of(build_skeleton(config, trust_remote_code, source))

    @classmethod
    def of(cls, skeleton: Any) -> "Model":
        """Read it off a model without values; see ``train.backbone.skeleton``."""
        sizes = {name: parameter.numel() for name, parameter in skeleton.named_parameters()}
        text = skeleton.config.get_text_config()
        shape = ModelShape.of(skeleton, sizes)
        heads = getattr(text, "num_attention_heads", None) or 1
        key_value_heads = getattr(text, "num_key_value_heads", None) or heads
        vocabulary, hidden = skeleton.get_input_embeddings().weight.shape
        return cls(
            shape=shape,
            sizes=tuple(sizes.values()),
            hidden=hidden,
            intermediate=_feed_forward_width(skeleton, text),
            key_value_width=shape.attention_width // heads * key_value_heads,
            vocabulary=vocabulary,
            attention_heads=0 if skeleton._supports_sdpa else heads,
        )


def _feed_forward_width(skeleton: Any, text: Any) -> int:
    """From the configuration where it says so, else the widest side of the blocks' matrices."""
    width = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", None)
    if isinstance(width, list):
        width = max(width)
    if width is None:
        shapes = dict(skeleton.named_parameters())
        return max(max(shapes[name].shape) for name in block_weights(skeleton))
    return width * (getattr(text, "num_experts_per_tok", None) or 1)


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank where it computes."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Whole parameters around the layer that runs, and small ones that stay whole."""
    buffers: float
    """Gradients on their way, and the step's own copies."""
    activations: float
    logits: float
    base: float

    @property
    def total(self) -> float:
        """The peak: a step's copies and a backward pass are not there at the same time."""
        states = self.weights + self.gradients + self.optimizer + self.base
        return states + (self.gathered + self.buffers + self.activations + self.logits)

    def parts(self) -> dict[str, float]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def rank_memory(
    model: Model,
    config: Mapping[str, Any],
    training: TrainingSettings,
    dtype_bytes: int,
    ranks: int,
    on_gpu: bool,
) -> Memory:
    """Peak bytes of one rank of a training.

    Args:
        config: of ``train.zero.ds_config``.
        dtype_bytes: of the computation: 2 for bf16, 4 for fp32.
        on_gpu: else the rank computes in host memory.
    """
    zero = {**_DEFAULTS, **config["zero_optimization"]}
    count = model.shape.parameters
    share = count / ranks
    largest = max(model.sizes)
    threshold = zero["stage3_param_persistence_threshold"]
    small = sum(size for size in model.sizes if size < threshold)
    live = zero["stage3_max_live_parameters"] + zero["stage3_prefetch_bucket_size"]
    gathered = min(count, max(live, largest)) + small
    bucket = min(count, max(zero["reduce_bucket_size"], largest))
    # Gradients are exchanged in fp32; in bf16 the bucket is copied for it.
    exchange = bucket * (dtype_bytes + (4 if dtype_bytes < 4 else 0))
    step = 4 * min(share, zero["sub_group_size"])
    offloaded = "offload_optimizer" in zero
    slack = _FRAGMENTATION if on_gpu else 1.0
    return Memory(
        weights=0.0 if "offload_param" in zero else share * dtype_bytes,
        gradients=0.0 if offloaded else share * _ACCUMULATED,
        optimizer=0.0 if offloaded else share * _OPTIMIZER[training.optimizer],
        gathered=slack * gathered * dtype_bytes,
        buffers=slack * (exchange if offloaded else max(exchange, step)),
        activations=slack * activation_bytes(model, training, dtype_bytes),
        logits=slack * logit_bytes(model, training, dtype_bytes),
        base=_GPU_BASE if on_gpu else _HOST_BASE,
    )


def activation_bytes(model: Model, training: TrainingSettings, dtype_bytes: int) -> float:
    """What the forward pass keeps for the backward pass, without the logits.

    Counted for a Llama-like block: its input, both norms' fp32 inputs and outputs, q, k and v
    before and after rotation, attention's output, and four of the width of the gated layer;
    without fused attention also its matrices.
    """
    tokens = training.micro_batch_size * training.max_length
    norms = 2 * model.hidden * (4 + dtype_bytes)
    attention = 4 * model.shape.attention_width + 4 * model.key_value_width
    block = tokens * (norms + dtype_bytes * (2 * model.hidden + attention + 4 * model.intermediate))
    # The matrix of tokens by tokens, its fp32 softmax, and that in the computation's dtype.
    block += model.attention_heads * tokens * training.max_length * (4 + 2 * dtype_bytes)
    if not training.gradient_checkpointing:
        return model.shape.layers * block
    return model.shape.layers * tokens * model.hidden * dtype_bytes + block


def logit_bytes(model: Model, training: TrainingSettings, dtype_bytes: int) -> float:
    """Logits and their gradient, and in fp32 the answers' logits, their softmax and its gradient.

    As if the whole text were answer: an upper bound.
    """
    tokens = training.micro_batch_size * training.max_length
    return tokens * model.vocabulary * (2 * dtype_bytes + 3 * 4)


def host_bytes(
    model: Model,
    config: Mapping[str, Any],
    training: TrainingSettings,
    dtype_bytes: int,
    ranks: int,
    ranks_a_host: int,
) -> float:
    """Memory of one host beside its GPUs, with what is offloaded and the best state so far."""
    zero = config["zero_optimization"]
    share = model.shape.parameters * ranks_a_host / ranks
    states = _OPTIMIZER[training.optimizer] + 2 * _ACCUMULATED
    optimizer = states if "offload_optimizer" in zero else 0
    weights = dtype_bytes if "offload_param" in zero else 0
    # While loading and exporting, a rank holds single parameters whole: fp32, and one copy.
    whole = 8 * max(model.sizes) * ranks_a_host
    best = _BEST if training.keeps_best else 0
    return share * (optimizer + weights + best) + whole + ranks_a_host * 2 * _HOST_BASE


def checkpoint_bytes(model: Model, training: TrainingSettings, dtype_bytes: int) -> float:
    """Size of a checkpoint: weights, the optimizer's states, and the masters of the best state."""
    best = _BEST if training.keeps_best else 0
    return model.shape.parameters * (dtype_bytes + _OPTIMIZER[training.optimizer] + best)


def training_seconds(
    model: Model, training: TrainingSettings, tokens: float, flops_a_second: float
) -> float:
    """Forward, backward, and with checkpointing one more forward pass."""
    work = tokens * model.shape.training_flops(training.max_length)
    return work * (4 / 3 if training.gradient_checkpointing else 1) / flops_a_second
