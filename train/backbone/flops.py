"""How much arithmetic a token takes, and how much a GPU can do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2.25e15,
    "L40S": 362e12,
    "A10": 125e12,
}
"""Dense bf16 tensor-core operations a second, from the vendor's data sheets (SXM forms)."""


@dataclass(frozen=True)
class ModelShape:
    """What counts in a decoder's cost."""

    parameters: int
    embedding: int
    """Parameters of the input embedding, which is looked up and not multiplied."""
    layers: int
    attention_width: int
    """Heads times the width of a head."""

    @classmethod
    def of(cls, model: Any, sizes: Mapping[str, int]) -> "ModelShape":
        """From a ``PreTrainedModel``, partitioned or on the meta device too.

        Args:
            sizes: number of values of every parameter.
        """
        text = model.config.get_text_config()
        heads = getattr(text, "num_attention_heads", None) or 0
        head = getattr(text, "head_dim", None) or (text.hidden_size // heads if heads else 0)
        table = model.get_input_embeddings().weight
        embedding = next(name for name, each in model.named_parameters() if each is table)
        tied = bool(getattr(text, "tie_word_embeddings", False))
        return cls(
            parameters=sum(sizes.values()),
            # A tied matrix is multiplied after all, as the output layer.
            embedding=0 if tied else sizes[embedding],
            layers=text.num_hidden_layers,
            attention_width=head * heads,
        )

    def training_flops(self, length: float) -> float:
        """Operations of one token's forward and backward pass in a sequence of ``length`` tokens.

        6 * (parameters - embedding) + 12 * layers * attention width * length, as torchtitan
        counts (``get_nparams_and_flops``): nothing for recomputation, and attention not halved
        for its causal mask.
        """
        attention = 12 * self.layers * self.attention_width * length
        return 6 * (self.parameters - self.embedding) + attention


def peak_flops(device: str) -> float | None:
    """Peak rate of a GPU by its full name; ``None`` for unknown GPUs and for CPUs."""
    # The longest name first: A100 begins with A10.
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if name in device:
            return PEAK_FLOPS[name]
    return None
