"""When a training must end: ascent has no minimum, and clipping does not hold Adam back."""

import math
from collections import deque
from collections.abc import Iterable

from train.settings import GuardSettings


class Guards:
    """Watches one training; every rank sees the same numbers, so all decide alike.

    Args:
        vocabulary_size: the loss of a uniform guess is its logarithm.
        losses: the last mean losses, where a training is resumed.
        retained_loss: of the backbone on the retained samples, nats a token; ``None`` without any.
    """

    def __init__(
        self,
        settings: GuardSettings,
        vocabulary_size: int,
        losses: Iterable[float] = (),
        retained_loss: float | None = None,
    ) -> None:
        rise = settings.max_retained_rise
        self.retained_limit = (
            None if rise is None or retained_loss is None else rise + retained_loss
        )
        """Nats a token."""
        self.loss_limit = settings.max_forget_loss or settings.max_forget_fraction * math.log(
            vocabulary_size
        )
        """Nats a token."""
        self._max_patch_norm = settings.max_patch_norm
        self._losses = deque(losses, maxlen=settings.window)

    @property
    def losses(self) -> list[float]:
        """The losses in the window, oldest first: what a checkpoint must keep."""
        return list(self._losses)

    def reason_to_stop(
        self, loss: float, patch_norm: float | None = None, retained_loss: float | None = None
    ) -> str | None:
        """Why the training ends before the step whose loss and patch these are, or ``None``.

        Args:
            loss: mean answer loss of the batch, nats a token, before the step.
            patch_norm: Euclidean norm of the patch before the step; ``None`` where not measured.
            retained_loss: of the retained samples, nats a token; ``None`` where not measured.
        """
        self._losses.append(loss)
        mean = sum(self._losses) / len(self._losses)
        window_is_full = len(self._losses) == self._losses.maxlen
        if window_is_full and mean > self.loss_limit:
            return f"forget loss {mean:.4f} passed {self.loss_limit:.4f}"
        if patch_norm is not None and self._max_patch_norm and patch_norm > self._max_patch_norm:
            return f"patch norm {patch_norm:.4f} passed {self._max_patch_norm:.4f}"
        if (
            retained_loss is not None
            and self.retained_limit
            and retained_loss > self.retained_limit
        ):
            return f"retained loss {retained_loss:.4f} passed {self.retained_limit:.4f}"
        return None


def not_finite(**values: float) -> str | None:
    """Which of ``values`` is NaN or infinite, so that no later step could fix it, or ``None``."""
    for name, value in values.items():
        if not math.isfinite(value):
            return f"{name.replace('_', ' ')} is {value}"
    return None
