"""The settings of one merge. The default numbers are this project's, not the paper's."""

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from merge.common.settings import Settings, added
from merge.methods import METHODS, Method, MethodName

ScoreName = Literal["weight", "delta", "magnitude"]
ScopeName = Literal["tensor", "model"]
RoundingName = Literal["nearest", "stochastic"]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Factor = Annotated[float, Field(allow_inf_nan=False)]
SetScales = tuple[float, float, float]
"""Scales of one patch's entries in one tensor, in the order of ``SETS``."""
SETS = ("own", "shared", "rest")
"""Sets of a patch's entries: in its top set alone, in both top sets, outside its top set."""
SCALES = {
    "alpha": ("alpha", "alpha_shared", "alpha_rest"),
    "beta": ("beta", "beta_shared", "beta_rest"),
}
"""Keys of the safety patch's scales in the order of ``SETS``, and of the over-safety patch's."""
_BY_SET = tuple(key for keys in SCALES.values() for key in keys[1:])


class ScaleRule(Settings):
    """Other scales for some tensors."""

    pattern: str
    """Shell-style, of the whole tensor name, for example ``*layers.3.*``."""
    alpha: Factor | None = None
    """None keeps the setting for all tensors."""
    beta: Factor | None = None
    """Scale of the over-safety patch in these tensors; None keeps the setting for all."""
    alpha_shared: Factor | None = added(None)
    """Method ``by_set``, as in ``merge``; None keeps the setting for all tensors."""
    alpha_rest: Factor | None = added(None)
    """Scale of the safety patch's entries outside its top set, for ``by_set``."""
    beta_shared: Factor | None = added(None)
    """Scale of the over-safety patch's entries in both top sets, for ``by_set``."""
    beta_rest: Factor | None = added(None)
    """Scale of the over-safety patch's entries outside its top set, for ``by_set``."""


class MergeSettings(Settings):
    """What is merged, and how: see ``merge.methods`` for the formula of each method."""

    method: MethodName = "difference"
    """The arithmetic by which the two patches become one."""
    score: ScoreName = "weight"
    """Score that ranks a patch's entries. From its gradients G: ``weight`` = abs(theta_0 + delta) *
    G, the paper's SNIP score; ``delta`` = abs(delta) * G. A patch that stores a score is ranked by
    it. ``magnitude`` = abs(delta), of any patch: the baseline that importance has to beat."""
    scope: ScopeName = "tensor"
    """Whether a top set is taken in each tensor, or over all covered tensors together."""
    top_safety: Fraction = 0.2
    """a: share of the safety patch's entries that its top set holds."""
    top_over_safety: Fraction = 0.2
    """b: share of the over-safety patch's entries that its top set holds."""
    retention: Fraction = 0.9
    """p: probability with which a selected entry is kept."""
    alpha: Factor = 1.0
    """Scale of the safety patch."""
    beta: Factor = 1.0
    """Scale of the over-safety patch."""
    alpha_shared: Factor = added(0.0)
    """Method ``by_set``: scale of the safety patch's entries in both top sets; ``alpha`` is then
    the scale of the entries in its own top set alone."""
    alpha_rest: Factor = added(0.0)
    """Method ``by_set``: scale of the safety patch's entries outside its top set."""
    beta_shared: Factor = added(0.0)
    """Method ``by_set``: scale of the over-safety patch's entries in both top sets; ``beta`` is
    then the scale of the entries in its own top set alone."""
    beta_rest: Factor = added(0.0)
    """Method ``by_set``: scale of the over-safety patch's entries outside its top set."""
    scales: tuple[ScaleRule, ...] = ()
    """Rules with other scales for the tensors that their pattern names; the first rule that fits
    applies."""
    rescale: bool = False
    """Whether kept entries are divided by the retention rate, as DARE does."""
    rounding: RoundingName = added("nearest")
    """How a merged value is rounded to a bf16 or fp16 backbone's dtype. ``nearest`` erases entries
    below half a step of the dtype, which can be nearly all of a patch of few steps. ``stochastic``
    rounds up or down at random, so that each entry is right on average and their sum keeps its
    effect."""
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    """Seed of the random retention and of stochastic rounding."""
    include: tuple[str, ...] | None = added(None)
    """Shell-style patterns of the names of covered tensors. None covers the linear weights inside
    the decoder blocks, whatever the architecture calls them."""
    exclude: tuple[str, ...] = ()
    """Patterns of tensors to leave unchanged although ``include`` names them."""

    @model_validator(mode="after")
    def _check(self) -> "MergeSettings":
        rules = METHODS[self.method]
        if (self.rescale or rules.always_rescaled) and self.retention == 0:
            raise ValueError("rescaling divides by retention, which is 0: raise retention")
        ruled = (None, *self.scales)
        pairs = [(self._scale("alpha", rule), self._scale("beta", rule)) for rule in ruled]
        if rules.one_factor and any(alpha != beta for alpha, beta in pairs):
            raise ValueError(f"{self.method} scales by one factor: set beta to alpha's value")
        for key in () if rules.scales_sets else _BY_SET:
            if getattr(self, key) or any(getattr(rule, key) is not None for rule in self.scales):
                raise ValueError(
                    f"{key} is a scale of method by_set, and method is {self.method}: set method "
                    f"to by_set, or leave {key} out"
                )
        if self.include == ():
            raise ValueError("include is empty, so nothing would be merged: name a pattern")
        return self

    @property
    def only_over_safety(self) -> bool:
        """Whether nothing of the safety patch is merged: such a model is jailbroken, so its folder
        and its answers stay private to their owner."""
        alone = METHODS[self.method].alone
        if alone is not None:
            return alone == "over_safety"
        ruled = (None, *self.scales)
        return not any(self._scale(key, rule) for key in SCALES["alpha"] for rule in ruled)

    def values_for(self, method: MethodName) -> dict[str, Any]:
        """The values of this merge by another method: without scales of sets where it has none."""
        values = {**self.model_dump(), "method": method}
        if not METHODS[method].scales_sets:
            for scales in (values, *values["scales"]):
                for key in _BY_SET:
                    scales.pop(key, None)
        return values

    def scales_of(self, name: str) -> tuple[float, float]:
        """Alpha and beta of one tensor."""
        (alpha, *_), (beta, *_) = self.set_scales_of(name)
        return alpha, beta

    def set_scales_of(self, name: str) -> tuple[SetScales, SetScales]:
        """All scales of one tensor: the safety patch's by set, and the over-safety patch's."""
        rule = next((rule for rule in self.scales if fnmatchcase(name, rule.pattern)), None)
        safety, over_safety = (
            (self._scale(own, rule), self._scale(shared, rule), self._scale(rest, rule))
            for own, shared, rest in SCALES.values()
        )
        return safety, over_safety

    def _scale(self, key: str, rule: ScaleRule | None) -> float:
        """A scale by a rule, where it has one."""
        ruled = None if rule is None else getattr(rule, key)
        return getattr(self, key) if ruled is None else ruled


def method_of(settings: MergeSettings) -> Method:
    """The settings' method; with score ``magnitude`` it needs no importance."""
    method = METHODS[settings.method]
    magnitude = method.masked and settings.score == "magnitude"
    return replace(method, by_magnitude=True) if magnitude else method
