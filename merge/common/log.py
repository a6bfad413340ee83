"""What a command says on its way: one line a message, at its full width, and no bar in a file."""

import logging
import os
import sys

_BARS = ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
"""What keeps tqdm, and the hub's, datasets' and transformers' own forms of it, silent."""


def start_logging(level: int = logging.INFO) -> None:
    """Let this process log to stderr, each line after the time of day.

    Where stderr is no terminal, the bars of libraries are turned off, here and in processes that
    this one starts. It must be called before these libraries are imported.
    """
    if not sys.stderr.isatty():
        for variable in _BARS:
            os.environ.setdefault(variable, "1")
    handler = _BesideBars()
    logging.basicConfig(
        level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[handler]
    )
    # It also writes its warnings itself.
    logging.getLogger("huggingface_hub").propagate = False
    # The hub's clients tell the address of every request, and some are signed.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    # Its first use on a machine is none of the user's business.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.WARNING)


class _BesideBars(logging.StreamHandler):
    """Writes above the bars that a terminal shows at the moment, not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # only now: it reads the variables above when it is imported

        with tqdm.external_write_mode(self.stream):
            super().emit(record)
