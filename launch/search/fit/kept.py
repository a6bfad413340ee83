"""What a fit measures, kept on disk: minutes of forward and backward passes are not made twice."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from launch.search.fit.derivatives import ScaleDerivatives
from launch.search.margins.margin_model import TEMPERATURE, MarginModel, Measured
from launch.search.margins.utility_leads import spaced
from merge.common.files import atomic_writer, make_directory
from merge.engine.inputs import ROLES
from merge.settings import MergeSettings

_SEED = 0
_MASKS = {
    "score", "scope", "top_safety", "top_over_safety", "retention", "rescale", "seed",
    "include", "exclude",
}  # fmt: skip
"""The settings of a merge that say which entries are in which set, and kept."""
_NEAR = 1e-3
"""Points whose scales differ by less are one: rounding depends on where memory lies."""
_MOST_RIGHT = 96
"""Right answers that are differentiated."""


class Slopes(NamedTuple):
    """Derivatives by the scales, fp64 [..., tensors, 2 patches, 3 sets]."""

    margins: np.ndarray
    """Derivatives of every chosen prompt's margin."""
    leads: np.ndarray
    """Derivatives of every chosen right answer's lead."""


@dataclass(frozen=True)
class KeptMeasurements:
    """Measures merges and derivatives by their scales, or finds what an earlier try has left.

    Attributes:
        base: the merge whose masks are used; its scales do not matter.
        chosen: int64 [questions], which of the model's prompts are differentiated.
        right: int64 [answers], which of its utility questions are: some that the backbone answers
            right.
    """

    model: MarginModel
    base: MergeSettings
    chosen: np.ndarray
    right: np.ndarray
    folder: Path

    @classmethod
    def of(
        cls, model: MarginModel, base: MergeSettings, prompts: int, folder: Path
    ) -> "KeptMeasurements":
        """Choose so many prompts, and right answers, evenly spaced over all that there are."""
        right = np.flatnonzero(model.backbone.leads > 0)
        return cls(
            model,
            base,
            chosen=spaced_places(len(model.prompts), prompts),
            right=right[spaced_places(len(right), _MOST_RIGHT)],
            folder=folder,
        )

    def at_backbone(self) -> Slopes:
        """The derivatives at the backbone."""
        slopes = self._kept("backbone", lambda: self._slopes(None))
        return Slopes(slopes["margins"], slopes["leads"])

    def merge(self, settings: MergeSettings) -> Measured:
        """What forward passes say of a merge with these masks, whatever its scales."""

        def measure() -> dict[str, np.ndarray]:
            return {
                key: np.asarray(each) for key, each in vars(self.model.measure(settings)).items()
            }

        measured = self._kept(f"merge {settings.model_dump_json()}", measure)
        return Measured(
            margins=measured["margins"],
            leads=measured["leads"],
            divergence=float(measured["divergence"]),
        )

    def around(
        self, number: int, point: np.ndarray, settings: MergeSettings
    ) -> tuple[np.ndarray, Slopes]:
        """The derivatives at another merge.

        Args:
            number: of the linearisation.
            point: the merge's scales, as the fit has them.

        Returns:
            The point, or one next to it where an earlier try has measured; and the derivatives.
        """

        def measure() -> dict[str, np.ndarray]:
            return {"point": point, **self._slopes(settings)}

        kept = self._kept(f"round {number}", measure)
        if kept["point"].shape != point.shape or np.abs(kept["point"] - point).max() > _NEAR:
            kept = self._measured(f"round {number}", measure)
        return kept["point"], Slopes(kept["margins"], kept["leads"])

    def fisher(self) -> np.ndarray:
        """Those whose mean outer product is the Hessian of the divergence at the backbone."""

        def measure() -> dict[str, np.ndarray]:
            self.model.in_memory.load_merge(None)
            engine = ScaleDerivatives(self.model.in_memory, self.base)
            return {"rows": engine.of_own_tokens(self.model.harmless_answers, _SEED)}

        return self._kept("fisher", measure)["rows"]

    def _slopes(self, settings: MergeSettings | None) -> dict[str, np.ndarray]:
        model = self.model
        model.in_memory.load_merge(settings)
        prompts = [model.prompts[number] for number in self.chosen]
        engine = ScaleDerivatives(model.in_memory, self.base)
        return {
            "margins": engine.of_margins(prompts, model.openings, TEMPERATURE),
            "leads": engine.of_leads(model.utility, self.right.tolist()),
        }

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
        measured = measure()
        make_directory(self.folder)
        with atomic_writer(self._file(name)) as stream, io.BytesIO() as buffer:
            arrays: dict[str, Any] = dict(measured)
            np.savez(buffer, **arrays)
            stream.write(buffer.getvalue())
        return measured

    def _file(self, name: str) -> Path:
        """Named after all that the measurement depends on."""
        patches = self.model.in_memory.loaded.inputs.patches
        masks = self.base.model_dump(mode="json", include=_MASKS)
        key = [
            name,
            TEMPERATURE,
            masks,
            [self.model.prompts[place] for place in self.chosen],
            self.model.harmless_answers,
            self.chosen.tolist(),
            self.right.tolist(),
            self.model.openings.tokens,
            [patches[role].metadata for role in ROLES],
        ]
        text = json.dumps(key, sort_keys=True, default=str)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def spaced_places(size: int, wanted: int) -> np.ndarray:
    """``wanted`` of so many places, evenly spaced; all of them where they are few."""
    return np.array(spaced(range(size), wanted), dtype=np.int64)
