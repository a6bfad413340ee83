"""The compiled loops that round merged fp32 values to the model's dtype.

To nearest, ties to even, a patch whose entries are below half a step of the dtype is lost entirely.
Stochastic rounding goes to the neighbour away from zero if the entry's draw u (see
``merge.engine.draws``) is below the value's part of the step between its neighbours, else to the
one toward zero. Each entry then has the right value on average, and sums over many entries keep
what the patch says. Gupta et al., "Deep learning with limited numerical precision",
arXiv 1502.02551.
"""

from typing import Any

import numpy as np

from merge.kernels.compiled import compiled
from merge.kernels.conversion import BF16, F16, F32, from_float
from merge.kernels.philox import four_draws


@compiled
def narrow(values: Any, code: int, flags: Any, theta: Any, out: Any) -> None:
    """Round a chunk's taken entries to nearest in ``out``, and keep all others.

    Args:
        values: fp32.
        code: of the dtype, BF16 to F32.
        flags: uint8, not 0 where an entry is taken.
        theta: bit patterns of the backbone.
        out: bit patterns.
    """
    if code == BF16:
        for j in range(flags.size):
            out[j] = from_float(values[j], BF16) if flags[j] else np.uint32(theta[j])
    elif code == F16:
        for j in range(flags.size):
            out[j] = from_float(values[j], F16) if flags[j] else np.uint32(theta[j])
    else:
        for j in range(flags.size):
            out[j] = from_float(values[j], F32) if flags[j] else np.uint32(theta[j])


@compiled
def narrow_by_draws(values: Any, code: int, flags: Any, theta: Any, draws: Any, out: Any) -> None:
    """Round a chunk's taken entries stochastically in ``out``, and keep all others.

    Args:
        values, flags, theta, out: as in ``narrow``.
        code: BF16 or F16.
        draws: uint32, see ``fill_draws``.
    """
    if code == BF16:
        for j in range(flags.size):
            bits = np.float32(values[j]).view(np.uint32)
            # The sum carries iff the draw's upper half is below the half that is cut.
            added = np.uint32(0xFFFF) - np.uint32(draws[j] >> np.uint32(16))
            rounded = np.uint32(np.uint32(bits + added) >> np.uint32(16))
            out[j] = rounded if flags[j] else np.uint32(theta[j])
    else:
        for j in range(flags.size):
            out[j] = _fp16_by_draw(values[j], draws[j]) if flags[j] else np.uint32(theta[j])


@compiled
def _fp16_by_draw(value: Any, draw: Any) -> Any:
    bits = np.float32(value).view(np.uint32)
    sign = np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000)
    bits = np.uint32(bits & np.uint32(0x7FFFFFFF))
    if bits >= np.uint32(0x47800000):
        return np.uint32(sign | np.uint32(0x7C00))
    if bits < np.uint32(0x38800000):
        # Subnormal: the steps are 2**-24 wide, and the product is exact.
        steps = np.float64(bits.view(np.float32)) * 2.0**24
        down = np.uint32(steps)
        up = np.float64(draw) < (steps - np.float64(down)) * 2.0**32
        return np.uint32(sign | np.uint32(down + np.uint32(up)))
    added = np.uint32(0x1FFF) - np.uint32(draw >> np.uint32(19))
    rounded = np.uint32(np.uint32(bits + np.uint32(0xC8000000)) + added)
    return np.uint32(sign | np.uint32(rounded >> np.uint32(13)))


@compiled
def fill_draws(first: int, stream: Any, draws: Any) -> None:
    """The draws of a chunk's entries.

    Args:
        first: flat index of the chunk's first entry, a multiple of 4.
        stream: uint32 of 2, the key.
        draws: uint32, out, a multiple of 4 in size.
    """
    for j in range(draws.size // 4):
        d0, d1, d2, d3 = four_draws(np.uint64(first // 4 + j), stream)
        draws[4 * j] = np.uint32(d0)
        draws[4 * j + 1] = np.uint32(d1)
        draws[4 * j + 2] = np.uint32(d2)
        draws[4 * j + 3] = np.uint32(d3)
