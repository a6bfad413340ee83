"""What a merge reads: backbone and both patches, checked together before any work."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from merge.errors import UserError
from merge.fingerprint import backbone_fingerprint
from merge.numbers import to_float32
from merge.patch_directory import PatchDirectory, Role
from merge.recipe import MergeSettings, Score
from merge.tensor_files import BITS_OF, TensorEntry, TensorFolder

ROLES: tuple[Role, Role] = ("safety", "over_safety")


@dataclass(frozen=True)
class MergeInputs:
    """The backbone, the two patches, and the names of the tensors that a merge covers."""

    backbone: TensorFolder
    patches: dict[Role, PatchDirectory]
    covered: tuple[str, ...]
    """In sorted order."""

    @classmethod
    def open(
        cls, backbone: Path, safety: Path, over_safety: Path, settings: MergeSettings
    ) -> "MergeInputs":
        """Read records and headers and check that they fit; no tensor data but the samples.

        Raises:
            UserError: every problem that can be found without reading all data, in one line.
        """
        problems: list[str] = []
        folders: dict[Role, Path] = {"safety": safety, "over_safety": over_safety}
        patches: dict[Role, PatchDirectory] = {}
        model = None
        try:
            model = TensorFolder(backbone, "model")
        except UserError as error:
            problems.append(str(error))
        for role, folder in folders.items():
            try:
                patches[role] = PatchDirectory(folder, role)
            except UserError as error:
                problems.append(str(error))
        if model is None or problems:
            raise UserError("; ".join(problems))
        covered = settings.covered(model.entries)
        if not covered:
            problems.append(
                f"{backbone}: no tensor is covered by include={list(settings.include)} and "
                f"exclude={list(settings.exclude)}; mend the patterns"
            )
        fingerprint = None
        for patch in patches.values():
            wanted = patch.metadata.get("backbone_fingerprint")
            if wanted is not None:
                fingerprint = fingerprint or backbone_fingerprint(backbone)
                if wanted != fingerprint:
                    problems.append(
                        f"{patch.directory}: was made for another backbone than {backbone}; give "
                        "the backbone that it was trained on"
                    )
            problems += _mismatches(model, patch, covered)
        if problems:
            raise UserError("; ".join(problems))
        return cls(model, patches, tuple(covered))

    def bits(self, name: str) -> np.ndarray:
        """A backbone tensor as its file holds it, flat."""
        return self.backbone.read(name)

    def delta(self, role: Role, name: str) -> np.ndarray:
        """A patch's tensor, float32, flat.

        Raises:
            UserError: it holds NaN or infinity.
        """
        folder = self.patches[role].delta
        delta = to_float32(folder.read(name))
        if not np.isfinite(delta).all():
            raise UserError(f"{folder.entries[name].path}: '{name}' holds NaN or Inf; train again")
        return delta

    def score_bits(
        self, role: Role, name: str, score: Score, bits: np.ndarray, delta: np.ndarray
    ) -> np.ndarray:
        """The importance of a tensor's entries as bit patterns of float32, uint32, flat.

        ``weight``: |theta_0 + delta| x G; ``delta``: |delta| x G; a ready score as it is.

        Raises:
            UserError: the importance has a negative or non-finite entry.
        """
        patch = self.patches[role]
        importance = to_float32(patch.importance.read(name))
        if not (np.isfinite(importance).all() and (importance >= 0).all()):
            raise UserError(
                f"{patch.importance.entries[name].path}: importance of '{name}' must be finite "
                "and not negative; scores dumped for pruning may be negated"
            )
        if patch.has_gradient:
            moved = to_float32(bits) + delta if score == "weight" else delta
            importance = np.abs(moved) * importance
        # Minus zero would order as the largest pattern.
        return (importance + np.float32(0)).view(np.uint32)


def _mismatches(model: TensorFolder, patch: PatchDirectory, covered: list[str]) -> list[str]:
    """Where a patch's tensors do not fit the backbone's."""
    problems = []
    for kind, folder in (("delta", patch.delta), ("importance", patch.importance)):
        place = f"{patch.directory}: {kind}"
        missing = [name for name in covered if name not in folder.entries]
        if missing:
            problems.append(
                f"{place} lacks {_some(missing)}; exclude such tensors or make the patch again"
            )
        extra = sorted(folder.entries.keys() - model.entries.keys())
        if extra:
            problems.append(f"{place} has {_some(extra)}, unknown to the backbone")
        for name in covered:
            if name in folder.entries:
                problems += _entry_problems(place, model.entries[name], folder.entries[name])
    return problems


def _entry_problems(place: str, wanted: TensorEntry, found: TensorEntry) -> list[str]:
    problems = []
    if found.shape != wanted.shape:
        problems.append(
            f"{place} of '{found.name}' has shape {list(found.shape)}, the backbone "
            f"{list(wanted.shape)}"
        )
    for entry, owner in ((wanted, "the backbone's"), (found, place)):
        if entry.dtype not in BITS_OF:
            problems.append(f"{owner} '{entry.name}' is {entry.dtype}; use BF16, F16 or F32")
    return problems


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"tensor '{names[0]}'{more}"
