"""The usual GPUs of each size of memory, for plans: what they can do, from their data sheets."""

from dataclasses import dataclass

ASSUMED_MFU = 0.4
"""Share of the peak that dense passes reach."""
ASSUMED_BANDWIDTH = 0.5
"""Share of the memory's bandwidth that token after token reaches."""


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU."""

    gigabytes: int
    peak: float
    """Dense bf16 operations a second."""
    bandwidth: float
    """Bytes a second of its memory."""

    @property
    def flops(self) -> float:
        """Operations a second that plans count with."""
        return self.peak * ASSUMED_MFU


GPUS = (
    Gpu(24, 125e12, 600e9),  # A10
    Gpu(40, 312e12, 1555e9),  # A100
    Gpu(48, 362e12, 864e9),  # L40S
    Gpu(80, 989e12, 3350e9),  # H100
    Gpu(141, 989e12, 4800e9),  # H200
)
GPU_GIGABYTES = tuple(gpu.gigabytes for gpu in GPUS)
