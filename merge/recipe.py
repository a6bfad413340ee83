"""The settings of one merge. The default numbers are this project's, not the paper's."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field, model_validator

from merge.settings import Settings, added

MethodName = Literal[
    "difference",
    "intersection",
    "dense",
    "safety",
    "over_safety",
    "task_arithmetic",
    "ties",
    "dare",
    "linear",
]
ScoreName = Literal["weight", "delta", "magnitude"]
ScopeName = Literal["tensor", "model"]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(allow_inf_nan=False)]


class ScaleRule(Settings):
    """Other scales for some tensors."""

    pattern: str
    """Shell-style, of the whole tensor name, for example ``*layers.3.*``."""
    alpha: Factor | None = None
    """None keeps the setting for all tensors."""
    beta: Factor | None = None


class MergeSettings(Settings):
    """What is merged, and how: see ``merge.methods`` for the formula of each method."""

    method: MethodName = "difference"
    score: ScoreName = "weight"
    """From a patch's gradients G: ``weight`` = abs(theta_0 + delta) * G, the paper's SNIP score;
    ``delta`` = abs(delta) * G. A patch with a ready score is ranked by that. ``magnitude`` =
    abs(delta) alone, of any patch: what importance has to beat."""
    scope: ScopeName = "tensor"
    """Whether a top set is taken in each tensor, or over all covered tensors together."""
    top_safety: Rate = 0.2
    """a: how much of the safety patch is important enough to keep."""
    top_over_safety: Rate = 0.2
    """b: the same for the over-safety patch."""
    retention: Rate = 0.9
    """p: probability with which a selected entry is kept."""
    alpha: Factor = 1.0
    """Scale of the safety patch."""
    beta: Factor = 1.0
    """Scale of the over-safety patch."""
    scales: tuple[ScaleRule, ...] = ()
    """Other scales for the tensors that a pattern names; the first rule that fits counts."""
    rescale: bool = False
    """Whether kept entries are divided by the retention rate, as DARE does."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Of the random retention."""
    include: tuple[str, ...] | None = added(None)
    """Shell-style patterns of the names of covered tensors. None: the linear weights inside the
    decoder blocks, whatever the architecture calls them."""
    exclude: tuple[str, ...] = ()
    """Patterns of tensors to leave alone although ``include`` names them."""

    @model_validator(mode="after")
    def _check(self) -> "MergeSettings":
        if (self.rescale or self.method == "dare") and self.retention == 0:
            raise ValueError("rescaling divides by retention, which is 0: raise retention")
        pairs = [(self.alpha, self.beta), *(self._ruled(rule) for rule in self.scales)]
        if self.method == "ties" and any(alpha != beta for alpha, beta in pairs):
            raise ValueError("ties scales by one factor: set beta to alpha's value")
        if self.include == ():
            raise ValueError("include is empty, so nothing would be merged: name a pattern")
        return self

    def scales_of(self, name: str) -> tuple[float, float]:
        """Alpha and beta of one tensor."""
        for rule in self.scales:
            if fnmatchcase(name, rule.pattern):
                return self._ruled(rule)
        return self.alpha, self.beta

    def _ruled(self, rule: ScaleRule) -> tuple[float, float]:
        return (
            self.alpha if rule.alpha is None else rule.alpha,
            self.beta if rule.beta is None else rule.beta,
        )
