"""What each merge method puts into the backbone.

Notation: theta_0 the backbone, delta_S and delta_O the patches, a and b their top rates, top(I)
the entries of largest score I, R entries kept with the retention rate p. All in fp32.

- ``difference``: theta_0 + alpha delta_S on R of top_a(I_S) without top_b(I_O), and
  + beta delta_O on R of top_b(I_O) without top_a(I_S). SafePatching, arXiv 2405.13820, section 3.
- ``intersection``: both on R of what top_a(I_S) and top_b(I_O) share; the paper's ablation.
- ``by_set``: theta_0 + s delta_S on R_S, then + t delta_O on R_O, s and t by the set that an entry
  is in: for delta_S alpha in top_a(I_S) without top_b(I_O) (its own set), alpha_shared in both top
  sets, alpha_rest outside top_a(I_S); for delta_O the same with beta and the top sets swapped. A
  set of scale 0 is not taken at all. So it holds ``difference`` (the own sets alone),
  ``intersection`` (the shared ones alone) and ``dense`` (equal scales), and a fit of its scales
  says which set carries the effect. Ours, issue 14.
- ``dense``: theta_0 + alpha delta_S on R_S, then + beta delta_O on R_O; ``safety`` and
  ``over_safety``: one of them alone.
- ``task_arithmetic``: theta_0 + (alpha delta_S + beta delta_O). Ilharco et al., arXiv 2212.04089.
- ``dare``: theta_0 + alpha/p delta_S on R_S + beta/p delta_O on R_O. Yu et al., arXiv 2311.03099,
  whose p is the drop rate 1 - p.
- ``ties``: each delta is trimmed to its top a, or b, by magnitude; an entry's sign is that of the
  trimmed deltas' sum; theta_0 + alpha times the mean of those trimmed deltas that have it.
  Yadav et al., arXiv 2306.01708; one factor, so beta must equal alpha.
- ``linear``: (1 - alpha - beta) theta_0 + alpha (theta_0 + delta_S) + beta (theta_0 + delta_O).
  Averaging the weights before and after tuning, arXiv 2412.19512, for two tuned models.
"""

from dataclasses import dataclass
from typing import Literal

from merge.io.patch_directory import Role

MethodName = Literal[
    "difference",
    "intersection",
    "by_set",
    "dense",
    "safety",
    "over_safety",
    "task_arithmetic",
    "ties",
    "dare",
    "linear",
]
Rule = Literal["difference", "intersection", "by_set", "each", "all", "first", "second"]
"""Who takes an entry: by top sets up to ``each``, without any from ``all`` on."""
Combination = Literal["in_turn", "summed", "averaged", "elected", "by_set"]
"""How the taken deltas and the backbone become one value."""


@dataclass(frozen=True)
class Method:
    """Which entries a method takes, and how they are put together."""

    rule: Rule
    combination: Combination = "in_turn"
    masked: bool = False
    """Whether it selects top sets."""
    by_magnitude: bool = False
    """Whether these are of the deltas' magnitude, not of importance."""
    drawn: bool = False
    """Whether entries are kept at random."""
    always_rescaled: bool = False
    """Whether kept entries are divided by the retention rate, whatever the settings say."""
    one_factor: bool = False
    """Whether one scale serves both patches, so that beta must equal alpha."""
    scales_sets: bool = False
    """Whether each set of a patch's entries has a scale of its own."""
    published: str | None = None
    """What a table calls it, where it is a published way to merge two tuned models."""

    @property
    def alone(self) -> Role | None:
        """The one patch that it merges; the other may be any, also the same again."""
        alone: dict[Rule, Role] = {"first": "safety", "second": "over_safety"}
        return alone.get(self.rule)

    @property
    def by_importance(self) -> bool:
        """Whether it needs importances; else their files are neither read nor hashed."""
        return self.masked and not self.by_magnitude


METHODS: dict[MethodName, Method] = {
    "difference": Method("difference", masked=True, drawn=True),
    "intersection": Method("intersection", masked=True, drawn=True),
    "by_set": Method("by_set", "by_set", masked=True, drawn=True, scales_sets=True),
    "dense": Method("all", drawn=True),
    "safety": Method("first", drawn=True),
    "over_safety": Method("second", drawn=True),
    "task_arithmetic": Method("all", "summed", published="task arithmetic"),
    "ties": Method(
        "each", "elected", masked=True, by_magnitude=True, one_factor=True, published="TIES"
    ),
    "dare": Method("all", drawn=True, always_rescaled=True, published="DARE"),
    "linear": Method("all", "averaged", published="linear"),
}
