"""The variables in which SLURM's commands run: without what a session or a site left in them.

SLURM takes an option from the command line, then from a variable, and only then from the script
(issue 15): ``SBATCH_EXPORT=NONE``, the default of many sites, or what ``salloc`` and ``srun --pty``
set in an interactive session, would win over what the recipe asks for.
"""

import os
import re
from collections.abc import Iterable, Mapping

_PREFIXES = (
    *("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SALLOC_"),
    *("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "PMI_", "PMIX_"),
)
_NAMES = ("PYTHONPATH", "PYTHONHOME", "CUDA_VISIBLE_DEVICES")
"""Variables of a module system, and of the GPUs that an interactive session was given."""
_KEPT = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS", "SBATCH_CLUSTERS")
"""Which SLURM answers, and to whom."""
_DEFAULTS = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
}
"""Who pays, and where: a site's or a user's default, where the script does not say."""


def slurm_environment(
    variables: Mapping[str, str] | None = None, script: str | None = None
) -> dict[str, str]:
    """What a command of SLURM gets to see.

    Args:
        variables: default: those of this process.
        script: the batch script to submit, whose own options win over a default of the site.
    """
    variables = os.environ if variables is None else variables
    kept = {*_KEPT, *(_defaults_of(script) if script is not None else ())}
    return {
        name: value
        for name, value in variables.items()
        if name in kept or not (name.startswith(_PREFIXES) or name in _NAMES)
    }


def _defaults_of(script: str) -> Iterable[str]:
    named = set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    return (name for name, option in _DEFAULTS.items() if option not in named)
