"""Submissions with commands of SLURM that only write down what they are given (issue 15)."""

from pathlib import Path

import pytest
from slurm_stand_in import SlurmStandIn, recorded

from launch.cluster import ClusterSettings
from launch.job_record import read_jobs, record_jobs
from launch.job_scripts import RunPlace, render_stage
from launch.slurm import ended_state
from launch.slurm_environment import slurm_environment
from merge.errors import UserError


def test_a_sites_default_export_reaches_no_job(tmp_path: Path) -> None:
    """SBATCH_EXPORT=NONE would win over the scripts; HF_HOME is to reach the jobs."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    slurm.submit(run, SBATCH_EXPORT="NONE", SLURM_CONF="/etc/x.conf", HF_HOME="/cache")
    assert list(recorded(run).values()) == [str(number) for number in range(501, 508)]
    for number in map(int, recorded(run).values()):
        seen = slurm.seen(number)
        assert "SBATCH_EXPORT" not in seen
        assert seen["SLURM_CONF"] == "/etc/x.conf" and seen["HF_HOME"] == "/cache"


def test_srun_is_told_to_hand_on_what_the_script_exports(tmp_path: Path) -> None:
    """A script that is queued by hand, or by a site with SLURM_EXPORT_ENV=NONE in its jobs."""
    for stage in ("safety", "merge"):
        for extra in ([], ["--export=NONE"], ["--export=ALL"]):
            settings = ClusterSettings(extra=tuple(extra))
            text = render_stage(stage, "x", settings, RunPlace(tmp_path))
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
    assert list(recorded(run).values()) == [str(number) for number in range(501, 508)]
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
