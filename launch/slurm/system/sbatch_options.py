"""Which other options of sbatch a recipe may give, and which contradict what it says elsewhere."""

import difflib
from collections.abc import Collection, Mapping, Sequence

from launch.slurm.system import client as slurm
from merge.common.errors import UserError

_OWN = (
    "array chdir clusters container container-id dependency error export-file get-user-env gid "
    "help input job-name kill-on-invalid-dep no-requeue ntasks ntasks-per-core ntasks-per-gpu "
    "ntasks-per-socket open-mode output parsable requeue signal test-only tres-per-task uid usage "
    "version wait wrap"
)
"""What the jobs set themselves, or what would change what they run."""
_KEYS = {
    "account": "account",
    "comment": "comment",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_process, or cpus of merge or evaluation",
    "gpus": "gpus_per_node, gres, or gpus of evaluation",
    "gpus-per-node": "gpus_per_node, or gpus of evaluation",
    "gpus-per-socket": "gpus_per_node",
    "gpus-per-task": "gpus_per_node",
    "gres": "gres",
    "mail-type": "mail_type",
    "mail-user": "mail_user",
    "mem": "memory",
    "nodes": "nodes",
    "ntasks-per-node": "processes_per_node",
    "partition": "partition",
    "qos": "qos",
    "time": "time",
}
"""What has a key in the recipe's cluster part."""
_FREE = (
    "acctg-freq batch bb bbf begin cluster-constraint contiguous core-spec cores-per-socket "
    "cpu-freq cpus-per-gpu deadline delay-boot distribution exclude exclusive export "
    "extra extra-node-info gpu-bind gpu-freq gres-flags hint hold ignore-pbs licenses mcs-label "
    "mem-bind mem-per-cpu mem-per-gpu mincpus network nice no-kill nodefile nodelist "
    "oom-kill-step overcommit oversubscribe power prefer priority profile propagate quiet reboot "
    "reservation resv-ports segment sockets-per-node spread-job stepmgr switches thread-spec "
    "threads-per-core time-min tmp tres-bind use-min-nodes verbose wait-all-nodes wckey"
)
"""Those of SLURM 22 to 25; a site's plugins may add more."""
_OWN_OPTIONS, _FREE_OPTIONS = frozenset(_OWN.split()), frozenset(_FREE.split())
_OPPOSED = (
    ("mem-per-cpu", "memory"),
    ("mem-per-gpu", "memory"),
    ("cpus-per-gpu", "cpus"),
    ("mem-per-cpu", "mem-per-gpu"),
    ("exclusive", "oversubscribe"),
    ("core-spec", "thread-spec"),
    ("nodelist", "nodefile"),
)


def check_options(lines: Sequence[str], given: Collection[str]) -> None:
    """See that options can stand beside what the scripts set, and beside one another.

    Args:
        lines: as ``--exclusive`` or ``--reservation=NAME``.
        given: of ``memory`` and ``cpus`` those that the recipe names for the same job.

    Raises:
        ValueError: naming the option and the fix.
    """
    seen: dict[str, str] = {}
    for line in lines:
        option, _, value = line.removeprefix("--").partition("=")
        if option in _KEYS:
            raise ValueError(f"'--{option}': has a key of its own; set {_KEYS[option]}")
        # sbatch takes any beginning that is unique.
        abbreviates = any(own.startswith(option) for own in (*_OWN_OPTIONS, *_KEYS))
        if option in _OWN_OPTIONS or (option not in _FREE_OPTIONS and abbreviates):
            raise ValueError(f"'--{option}' is set by the jobs themselves; leave it out")
        if option == "export" and value not in ("ALL", "NONE"):
            raise ValueError(f"'{line}': give --export=ALL or NONE, and variables under 'env'")
        if option in seen:
            raise ValueError(f"'{seen[option]}' and '{line}' are one option; keep one")
        seen[option] = line
    for one, other in _OPPOSED:
        if one in seen and (other in seen or other in given):
            name = seen.get(other, other)
            raise ValueError(f"'{seen[one]}' and '{name}' exclude each other; keep one")


def refuse_unknown(sections: Mapping[str, Sequence[str]]) -> None:
    """See that SLURM, or a plugin of this site's, knows every option.

    Args:
        sections: options by the key of the recipe that they stand under.

    Raises:
        UserError: naming the first that is unknown.
    """
    for key, lines in sections.items():
        for line in lines:
            option = line.removeprefix("--").partition("=")[0]
            if option in _FREE_OPTIONS or option in slurm.sbatch_options():
                continue
            close = difflib.get_close_matches(option, _FREE_OPTIONS, n=1)
            fix = f"did you mean '--{close[0]}'?" if close else "see sbatch --help"
            raise UserError(f"recipe, {key}: sbatch has no option '--{option}'; {fix}")
