"""What a fit measures, kept on disk: minutes of forward and backward passes are not made twice."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launch.fit.derivatives import ScaleDerivatives
from launch.margin_model import MarginModel, Measured
from merge.files import atomic_writer, make_directory
from merge.inputs import ROLES
from merge.recipe import MergeSettings

_SEED = 0
_MASKS = {
    "score", "scope", "top_safety", "top_over_safety", "retention", "rescale", "seed",
    "include", "exclude",
}  # fmt: skip
"""The settings of a merge that say which entries are in which set, and kept."""
_NEAR = 1e-3
"""Points whose scales differ by less are one: rounding depends on where memory lies."""


@dataclass(frozen=True)
class KeptMeasurements:
    """Measures merges and derivatives by their scales, or finds what an earlier try has left.

    Attributes:
        base: the merge whose masks are used; its scales do not matter.
        chosen: int64 [questions], which of the model's prompts are differentiated.
    """

    model: MarginModel
    base: MergeSettings
    chosen: np.ndarray
    folder: Path

    def at_backbone(self) -> np.ndarray:
        """Those of the margins, fp64 [questions, tensors, 2 patches, 3 sets]."""
        return self._kept("backbone", lambda: {"found": self._of_margins(None)})["found"]

    def merge(self, settings: MergeSettings) -> Measured:
        """What forward passes say of a merge with these masks, whatever its scales."""

        def measure() -> dict[str, np.ndarray]:
            return {
                key: np.asarray(each) for key, each in vars(self.model.measure(settings)).items()
            }

        found = self._kept(f"merge {settings.model_dump_json()}", measure)
        return Measured(
            margins=found["margins"],
            utility=found["utility"],
            right=found["right"],
            divergence=float(found["divergence"]),
        )

    def around(
        self, number: int, point: np.ndarray, settings: MergeSettings
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those of the margins at another merge.

        Args:
            number: of the linearisation.
            point: the merge's scales, as the fit has them.

        Returns:
            The point, or one next to it where an earlier try has measured; and the derivatives.
        """

        def measure() -> dict[str, np.ndarray]:
            return {"point": point, "found": self._of_margins(settings)}

        kept = self._kept(f"round {number}", measure)
        if kept["point"].shape != point.shape or np.abs(kept["point"] - point).max() > _NEAR:
            kept = self._measured(f"round {number}", measure)
        return kept["point"], kept["found"]

    def fisher(self) -> np.ndarray:
        """Those whose mean outer product is the Hessian of the divergence at the backbone."""

        def measure() -> dict[str, np.ndarray]:
            self.model.borrowed.take(None)
            engine = ScaleDerivatives(self.model.borrowed, self.base)
            return {"found": engine.of_own_tokens(self.model.harmless_answers, _SEED)}

        return self._kept("fisher", measure)["found"]

    def _of_margins(self, settings: MergeSettings | None) -> np.ndarray:
        self.model.borrowed.take(settings)
        prompts = [self.model.prompts[number] for number in self.chosen]
        engine = ScaleDerivatives(self.model.borrowed, self.base)
        return engine.of_margins(prompts, self.model.openings)

    def _kept(
        self, name: str, measure: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        file = self._file(name)
        if not file.is_file():
            return self._measured(name, measure)
        with np.load(file) as arrays:
            return dict(arrays)

    def _measured(
        self, name: str, measure: Callable[[], Mapping[str, np.ndarray]]
    ) -> Mapping[str, np.ndarray]:
        found = measure()
        make_directory(self.folder)
        with atomic_writer(self._file(name)) as stream, io.BytesIO() as buffer:
            arrays: dict[str, Any] = dict(found)
            np.savez(buffer, **arrays)
            stream.write(buffer.getvalue())
        return found

    def _file(self, name: str) -> Path:
        """Named after all that the measurement depends on."""
        patches = self.model.borrowed.loaded.inputs.patches
        masks = self.base.model_dump(mode="json", include=_MASKS)
        key = [
            name,
            masks,
            self.chosen.tolist(),
            self.model.openings.tokens,
            [patches[role].metadata for role in ROLES],
        ]
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"
