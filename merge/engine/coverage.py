"""Which tensors a merge covers, and how much of the decoder blocks that is.

The default is a notion, not a list of names: the linear weights inside the decoder blocks. These
are matrices of linear layers and the 3-D tensors that hold a layer's experts; not embeddings, the
output layer, norms, biases, convolutions or recurrent states. Training knows them from the model
and writes them into patch.json; for patches made by hand, names and shapes tell.
"""

import logging
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from merge.io.block_names import is_weight_name
from merge.io.patch_directory import PatchDirectory
from merge.io.tensor_files import TensorIndex
from merge.settings import MergeSettings

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
_NO_MATRIX = re.compile(r"norm|embed|wte|wpe|vision|visual|image|audio|speech|^mtp\.|\.mtp\.")
_SHOWN = 2


@dataclass(frozen=True)
class Coverage:
    """What a merge covers of one backbone."""

    names: tuple[str, ...]
    """Tensors that are merged, sorted."""
    untrained: tuple[str, ...]
    """Tensors that neither patch holds: copied byte for byte."""
    unpatched: tuple[str, ...]
    """Those of them that are linear weights inside the decoder blocks."""
    linear_values: int
    """Values of all linear weights inside the decoder blocks."""
    covered_linear_values: int
    """Those of them that are merged."""

    @property
    def share(self) -> float:
        """Covered share of the linear weights inside the decoder blocks, as a fraction of 1."""
        return self.covered_linear_values / self.linear_values if self.linear_values else 0.0

    def sentence(self) -> str:
        """The share in words, for logs and tables."""
        return f"{self.share:.1%} of the linear weights inside the decoder blocks are covered"


def coverage(
    model: TensorIndex, patches: Iterable[PatchDirectory], settings: MergeSettings
) -> Coverage:
    """What the settings cover of a backbone, given the tensors that its patches hold."""
    patches = list(patches)
    held = {name for patch in patches for name in patch.delta}
    shapes = {name: entry.shape for name, entry in model.items()}
    patterns = {
        pattern for patch in patches for pattern in patch.metadata.get("linear_weights", ())
    }
    # Patterns come from the model, and may fit tensors in the files that it does not have.
    linear = matching(held, sorted(patterns)) if patterns else linear_weights(shapes)
    return cover(shapes, held, linear, settings)


def cover(
    shapes: Mapping[str, Sequence[int]],
    trained: Container[str],
    linear: Iterable[str],
    settings: MergeSettings,
) -> Coverage:
    """What the settings cover of a backbone.

    Args:
        shapes: of every tensor in the backbone's files.
        trained: those that are parameters of the model.
        linear: those that are linear weights inside the decoder blocks.
    """
    held = [name for name in shapes if name in trained]
    linear = {name for name in linear if name in shapes}
    chosen = linear.intersection(held)
    if settings.include is not None:
        chosen = set(matching(held, settings.include))
    names = chosen - set(matching(chosen, settings.exclude))

    def values(counted: Iterable[str]) -> int:
        return sum(math.prod(shapes[name]) for name in counted)

    return Coverage(
        names=tuple(sorted(names)),
        untrained=tuple(sorted(name for name in shapes if name not in trained)),
        unpatched=tuple(sorted(name for name in linear if name not in trained)),
        linear_values=values(linear),
        covered_linear_values=values(linear & names),
    )


def matching(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Names that fit one of several shell-style patterns."""
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def linear_weights(shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Tensors that are linear weights inside numbered blocks, by their names and shapes alone."""
    return [name for name, shape in shapes.items() if _is_linear(name, shape)]


def name_patterns(names: Iterable[str]) -> list[str]:
    """The shortest list of shell-style patterns for tensors of numbered blocks and experts."""
    return sorted({_NUMBER.sub("*", name) for name in names})


def log_coverage(covered: Coverage) -> None:
    """Say what share of the blocks is covered, and what is left alone as it was never trained."""
    logger.info("%s", covered.sentence())
    if covered.unpatched:
        logger.warning(
            "%d linear weights inside the decoder blocks are in neither patch: %s",
            len(covered.unpatched),
            _some(covered.unpatched),
        )
    if covered.untrained:
        logger.info("%s", untrained_sentence(covered.untrained))


def untrained_sentence(names: Sequence[str]) -> str:
    """What becomes of tensors in a backbone's files that are no parameters of its model."""
    return (
        f"{len(names)} {'tensors' if len(names) > 1 else 'tensor'} in the backbone's files, which "
        f"no training changes, stay as they are: {_some(names)}"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _is_linear(name: str, shape: Sequence[int]) -> bool:
    if not _NUMBER.search(name) or _NO_MATRIX.search(name.lower()):
        return False
    if not is_weight_name(name.rpartition(".")[2]):
        return False
    if len(shape) == 3:
        # A convolution's third dimension is its kernel, and a depthwise one has a second of 1.
        return "conv" not in name.lower() and min(shape[1:]) > 1
    return len(shape) == 2 and math.prod(shape) > 0
