"""What each merge method puts into the backbone.

With T the kept entries, theta = theta_0 + alpha * delta_S on T_S + beta * delta_O on T_O, where
I is a patch's score, top_a its a% largest, and R entries drawn with the retention rate p:

- ``difference``: T_S = R_S of top_a(I_S) without top_b(I_O), T_O the other way round.
  SafePatching, arXiv 2405.13820, section 3.
- ``intersection``: both deltas on top_a(I_S) and top_b(I_O) in common; the paper's ablation.
- ``dense``: R_S and R_O of all entries; ``safety`` and ``over_safety``: R of one patch alone.
"""

from dataclasses import dataclass

from merge import kernels
from merge.recipe import MethodName


@dataclass(frozen=True)
class Method:
    """Which entries a method takes; see ``kernels.write_back``."""

    rule: int
    masked: bool = False
    """Whether it selects by score."""


METHODS: dict[MethodName, Method] = {
    "difference": Method(kernels.DIFFERENCE, masked=True),
    "intersection": Method(kernels.INTERSECTION, masked=True),
    "dense": Method(kernels.ALL),
    "safety": Method(kernels.FIRST),
    "over_safety": Method(kernels.SECOND),
}
