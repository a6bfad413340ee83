"""Submissions with commands of SLURM that only write down what they are given (issue 15)."""

from pathlib import Path

from slurm_stand_in import SlurmStandIn, recorded

from launch.cluster import ClusterSettings
from launch.job_scripts import RunPlace, render_stage
from launch.slurm_environment import slurm_environment


def test_a_sites_default_export_reaches_no_job(tmp_path: Path) -> None:
    """SBATCH_EXPORT=NONE would win over the scripts; HF_HOME is to reach the jobs."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    done = slurm.submit(run, SBATCH_EXPORT="NONE", SLURM_CONF="/etc/x.conf", HF_HOME="/cache")
    assert done.returncode == 0, done.stderr
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
