"""What writes the answers of an evaluation: one table; a backend is imported when it is chosen."""

import importlib.util
from dataclasses import dataclass
from typing import Literal

from merge.common.errors import UserError

BackendName = Literal["hf", "vllm"]


@dataclass(frozen=True)
class Backend:
    """One way to get answers.

    Attributes:
        module: holds ``answer(asking, prompt_sets, on_batch, on_ready)``, as
            ``eval.answering.hf_backend`` has it.
        package: what must be installed beside this project's requirements; ``None`` for nothing.
        decodes: whether it can decode otherwise than greedily.
        chooses: whether it also answers choices; else ``hf`` does.
        runs_tasks: whether it also answers lm-eval's tasks; else ``hf`` does.
    """

    module: str
    package: str | None = None
    decodes: bool = False
    chooses: bool = False
    runs_tasks: bool = False


BACKENDS: dict[BackendName, Backend] = {
    "hf": Backend("eval.answering.hf_backend", decodes=True, chooses=True, runs_tasks=True),
    "vllm": Backend("eval.answering.vllm_backend", package="vllm", chooses=True),
}


def check_backend(name: BackendName, is_decoded: bool) -> None:
    """See that a backend can do what is asked of it.

    Args:
        is_decoded: whether answers are decoded otherwise than greedily.

    Raises:
        UserError: its package is not installed, or it only decodes greedily.
    """
    backend = BACKENDS[name]
    if backend.package is not None and importlib.util.find_spec(backend.package) is None:
        raise UserError(
            f"backend {name}: {backend.package} is not installed; pip install {backend.package}, "
            "or choose backend hf"
        )
    if is_decoded and not backend.decodes:
        raise UserError(f"backend {name}: only decodes greedily; choose backend hf for a decoding")
