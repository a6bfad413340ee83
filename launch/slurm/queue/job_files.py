"""Where a run keeps the files of its jobs; all ranks of a training import it."""

JOBS_FOLDER = "jobs"
"""In the run folder: the jobs' scripts, logs and ids."""
FILES_VARIABLE = "SAFEPATCHING_JOB_FILES"
"""What the names of the job's own files begin with, RUN/jobs/STAGE: one role may be trained in two
stages of a run."""
