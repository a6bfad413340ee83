"""The jobs of a submission: what each runs, what records it, and what it waits for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from launch.slurm.system.settings import ClusterSettings


@dataclass(frozen=True)
class Job:
    """One job, or one array of jobs.

    Attributes:
        name: what others of the chain wait for it by; no other job of the chain has it.
        file: of its script.
        tasks: by run folder the name that its jobs.json has for it; of an array, of each task.
        after: jobs that must have succeeded. Those that are not in the chain are done already.
        over: jobs that must have ended, successfully or not.
        array: which tasks, as ``0-4%2``.
        corresponding: a task waits for the same tasks of the others alone.
        trains: whether it has the resources of the trainings.
    """

    name: str
    file: Path
    script: str
    tasks: Sequence[tuple[Path, str]]
    after: Sequence[str] = ()
    over: Sequence[str] = ()
    array: str | None = None
    corresponding: bool = False
    trains: bool = False

    def dependency(self, ids: Mapping[str, str]) -> str | None:
        """The value of sbatch's --dependency; ``ids`` are the ids of the submitted jobs by name."""
        kinds = {
            "aftercorr" if self.corresponding else "afterok": self.after,
            "afterany": self.over,
        }
        jobs_by_kind = {
            kind: [ids[name] for name in dict.fromkeys(names) if name in ids]
            for kind, names in kinds.items()
        }
        words = [":".join([kind, *jobs]) for kind, jobs in jobs_by_kind.items() if jobs]
        return ",".join(words) or None

    def recorded(self, number: str) -> list[tuple[Path, str, str]]:
        """Run folder, name there, and id of each of its jobs."""
        if self.array is None:
            ((run, name),) = self.tasks
            return [(run, name, number)]
        return [(run, name, f"{number}_{task}") for task, (run, name) in enumerate(self.tasks)]


class Chain(Protocol):
    """What is submitted together."""

    @property
    def settings(self) -> ClusterSettings: ...

    @property
    def folder(self) -> Path:
        """The run folder, or the one that holds those of all."""
        ...

    def runs(self) -> list[Path]:
        """The folders that record its jobs."""
        ...

    def claim(self) -> None:
        """Have the run folders ready, and checked as far as can be before the first job.

        Raises:
            UserError: an input is missing or wrong, or a folder is another recipe's.
        """
        ...

    def jobs(self) -> list[Job]:
        """The jobs of all that is not done, each after those that it waits for."""
        ...
