"""`python -m launch COMMAND`: the pipeline from a recipe, on this machine or on a cluster."""

import os
import sys

# Threads that spin while they wait take the cores from whatever else the machine does; on a busy
# machine that made a training step ten times slower. It must be set before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from launch.cli import parse
from merge.common.errors import STOPPED_EXIT_STATUS, end_process, run_command
from merge.common.log import start_logging

if __name__ == "__main__":
    start_logging()
    parsed = parse(sys.argv[1:])
    status = run_command(lambda: parsed.command(parsed))
    if status == STOPPED_EXIT_STATUS:
        end_process(status)
    sys.exit(status)
