"""How much of a tensor is in hand at a time, and in how many threads."""

from dataclasses import dataclass

from merge.engine.inputs import MergeInputs
from merge.engine.resources import MergeResources
from merge.io.patch_directory import Role
from merge.kernels.merging import BLOCK
from merge.methods import Method
from merge.settings import MergeSettings, method_of

CACHED_VALUES = 1 << 19
"""What is in hand of a few threads stays in the third cache from one loop to the next; in slices of
half the size, Python's part of the work took 0.2 of 3.7 CPU seconds more (issue 18)."""
_BESIDES_BYTES = 4 << 20
"""What a thread has in hand besides its slices: counts of digits, a block to copy or check."""

_KEPT_BYTES = 32 << 20
"""Bytes at most that were read to be ranked and are not read again to be merged."""


@dataclass(frozen=True)
class Share:
    """What a merge takes of the machine."""

    threads: int
    slice_values: int
    """In hand at a time, in each thread."""
    bytes: int
    """Bytes of tensor data, over all threads."""
    kept_bytes: int
    """Those of them in slices that were ranked and wait to be merged."""


def share_memory(inputs: MergeInputs, settings: MergeSettings, resources: MergeResources) -> Share:
    """How many threads merge, and how many values each has in hand, within the memory limit.

    Fewer threads than asked for where not even their smallest slices would fit, but never none.
    """
    method = method_of(settings)
    wide = {role: wide_keys(inputs, role, method) for role in inputs.patches}
    most = 1
    for name in inputs.covered:
        size = max(inputs.backbone[name].size, 1)
        # Bits before and after, and a label an entry.
        used = 2 * inputs.backbone[name].bytes + size
        for role, patch in inputs.patches.items():
            used += patch.delta[name].bytes
            used += patch.importance[name].bytes if method.by_importance else 0
            used += 4 * size if method.masked and wide[role] else 0
        most = max(most, -(-used // size))
    smallest = BLOCK * most + _BESIDES_BYTES
    threads = min(resources.threads, max(resources.memory_limit // smallest, 1))
    values = (resources.memory_limit // threads - _BESIDES_BYTES) // most
    blocks = max(min(values, CACHED_VALUES) // BLOCK, 1)
    held = blocks * BLOCK
    used = threads * (held * most + _BESIDES_BYTES)
    kept = min(max(resources.memory_limit - used, 0), _KEPT_BYTES) if method.masked else 0
    return Share(threads, held, used + kept, kept)


def wide_keys(inputs: MergeInputs, role: Role, method: Method) -> bool:
    """Whether a patch's keys are 32 bits: all but what is stored as bf16 and ranked as it is."""
    patch = inputs.patches[role]
    ranked = patch.delta if method.by_magnitude else patch.importance
    computed = patch.holds_gradients and not method.by_magnitude
    return computed or any(ranked[name].dtype != "BF16" for name in inputs.covered)
