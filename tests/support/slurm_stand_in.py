"""Commands of SLURM that only write down what they are given, for tests of submissions."""

import json
import os
from pathlib import Path
from unittest import mock

from launch.slurm.chain import Chain
from launch.slurm.submit import cancel, plan_chain, submit

_SBATCH = """\
#!/bin/bash
cd "$(dirname "$0")/.."
number=$(($(cat number 2> /dev/null || echo 500) + 1))
echo "$number" > number
env -0 > "environment-$number"
printf '%s\\n' "$*" >> submitted
{work}
"""
_PRINT_ID = 'echo "$number"'


class SlurmStandIn:
    """A folder for PATH with sbatch, squeue and scancel.

    Args:
        sbatch: shell lines in which ``$number`` is the new job's id; by default they print it.
        squeue: what squeue prints.
    """

    def __init__(self, folder: Path, sbatch: str = _PRINT_ID, squeue: str = "") -> None:
        self.folder = folder
        self._tools = folder / "tools"
        self._tools.mkdir(parents=True)
        self.tool("sbatch", _SBATCH.format(work=sbatch))
        self.tool("squeue", f"#!/bin/bash\nprintf '{squeue}'\n")
        self.tool("scancel", '#!/bin/bash\necho "$@" >> "$(dirname "$0")/../cancelled"\n')

    def tool(self, name: str, text: str) -> None:
        """Put another command there."""
        (self._tools / name).write_text(text)
        (self._tools / name).chmod(0o755)

    def variables(self, **changes: str) -> dict[str, str]:
        """The environment in which its commands come first."""
        return {**os.environ, "PATH": f"{self._tools}:{os.environ['PATH']}", **changes}

    def submit(self, run: Path, cluster: str = "{}", **changes: str) -> dict[str, str]:
        """Submit the demo's recipe with ``run`` as its run folder, with changed variables."""
        recipe = Path("launch/recipes/demo.yaml")
        with mock.patch.dict(os.environ, self.variables(**changes), clear=True):
            return submit(plan_chain(recipe, [f"output={run}", f"cluster={cluster}"]))

    def queue(self, chain: Chain) -> dict[str, str]:
        """Submit a chain; returns the id of each of its jobs by name."""
        with mock.patch.dict(os.environ, self.variables(), clear=True):
            return submit(chain)

    def cancel(self, run: Path) -> list[str]:
        """Cancel a run's jobs."""
        with mock.patch.dict(os.environ, self.variables(), clear=True):
            return cancel(run)

    def seen(self, number: int) -> dict[str, str]:
        """The variables that sbatch saw when it queued a job."""
        text = (self.folder / f"environment-{number}").read_text()
        return dict(line.split("=", 1) for line in text.split("\0") if line)

    def lines(self, name: str) -> list[str]:
        """The arguments of every call, ``submitted`` or ``cancelled``."""
        file = self.folder / name
        return file.read_text().splitlines() if file.exists() else []


def recorded(run: Path) -> dict[str, str]:
    """The run's jobs.json."""
    file = run / "jobs" / "jobs.json"
    return json.loads(file.read_text()) if file.exists() else {}
