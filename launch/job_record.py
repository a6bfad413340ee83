"""Which job does which stage of a run: RUN/jobs/jobs.json."""

from pathlib import Path

from launch.rank import JOBS_FOLDER
from merge.files import atomic_write_json, make_directory, read_json

_FILE = "jobs.json"


def read_jobs(run: Path) -> dict[str, str]:
    """Stage -> the id of the job that was submitted last for it; an array's task as ``12_3``."""
    file = run / JOBS_FOLDER / _FILE
    return {str(k): str(v) for k, v in read_json(file).items()} if file.is_file() else {}


def record_jobs(run: Path, jobs: dict[str, str]) -> None:
    """Keep the ids of newly submitted stages, and those of the others as they were."""
    make_directory(run / JOBS_FOLDER)
    atomic_write_json(run / JOBS_FOLDER / _FILE, {**read_jobs(run), **jobs})
