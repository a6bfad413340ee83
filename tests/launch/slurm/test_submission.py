"""Submissions with commands of SLURM that only write down what they are given (issue 15)."""

import subprocess
from pathlib import Path

import pytest

from launch.pipeline.stages import STAGES
from launch.slurm.batch_scripts.stage_scripts import RunPlace, render_stage
from launch.slurm.queue.job_record import read_jobs, record_jobs
from launch.slurm.system.client import ended_state
from launch.slurm.system.client_environment import slurm_environment
from launch.slurm.system.settings import ClusterSettings, StageResources
from merge.common.errors import UserError
from tests.support.slurm_stand_in import SlurmStandIn, recorded


def test_a_sites_default_export_reaches_no_job(tmp_path: Path) -> None:
    """SBATCH_EXPORT=NONE would win over the scripts; HF_HOME is to reach the jobs."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    slurm.submit(run, SBATCH_EXPORT="NONE", SLURM_CONF="/etc/x.conf", HF_HOME="/cache")
    assert list(recorded(run).values()) == [str(number) for number in range(501, 509)]
    for number in map(int, recorded(run).values()):
        seen = slurm.seen(number)
        assert "SBATCH_EXPORT" not in seen
        assert seen["SLURM_CONF"] == "/etc/x.conf" and seen["HF_HOME"] == "/cache"


def test_srun_is_told_to_hand_on_what_the_script_exports(tmp_path: Path) -> None:
    """A script that is queued by hand, or by a site with SLURM_EXPORT_ENV=NONE in its jobs."""
    for stage in ("safety", "merge"):
        for extra in ([], ["--export=NONE"], ["--export=ALL"]):
            settings = ClusterSettings(extra=tuple(extra))
            text = render_stage(STAGES[stage], "x", settings, RunPlace(tmp_path))
            start = next(line for line in text.splitlines() if line.startswith("srun "))
            assert "--export=ALL" in start.split()


def test_a_default_account_counts_where_the_script_names_none() -> None:
    """Users and sites set it in their profiles; it must not win over the recipe's."""
    variables = {"SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "night", "SBATCH_TIMELIMIT": "5"}
    script = "#!/bin/sh\n#SBATCH --partition=gpu\n# --account=x\n"
    assert slurm_environment(variables, script) == {"SBATCH_ACCOUNT": "mine"}
    assert slurm_environment(variables, "") == {
        "SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "night",
    }  # fmt: skip
    assert slurm_environment(variables) == {}


LEAKED = {
    "SLURM_MEM_PER_CPU": "2048", "SLURM_CPU_BIND": "quiet,mask_cpu:0x1", "SLURM_NTASKS": "1",
    "SLURM_EXPORT_ENV": "NONE", "SRUN_EXPORT_ENV": "NONE", "SLURM_DISTRIBUTION": "cyclic",
    "SRUN_CPUS_PER_TASK": "9", "PYTHONPATH": "/modules/python3.6", "PYTHONHOME": "/modules",
}  # fmt: skip
"""What an interactive session, its site's profile and a module system leave in a shell."""


def test_no_variable_of_the_session_reaches_sbatch(tmp_path: Path) -> None:
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    session = {"SLURM_JOB_ID": "9", "SALLOC_PARTITION": "debug", "PMIX_RANK": "0"}
    slurm.submit(run, **LEAKED, **session, CUDA_VISIBLE_DEVICES="3", NCCL_DEBUG="INFO")
    seen = slurm.seen(503)
    assert not seen.keys() & {*LEAKED, *session, "CUDA_VISIBLE_DEVICES"}
    assert seen["NCCL_DEBUG"] == "INFO" and seen["PATH"] == slurm.variables()["PATH"]


@pytest.mark.parametrize("stage", ["safety", "evaluate"])
def test_a_script_clears_what_is_not_of_its_job(tmp_path: Path, stage: str) -> None:
    """As where a person queues it by hand, or a site's prolog sets variables in every job."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    (run / "jobs").mkdir(parents=True)
    slurm.tool("scontrol", "#!/bin/sh\necho Welcome\necho node7\necho node8\n")
    slurm.tool("srun", '#!/bin/bash\nenv -0 > "$OUT/seen"\nprintf "%s " "$@" > "$OUT/words"\n')
    settings = ClusterSettings(
        nodes=2, processes_per_node=4, extra=("--gpu-bind=none",), evaluation=StageResources(cpus=6)
    )
    script = tmp_path / "x.sbatch"
    script.write_text(render_stage(STAGES[stage], "x", settings, RunPlace(run)))
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2",
           "SLURM_CONF": "/etc/slurm.conf", "SLURM_GPU_BIND": "none"}  # fmt: skip
    variables = slurm.variables(**LEAKED, **job, OUT=str(tmp_path))
    done = subprocess.run(["bash", script], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "seen").read_text()
    seen = dict(line.split("=", 1) for line in text.split("\0") if line)
    assert not seen.keys() & LEAKED.keys()
    assert seen.keys() >= job.keys() - {"SLURM_GPU_BIND"}
    words = (tmp_path / "words").read_text()
    if stage == "safety":
        assert seen["MASTER_ADDR"] == "node7" and seen["SLURM_GPU_BIND"] == "none"
        assert " --nodes=2 --ntasks=8 --ntasks-per-node=4 " in words
    else:
        assert " --nodes=1 --ntasks=1 --ntasks-per-node=1 --cpus-per-task=6 " in words


def test_packages_of_a_module_are_not_for_the_projects_own_python(tmp_path: Path) -> None:
    """They may well be for a Python that the recipe names."""
    for python, forgets in ((None, 2), ("python3", 1)):
        settings = ClusterSettings(modules=("cuda/13",), python=python)
        text = render_stage(STAGES["merge"], "x", settings, RunPlace(tmp_path))
        assert text.count("unset PYTHONPATH PYTHONHOME") == forgets


GREETING = """
echo "Welcome to the Pear cluster!"
echo "2026 nodes are up; quota of project 17:"
echo 80
{id}
echo "Have a nice day."
"""


@pytest.mark.parametrize("form", ["$number", "$number;pear", "  $number  "])
def test_a_greeting_is_not_taken_for_a_jobs_id(tmp_path: Path, form: str) -> None:
    """A site's wrappers may say what they like around what --parsable prints."""
    sbatch = GREETING.format(id=f'echo "{form}"')
    waiting = "Be kind | to | all | of | us\\n503|PENDING|Dependency|0:00|\\n9|RUNNING|None|1|n\\n"
    slurm, run = SlurmStandIn(tmp_path / "slurm", sbatch, waiting), tmp_path / "run"
    slurm.submit(run)
    assert list(recorded(run).values()) == [str(number) for number in range(501, 509)]
    assert "--dependency=afterok:501:502 " in slurm.lines("submitted")[2]
    assert slurm.cancel(run) == ["503"] == slurm.lines("cancelled")


FAILURES = {
    "refused": (
        "[ $number = 504 ] && { echo 'sbatch: error: Batch job limit' >&2; exit 1; }",
        "sbatch: Batch job limit; ",
    ),
    "no id": (
        "[ $number = 504 ] && { echo Maintenance; echo at 9.; exit; }",
        "sbatch: printed 'Maintenance at 9.' where --parsable gives a job's id; ",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_chain_that_cannot_be_whole_is_taken_back(tmp_path: Path, failure: str) -> None:
    """What was recorded before stays: jobs of an earlier submission, which are over."""
    work, words = FAILURES[failure]
    slurm, run = SlurmStandIn(tmp_path / "slurm", f"{work}\necho $number"), tmp_path / "run"
    record_jobs(run, {"world": "7", "merge": "9"})
    with pytest.raises(UserError) as refused:
        slurm.submit(run)
    assert str(refused.value).startswith(words) and "\n" not in str(refused.value)
    assert str(refused.value).endswith("the jobs before it (501, 502, 503) were cancelled")
    assert slurm.lines("cancelled") == ["501 502 503"]
    assert recorded(run) == {"world": "7", "merge": "9"}


def test_jobs_that_cannot_be_cancelled_stay_recorded(tmp_path: Path) -> None:
    slurm, run = (
        SlurmStandIn(tmp_path / "slurm", FAILURES["refused"][0] + "\necho $number"),
        tmp_path,
    )
    slurm.tool("scancel", "#!/bin/sh\nexit 1\n")
    with pytest.raises(UserError, match="by 'scancel 501 502 503'"):
        slurm.submit(run)
    assert sorted(recorded(run).values()) == ["501", "502", "503"]


def test_what_an_older_version_took_for_an_id_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    text = '{"world": "Welcome\\n12", "safety": "13", "over_safety": "14_2"}'
    (tmp_path / "jobs/jobs.json").write_text(text)
    assert read_jobs(tmp_path) == {"safety": "13", "over_safety": "14_2"}


def test_the_state_of_an_ended_job_is_found_among_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm = SlurmStandIn(tmp_path)
    told = r"Hello|all\n12_3|FAILED\n12_3|CANCELLED by 1000\n12_31|COMPLETED\nBye\n"
    slurm.tool("sacct", f"#!/bin/bash\nprintf '{told}'\n")
    monkeypatch.setenv("PATH", slurm.variables()["PATH"])
    assert ended_state("12_3") == "CANCELLED"
