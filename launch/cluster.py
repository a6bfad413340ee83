"""The recipe's cluster part: what the jobs ask SLURM for.

Every value goes into a script, so every value has a form that holds no blank, quote, or anything
else that a shell or sbatch would take for more than a value.
"""

from pathlib import Path
from typing import Annotated

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from merge.settings import Settings


def _as_text(value: object) -> object:
    """Refuse a number: YAML makes 14400 of 4:00:00."""
    if isinstance(value, int):
        raise ValueError("put it in quotes, as '4:00:00' or '480G'")
    return value


Name = Annotated[str, Field(pattern=r"^\w[\w.,-]*$")]
Duration = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")]
"""As SLURM writes it: minutes, HH:MM:SS, or D-HH."""
Memory = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^\d+[KMGT]?$")]
Constraint = Annotated[str, Field(pattern=r"^[\w.:()\[\]-]+([&|*,][\w.:()\[\]-]+)*$")]
Module = Annotated[str, Field(pattern=r"^\w[\w.+/-]*$")]
Interface = Annotated[str, Field(pattern=r"^[\^=]?\w[\w.,:-]*$")]
PlainPath = Annotated[str, Field(pattern=r"^[\w./:@+,=-]+$")]
"""A path or an image's address, without blanks."""
ExtraLine = Annotated[str, Field(pattern=r"^--[a-z][a-z0-9-]*(=[\w.,:/@+=\[\]-]+)?$")]

_OWN_OPTIONS = (
    *("array", "chdir", "comment", "cpus-per-task", "dependency", "error"),
    *("export-file", "get-user-env", "gid", "gpus-per-node", "job-name", "kill-on-invalid-dep"),
    *("mem", "no-requeue", "nodes", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable"),
    *("requeue", "signal", "time", "uid", "wrap"),
)
"""What the jobs set themselves, or what would change what they run."""


class StageResources(Settings):
    """What a job on one node asks for; what is not given is as in the trainings."""

    partition: Name | None = None
    qos: Name | None = None
    constraint: Constraint | None = None
    time: Duration | None = None
    cpus: PositiveInt | None = None
    gpus: NonNegativeInt = 0
    memory: Memory | None = None


class ContainerSettings(Settings):
    """An image in which the jobs' commands run; it holds Python and what requirements.txt names."""

    image: PlainPath
    runtime: Annotated[str, Field(pattern=r"^(apptainer|singularity|pyxis)$")] = "apptainer"
    """pyxis is SLURM's plugin for enroot, with srun --container-image."""
    mounts: tuple[PlainPath, ...] = ()
    """Folders beside the working and the run folder, as PATH or HOST:CONTAINER."""


class ClusterSettings(Settings):
    """Where and how the jobs run."""

    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None
    constraint: Constraint | None = None
    time: Duration | None = None
    """Of a training; its job goes on in another when the time is over."""
    nodes: PositiveInt = 1
    """Of each of the two trainings, which run side by side."""
    gpus_per_node: NonNegativeInt = 0
    gpu_type: Name | None = None
    processes_per_node: PositiveInt | None = None
    """Of a training. Default: one for each GPU, or one where there is none."""
    cpus_per_process: PositiveInt | None = None
    memory: Memory | None = None
    """Of a node, as 480G."""
    modules: tuple[Module, ...] = ()
    """Loaded by ``module load`` in this order."""
    container: ContainerSettings | None = None
    python: PlainPath | None = None
    """Default: the Python that submits, or ``python3`` in a container."""
    extra: tuple[ExtraLine, ...] = ()
    """More sbatch options, as --exclusive or --reservation=NAME."""
    interface: Interface | None = None
    """Network between the nodes, for NCCL and gloo, as ib0."""
    warning_seconds: Annotated[int, Field(ge=10, le=3600)] = 120
    """So long before its time is over a job is told, and has to save where it stands."""
    requeue_limit: NonNegativeInt = 50
    """How often a job that was stopped goes on by itself."""
    retry_limit: NonNegativeInt = 3
    """How often a job that failed for no reason of the recipe's (a lost node) starts again."""
    merge: StageResources = StageResources()
    """The merge: no GPU, and 128 MiB of tensors in memory."""
    evaluation: StageResources | None = None
    """The world, the search, and the evaluation. Default: one of the trainings' GPUs, if any."""

    @field_validator("extra")
    @classmethod
    def _leave_own_options(cls, extra: tuple[str, ...]) -> tuple[str, ...]:
        for line in extra:
            option, _, value = line.removeprefix("--").partition("=")
            if option == "export":
                # The script hands all that it sets to srun itself (issue 15).
                if value not in ("ALL", "NONE"):
                    raise ValueError(f"'{line}': give --export=ALL or --export=NONE")
                continue
            # sbatch takes any beginning that is unique.
            if any(own.startswith(option) for own in _OWN_OPTIONS):
                raise ValueError(f"'--{option}' is set by the jobs themselves; leave it out")
        return extra

    @model_validator(mode="after")
    def _name_gpus(self) -> "ClusterSettings":
        if self.gpu_type is not None and self.gpus_per_node == 0:
            raise ValueError("gpu_type needs gpus_per_node: say how many")
        return self

    @property
    def processes(self) -> int:
        """Processes of a training on one node."""
        return self.processes_per_node or self.gpus_per_node or 1

    def interpreter(self, own: Path) -> str:
        """The Python of the jobs, where ``own`` is that of this process."""
        return self.python or ("python3" if self.container else str(own))

    def evaluation_resources(self) -> StageResources:
        """Of the stages that use one GPU at most."""
        return self.evaluation or StageResources(gpus=min(1, self.gpus_per_node))
