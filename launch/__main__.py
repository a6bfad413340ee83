"""`python -m launch COMMAND`: the pipeline from a recipe, on this machine or on a cluster."""

import logging
import os
import sys

# Threads that spin while they wait take the cores from whatever else the machine does; on a busy
# machine that made a training step ten times slower. It must be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from rich.console import Console
from rich.logging import RichHandler

from launch.command_line import parse
from merge.errors import run_command

if __name__ == "__main__":
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        datefmt="%H:%M:%S",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, show_level=False)],
    )
    # They tell the address of every request, and some of the hub's are signed.
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    parsed = parse(sys.argv[1:])
    sys.exit(run_command(lambda: parsed.command(parsed)))
