"""What a person sees of a training: TensorBoard curves, a progress bar, log lines."""

import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import torch
from tqdm import tqdm

from merge.errors import UserError
from train.flops import ModelShape, peak_flops

_LOG_SECONDS = 10.0
_MIB = 1024 * 1024

logger = logging.getLogger(__name__)


def peak_memory_mib() -> tuple[float, float]:
    """This process's peak memory so far: ``(host, GPU)`` in MiB; GPU is 0 without one."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    host_mib = host / (_MIB if sys.platform == "darwin" else 1024)
    gpu_mib = torch.cuda.max_memory_allocated() / _MIB if torch.cuda.is_available() else 0.0
    return host_mib, gpu_mib


class Monitor:
    """Records one training; on every rank but the main one it does nothing.

    Args:
        directory: of the TensorBoard events; ``None`` makes the monitor silent.
        first_step: where a resumed training continues; later events of the run before are hidden.
        shape: of the model, for MFU.
        processes: of the training; each has a GPU, where there are any.
    """

    def __init__(
        self,
        directory: Path | None,
        title: str,
        total: int,
        first_step: int,
        shape: ModelShape,
        processes: int,
    ) -> None:
        self._shape = shape
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        peak = peak_flops(device)
        self._peak_flops = None if peak is None else peak * processes
        self._writer = None
        self._bar = None
        self._last_log = self._last_step = time.monotonic()
        if directory is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        with self._writing():
            self._writer = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._bar = tqdm(
            total=total, initial=first_step, desc=title, unit="step", disable=None, leave=True
        )

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._writer is not None:
            # An error that is under way counts: closing fails after it where the disk is full.
            with self._writing() if error is None else suppress(OSError):
                self._writer.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Name the folder where TensorBoard, whose thread writes later, says that it could not."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._directory}: TensorBoard cannot write ({error.strerror}); check "
                "permission and free space, and run again"
            ) from None

    def text(self, tag: str, text: str) -> None:
        """Show a text in TensorBoard."""
        if self._writer is not None:
            with self._writing():
                self._writer.add_text(tag, text)

    def scalars(self, step: int, scalars: dict[str, float]) -> None:
        """Record values that belong to a step, or to what stood in its stead."""
        if self._writer is not None:
            with self._writing():
                for tag, value in scalars.items():
                    self._writer.add_scalar(tag, value, step)

    def step(self, step: int, tokens: int, samples: int, scalars: dict[str, float]) -> None:
        """Record one optimizer step.

        Args:
            step: counted from 1.
            tokens: that all ranks together ran in it, padding left out.
            samples: of these tokens.
            scalars: by TensorBoard tag, ``group/name(unit)``.
        """
        if self._writer is None or self._bar is None:
            return
        now = time.monotonic()
        seconds, self._last_step = now - self._last_step, now
        scalars = {
            **scalars,
            "speed/tokens(1/s)": tokens / seconds,
            "speed/step(s)": seconds,
        }
        if self._peak_flops is not None:
            flops = tokens * self._shape.training_flops(tokens / samples)
            scalars["speed/mfu(1)"] = flops / seconds / self._peak_flops
        self.scalars(step, scalars)
        self._bar.update()
        loss = scalars["loss/forget(nats)"]
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        if now - self._last_log > _LOG_SECONDS and self._bar.disable:
            self._last_log = now
            logger.info("step %d of %d, forget loss %.4f", step, self._bar.total, loss)
