"""The recipe's cluster part: what the jobs ask SLURM for."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from launch.slurm.system.sbatch_options import check_options
from launch.slurm.system.setting_values import (
    Comment,
    Constraint,
    Duration,
    ExtraLine,
    Gres,
    Image,
    Interface,
    MailAddress,
    MailEvent,
    Memory,
    Module,
    Name,
    PlainPath,
    SetupLine,
    VariableName,
    VariableValue,
    gpu_count,
    gpu_kind,
)
from merge.common.settings import Settings

INTERFACE_VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


class StageResources(Settings):
    """What a job on one node asks for; what is not given is as in the trainings, but for ``extra``,
    memory, CPUs and GPUs."""

    partition: Name | None = None
    """Partition of the job."""
    qos: Name | None = None
    """Quality of service of the job."""
    constraint: Constraint | None = None
    """Features that its node must have, as ``a100&ib``."""
    time: Duration | None = None
    """Time limit of the job, as HH:MM:SS in quotes."""
    cpus: PositiveInt | None = None
    """CPUs of the job."""
    gpus: NonNegativeInt = 0
    """GPUs of the job."""
    gres: Gres | None = None
    """Generic resources in place of ``gpus``, or resources other than GPUs."""
    memory: Memory | None = None
    """Memory of the job, as 16G."""
    extra: tuple[ExtraLine, ...] = ()
    """More sbatch options of the job, as --exclusive."""

    @property
    def gpu_total(self) -> int:
        """GPUs that it asks for, in either way."""
        return self.gpus or gpu_count(self.gres)

    @model_validator(mode="after")
    def _agrees(self) -> "StageResources":
        if self.gpus and gpu_count(self.gres):
            raise ValueError("gpus and gres both ask for GPUs; keep one")
        check_options(self.extra, [key for key in ("memory", "cpus") if getattr(self, key)])
        return self


class ContainerSettings(Settings):
    """An image in which the jobs' commands run; it holds Python and what requirements.txt names."""

    image: Image
    """Path of an image file, or address of an image."""
    runtime: Annotated[str, Field(pattern=r"^(apptainer|singularity|pyxis)$")] = "apptainer"
    """Container runtime; pyxis is SLURM's plugin for enroot (srun --container-image)."""
    mounts: tuple[PlainPath, ...] = ()
    """Folders to mount besides the project and the recipe's inputs, as PATH or HOST:CONTAINER."""

    @model_validator(mode="after")
    def _agrees(self) -> "ContainerSettings":
        if "#" in self.image and self.runtime != "pyxis":
            raise ValueError(
                f"image '{self.image}': # is enroot's; set runtime to pyxis, or leave it out"
            )
        return self


class ClusterSettings(Settings):
    """Where and how the jobs run."""

    partition: Name | None = None
    """Partition of the trainings."""
    account: Name | None = None
    """Account that all jobs are charged to."""
    qos: Name | None = None
    """Quality of service of the trainings."""
    constraint: Constraint | None = None
    """Features that the trainings' nodes must have, as ``a100&ib``."""
    time: Duration | None = None
    """Time limit of a training; another job continues it when the time is over."""
    nodes: PositiveInt = 1
    """Nodes of each of the two trainings, which run side by side."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs of a training on each node."""
    gpu_type: Name | None = None
    """Kind of GPU, as a100."""
    gres: Gres | None = None
    """Generic resources of a node, as gpu:a100:8, where a site wants this in place of
    ``gpus_per_node``, or for resources other than GPUs. The other jobs then request their GPUs the
    same way."""
    processes_per_node: PositiveInt | None = None
    """Processes of a training on a node. Default: one for each GPU, or one where there is none."""
    cpus_per_process: PositiveInt | None = None
    """CPUs of each process of a training."""
    memory: Memory | None = None
    """Memory of a node, as 480G."""
    modules: tuple[Module, ...] = ()
    """Environment modules that ``module load`` loads, in this order."""
    setup: tuple[SetupLine, ...] = ()
    """Commands before the job's own, after the modules, as ``conda activate NAME``; each of plain
    words, without a shell's signs: more goes into a file, for ``source FILE``."""
    env: dict[VariableName, VariableValue] = Field(default_factory=dict)
    """Variables of all jobs, as HF_HOME or NCCL_IB_HCA."""
    container: ContainerSettings | None = None
    """The container image in which the jobs run; None runs them without a container."""
    python: PlainPath | None = None
    """Python that runs the jobs. Default: the one that submits, or ``python3`` in a container."""
    extra: tuple[ExtraLine, ...] = ()
    """More sbatch options of a training, as --exclusive; merge and evaluation have their own."""
    comment: Comment | None = None
    """Comment on all jobs, as some sites ask for."""
    mail_user: MailAddress | None = None
    """User or address that receives SLURM's mail; by default the user who submits."""
    mail_type: tuple[MailEvent, ...] = ()
    """Events on which SLURM sends mail, for every job: as [END, FAIL]."""
    interface: Interface | None = None
    """Network between the nodes, for NCCL and gloo, as ib0."""
    warning_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """Seconds before its time limit at which a job receives the signal to save its state."""
    requeue_limit: NonNegativeInt = 50
    """Number of times that a stopped job is requeued automatically."""
    retry_limit: NonNegativeInt = 3
    """Number of times that a job starts again after a failure that the recipe did not cause, such
    as a lost node."""
    merge: StageResources = StageResources()
    """Resources of the merge: by default no GPU; tensors take 128 MiB of memory."""
    evaluation: StageResources | None = None
    """Resources of the demo's world, the search and the evaluation. Default: one of the trainings'
    GPUs, if they have any."""
    search_array: bool = False
    """Whether the workers of a search (``search.workers``) are jobs of an array, on as many nodes
    as are free, each with the resources of ``evaluation``; else they are processes of one job."""

    @model_validator(mode="after")
    def _agrees(self) -> "ClusterSettings":
        if gpu_count(self.gres):
            if self.gpus_per_node:
                raise ValueError("gpus_per_node and gres both ask for GPUs; keep one")
            if self.gpu_type is not None:
                raise ValueError("gpu_type: name it in gres, as gpu:a100:8")
        elif self.gpu_type is not None and self.gpus_per_node == 0:
            raise ValueError("gpu_type needs gpus_per_node: say how many")
        if self.mail_user is not None and not self.mail_type:
            raise ValueError("mail_user needs mail_type: say when, as [END, FAIL]")
        for name in INTERFACE_VARIABLES:
            if self.interface is not None and name in self.env:
                raise ValueError(f"interface and env.{name} say the same; keep one")
        given = {"memory": self.memory, "cpus": self.cpus_per_process}
        check_options(self.extra, [key for key, value in given.items() if value])
        return self

    @property
    def node_gpus(self) -> int:
        """GPUs of a node of a training, asked for in either way."""
        return self.gpus_per_node or gpu_count(self.gres)

    @property
    def processes(self) -> int:
        """Processes of a training on one node."""
        return self.processes_per_node or self.node_gpus or 1

    def gpu_request(self, count: int) -> dict[str, str]:
        """The option of sbatch, and its value, that asks for GPUs in the trainings' way."""
        by_gres = gpu_count(self.gres) > 0
        kind = gpu_kind(self.gres) if by_gres else self.gpu_type
        value = ":".join([*([kind] if kind else []), str(count)])
        return {"gres": f"gpu:{value}"} if by_gres else {"gpus-per-node": value}

    def variables(self) -> dict[str, str]:
        """What a job that is submitted here gets to see, but for SLURM's own."""
        return {**os.environ, **self.env}

    def interpreter(self, own: Path) -> str:
        """The Python of the jobs, where ``own`` is that of this process."""
        return self.python or ("python3" if self.container else str(own))

    def evaluation_resources(self) -> StageResources:
        """Resources of the stages that use one GPU at most."""
        return self.evaluation or StageResources(gpus=min(1, self.node_gpus))

    def extras(self) -> dict[str, tuple[str, ...]]:
        """The options of sbatch by the key that they stand under."""
        evaluation = self.evaluation_resources().extra
        return {
            "cluster.extra": self.extra,
            "cluster.merge.extra": self.merge.extra,
            "cluster.evaluation.extra": evaluation,
        }
