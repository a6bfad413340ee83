"""What a person sees of a training: TensorBoard curves, JSON lines, a progress bar or log lines."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import torch

from merge.common.errors import UserError
from merge.common.metrics import record
from merge.common.progress import Progress
from train.backbone.flops import ModelShape, peak_flops

_MIB = 1024 * 1024
_WORDS = {
    "loss/objective(nats)": "loss {:.4f}",
    "loss/forget(nats)": "forget loss {:.4f}",
    "optimizer/learning_rate(1)": "learning rate {:.3g}",
    "optimizer/gradient_norm(1)": "gradient norm {:.3g}",
    "speed/tokens(1/s)": "{:.0f} tokens/s",
}
"""What a line of the log says of a step, by tag."""
_FIRST_SCREEN = {
    "loss/objective(nats)": "1_training/1_loss(nats)",
    "loss/forget(nats)": "1_training/2_forget_loss(nats)",
    "margin/refusal(nats)": "1_training/3_refusal_margin(nats)",
    "optimizer/gradient_norm(1)": "1_training/4_gradient_norm(1)",
    "speed/tokens(1/s)": "1_training/5_tokens(1/s)",
}
"""Where TensorBoard shows the curves that tell most once more. It opens on the first group of all
runs by name, digits before letters, which else is the merge's norms."""


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
        self._progress = None
        self._last_step = time.monotonic()
        if directory is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        self._directory = directory
        with self._writing():
            self._writer = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._progress = Progress(title, total, "steps", first_step)

    def __enter__(self) -> "Monitor":
        if self._progress is not None:
            self._progress.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.__exit__(kind, error, traceback)
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
        """Record values of what stood in a step's stead."""
        self._write_events(step, scalars)
        if self._writer is not None:
            record({"step": step, **scalars})

    def step(self, step: int, tokens: int, samples: int, scalars: dict[str, float]) -> None:
        """Record one optimizer step.

        Args:
            step: counted from 1.
            tokens: that all ranks together ran in it, padding left out.
            samples: of these tokens.
            scalars: by TensorBoard tag, ``group/name(unit)``.
        """
        if self._progress is None:
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
        self._write_events(step, scalars)
        self._progress.advance()
        words = [form.format(scalars[tag]) for tag, form in _WORDS.items() if tag in scalars]
        self._progress.note(", ".join(words), {"step": step, **scalars})

    def _write_events(self, step: int, scalars: dict[str, float]) -> None:
        if self._writer is None:
            return
        with self._writing():
            for tag, value in scalars.items():
                self._writer.add_scalar(tag, value, step)
                if tag in _FIRST_SCREEN:
                    self._writer.add_scalar(_FIRST_SCREEN[tag], value, step)
