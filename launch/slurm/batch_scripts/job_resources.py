"""What a job asks sbatch for, and its step srun: the options of both, from the cluster part."""

from launch.slurm.system.settings import ClusterSettings, StageResources


def common_directives(settings: ClusterSettings) -> list[str]:
    """Options of sbatch for every job."""
    comment = f'"{settings.comment}"' if settings.comment else None
    return _options(
        {
            "account": settings.account,
            "comment": comment,
            "mail-user": settings.mail_user,
            "mail-type": ",".join(settings.mail_type) or None,
        }
    )


def training_directives(settings: ClusterSettings) -> list[str]:
    """Options of sbatch for a training."""
    # Every rank sees all GPUs of its node and takes that of its local number.
    gpus = settings.gpu_request(settings.gpus_per_node) if settings.gpus_per_node else {}
    wanted = {
        "partition": settings.partition,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "time": settings.time,
        "nodes": settings.nodes,
        "ntasks-per-node": settings.processes,
        **gpus,
        "cpus-per-task": settings.cpus_per_process,
        "mem": settings.memory,
    }
    if settings.gres:
        wanted["gres"] = settings.gres
    return _options(wanted)


def single_directives(own: StageResources, settings: ClusterSettings) -> list[str]:
    """Options of sbatch for a stage of one process."""
    wanted = {
        "partition": own.partition or settings.partition,
        "qos": own.qos or settings.qos,
        "constraint": own.constraint or (None if own.partition else settings.constraint),
        "time": own.time or settings.time,
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": own.cpus,
        "mem": own.memory,
    }
    gpus = settings.gpu_request(own.gpus) if own.gpus else {}
    # Beside other resources in one option: sbatch takes the last.
    gres = ",".join(filter(None, (gpus.pop("gres", None), own.gres))) or None
    return _options({**wanted, **gpus, "gres": gres})


def training_step(settings: ClusterSettings) -> list[str]:
    """Options of srun for the ranks of a training."""
    step = _step(settings.nodes, settings.processes, settings.cpus_per_process)
    return ["--kill-on-bad-exit=1", "--wait=0", *step]


def single_step(own: StageResources) -> list[str]:
    """Options of srun for a stage of one process."""
    return _step(1, 1, own.cpus)


def _step(nodes: int, tasks_a_node: int, cpus: int | None) -> list[str]:
    """All of the job; a variable would win over what the job's own options say."""
    return _options(
        {
            "nodes": nodes,
            "ntasks": nodes * tasks_a_node,
            "ntasks-per-node": tasks_a_node,
            # srun does not take this from the job.
            "cpus-per-task": cpus,
        }
    )


def _options(values: dict[str, str | int | None]) -> list[str]:
    return [f"--{option}={value}" for option, value in values.items() if value is not None]
