"""Many merges of the same inputs, held in memory: what a search over merge settings needs."""

from pathlib import Path

import numpy as np

from merge.inputs import ROLES, MergeInputs
from merge.patch_directory import Role
from merge.patching import patch_tensor, select_over_model
from merge.recipe import MergeSettings, Score


class LoadedInputs:
    """Backbone, deltas and scores in memory; each merge gives the bits that ``build`` writes."""

    def __init__(self, inputs: MergeInputs) -> None:
        """Read everything that the inputs cover, once: about 16 bytes for each fp32 entry."""
        self._inputs = inputs
        self._bits = {name: inputs.bits(name) for name in inputs.covered}
        self._deltas = {
            (role, name): inputs.delta(role, name) for role in ROLES for name in inputs.covered
        }
        self._scores: dict[tuple[Role, str, Score], np.ndarray] = {}

    @classmethod
    def read(
        cls, backbone: Path, safety: Path, over_safety: Path, settings: MergeSettings
    ) -> "LoadedInputs":
        """Open and read; which tensors are covered is settled here.

        Raises:
            UserError: as ``MergeInputs.open``.
        """
        return cls(MergeInputs.open(backbone, safety, over_safety, settings))

    @property
    def covered(self) -> tuple[str, ...]:
        return self._inputs.covered

    def bits(self, name: str) -> np.ndarray:
        return self._bits[name]

    def delta(self, role: Role, name: str) -> np.ndarray:
        return self._deltas[role, name]

    def score_bits(
        self, role: Role, name: str, score: Score, bits: np.ndarray, delta: np.ndarray
    ) -> np.ndarray:
        key = (role, name, score)
        if key not in self._scores:
            self._scores[key] = self._inputs.score_bits(role, name, score, bits, delta)
        return self._scores[key]

    def merge(self, settings: MergeSettings) -> dict[str, np.ndarray]:
        """Every covered tensor, merged: flat, in the backbone's dtype (bfloat16 as uint16)."""
        selection = select_over_model(self, settings)
        return {name: patch_tensor(self, name, settings, selection)[0] for name in self.covered}
