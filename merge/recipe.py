"""The settings of a merge. The defaults are this project's, from its own searches."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from merge.settings import Settings

Method = Literal["difference", "intersection", "dense", "safety", "over_safety"]
Score = Literal["weight", "delta"]
Scope = Literal["tensor", "model"]
Rate = Annotated[float, Field(ge=0, le=1)]

LINEAR_LAYERS = tuple(
    f"*.{name}_proj.weight" for name in ("q", "k", "v", "o", "gate", "up", "down")
)
"""The linear layers inside the decoder blocks of Llama, Mistral, Gemma and their relatives."""


class MergeSettings(Settings):
    """How two patches become one model; DESIGN and README define every term."""

    method: Method = "difference"
    score: Score = "weight"
    """``weight``: |patched weight| x G, the paper's SNIP score. ``delta``: |delta| x G, ours."""
    scope: Scope = "tensor"
    """Whether the top rates hold in every tensor, or over all covered tensors together."""
    top_safety: Rate = 0.2
    """Share of entries, by importance, that the safety patch needs (the paper's a)."""
    top_over_safety: Rate = 0.2
    """Share of entries, by importance, that the over-safety patch needs (the paper's b)."""
    retention: Rate = 0.9
    """Probability with which a selected entry is kept (the paper's p)."""
    rescale: bool = False
    """Divide kept entries by the retention rate, as DARE does."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Weight of the safety patch."""
    beta: float = Field(default=1.0, allow_inf_nan=False)
    """Weight of the over-safety patch."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the random retention."""
    include: tuple[str, ...] = LINEAR_LAYERS
    """Patterns (``*``, ``?``, ``[...]``) of the tensors to patch."""
    exclude: tuple[str, ...] = ()
    """Patterns of tensors to leave alone although they are included."""

    def covered(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` that the patterns cover, sorted."""
        return sorted(
            name
            for name in names
            if any(fnmatchcase(name, pattern) for pattern in self.include)
            and not any(fnmatchcase(name, pattern) for pattern in self.exclude)
        )
