"""Which job does which stage of a run: RUN/jobs/jobs.json; and which of them are not over."""

import logging
import re
from pathlib import Path

from launch.run.seeds import seed_runs
from launch.slurm.queue.job_files import JOBS_FOLDER
from launch.slurm.system import client as slurm
from merge.common.errors import UserError
from merge.common.files import atomic_write_json, make_directory, read_json

logger = logging.getLogger(__name__)

_FILE = "jobs.json"
_NAMED = 3
_ID = re.compile(r"\d+(_\d+)?")


class ActiveJobsError(UserError):
    """Jobs of a run are waiting or running."""


def read_jobs(run: Path) -> dict[str, str]:
    """Stage -> the id of the job that was submitted last for it; an array's task as ``12_3``.

    What is no id, as greetings of sbatch that older versions took for one, is left out.
    """
    file = run / JOBS_FOLDER / _FILE
    record = read_json(file) if file.is_file() else {}
    return {str(k): str(v) for k, v in record.items() if _ID.fullmatch(str(v))}


def record_jobs(run: Path, jobs: dict[str, str]) -> None:
    """Keep the ids of newly submitted stages, and those of the others as they were."""
    replace_jobs(run, {**read_jobs(run), **jobs})


def replace_jobs(run: Path, jobs: dict[str, str]) -> None:
    """Keep these ids alone, as after a submission that was taken back."""
    make_directory(run / JOBS_FOLDER)
    atomic_write_json(run / JOBS_FOLDER / _FILE, jobs)


def active_jobs(folder: Path) -> dict[str, str]:
    """The run's jobs, or those of its seeds, that are not over: id -> stage.

    Raises:
        UserError: SLURM does not answer.
    """
    queued = slurm.queued_jobs()
    return {job: stage for job, stage in _recorded(folder).items() if job in queued}


def refuse_active(folder: Path) -> None:
    """See that no job of the run is waiting or running.

    Raises:
        UserError: naming them; or SLURM does not answer.
    """
    named = [f"{stage} (job {job})" for job, stage in active_jobs(folder).items()]
    if named:
        more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        raise ActiveJobsError(
            f"{folder}: SLURM has its {', '.join(named[:_NAMED])}{more} in the queue; see 'python "
            f"-m launch status {folder}', or end them by 'python -m launch cancel {folder}'"
        )


def refuse_beside_jobs(folder: Path) -> None:
    """Refuse work on this machine while jobs do it; warn at most where SLURM does not answer.

    Raises:
        UserError: jobs of the run are waiting or running.
    """
    if not _recorded(folder):
        return
    try:
        refuse_active(folder)
    except ActiveJobsError:
        raise
    except UserError as error:
        logger.warning(
            "%s: was submitted to SLURM, which cannot be asked whether its jobs are over: %s",
            folder,
            error,
        )


def part_runs(folder: Path) -> list[Path]:
    """The run folders inside one: of seeds, or of the stages of a continual alignment."""
    stages = (run for pattern in ("stages/*", "baselines/*/*") for run in folder.glob(pattern))
    return [*seed_runs(folder), *sorted(stages)]


def _recorded(folder: Path) -> dict[str, str]:
    runs = (folder, *part_runs(folder))
    return {job: stage for run in runs for stage, job in read_jobs(run).items()}
