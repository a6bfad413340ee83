"""The cluster part: options of each stage, generic resources, variables, and setup (issue 15)."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from launch.pipeline.stages import STAGES
from launch.slurm.batch_scripts.stage_scripts import RunPlace, render_stage, render_summary
from launch.slurm.submit import plan_chain
from launch.slurm.system.settings import ClusterSettings
from merge.common.errors import UserError
from tests.support.slurm_stand_in import SlurmStandIn

PLACE = RunPlace(Path("/scratch/x"))


def directives(stage: str, **cluster: Any) -> list[str]:
    text = render_stage(STAGES[stage], "x", ClusterSettings(**cluster), PLACE)
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH")]


def test_options_of_a_training_are_not_those_of_the_merge() -> None:
    """--exclusive took whole nodes for the merge."""
    cluster: dict[str, Any] = {
        "extra": ["--exclusive", "--nice=5"], "gpus_per_node": 4,
        "merge": {"extra": ["--exclude=node3"]}, "comment": "patching, part 1", "account": "lab",
        "mail_user": "me@example.org", "mail_type": ["END", "FAIL"],
    }  # fmt: skip
    stages = ("safety", "over_safety_first", "merge", "search", "evaluate")
    asked = {stage: directives(stage, **cluster) for stage in stages}
    assert {stage for stage in stages if "--exclusive" in asked[stage]} == set(stages[:2])
    assert {stage for stage in stages if "--exclude=node3" in asked[stage]} == {"merge"}
    everywhere = {
        '--comment="patching, part 1"', "--mail-user=me@example.org", "--mail-type=END,FAIL",
        "--account=lab",
    }  # fmt: skip
    for options in asked.values():
        assert everywhere <= set(options)
    assert "--exclude=node3" in render_summary("x", ClusterSettings(**cluster), PLACE)


def test_a_site_of_gres_alone_gets_gpus_where_they_are_wanted() -> None:
    """Only the trainings and the evaluation; in the form that the site takes."""
    gres: dict[str, Any] = {"gres": "gpu:a100:4,nvme:1"}
    assert ClusterSettings(**gres).processes == 4
    training, merge, evaluation = (directives(s, **gres) for s in ("safety", "merge", "search"))
    assert "--gres=gpu:a100:4,nvme:1" in training and "--ntasks-per-node=4" in training
    assert not [option for option in merge if "gpu" in option or "gres" in option]
    assert "--gres=gpu:a100:1" in evaluation
    assert not [option for option in training + evaluation if "gpus" in option]
    disk: dict[str, Any] = {
        "gpus_per_node": 2,
        "gres": "nvme:1",
        "evaluation": {"gpus": 2, "gres": "nvme:3"},
    }
    assert {"--gpus-per-node=2", "--gres=nvme:1"} < set(directives("safety", **disk))
    assert {"--gpus-per-node=2", "--gres=nvme:3"} < set(directives("evaluate", **disk))
    both: dict[str, Any] = {"gres": "gpu:2", "evaluation": {"gpus": 1, "gres": "nvme:3"}}
    assert "--gres=gpu:1,nvme:3" in directives("evaluate", **both)


@pytest.mark.parametrize(
    "cluster, words",
    [
        ({"gres": "gpu:4", "gpus_per_node": 4}, "both ask for GPUs"),
        ({"gres": "gpu:4", "gpu_type": "a100"}, "name it in gres"),
        ({"evaluation": {"gres": "gpu", "gpus": 1}}, "both ask for GPUs"),
        ({"extra": ["--gres=gpu:8"]}, "set gres"),
        ({"extra": ["--partition=x"]}, "set partition"),
        ({"merge": {"extra": ["--time=5"]}}, "set time"),
        ({"extra": ["--mem-per-cpu=4G"], "memory": "64G"}, "'--mem-per-cpu=4G' and 'memory'"),
        ({"merge": {"extra": ["--cpus-per-gpu=4"], "cpus": 2}}, "exclude each other"),
        ({"extra": ["--exclusive", "--exclusive=user"]}, "are one option"),
        ({"extra": ["--export=HOME"]}, "variables under 'env'"),
        ({"extra": ["--wait"]}, "leave it out"),
        ({"interface": "ib0", "env": {"NCCL_SOCKET_IFNAME": "ib1"}}, "keep one"),
        ({"mail_user": "me"}, "say when"),
        ({"env": {"jobs": "1"}}, "set by the jobs"),
        ({"env": {"SLURM_JOB_ID": "1"}}, "set by the jobs"),
        ({"env": {"HF_TOKEN": "x"}}, "no place for secrets"),
        ({"env": {"HF_HOME": "$HOME/x"}}, "write it out"),
        ({"env": {"X": "a\nb"}}, "pattern"),
        ({"env": {"X Y": "a"}}, "pattern"),
        ({"env": {"X": True}}, "in quotes"),
        ({"setup": ["conda activate x; rm y"]}, "pattern"),
        ({"setup": ["source $(cat x)"]}, "pattern"),
        ({"setup": ["source a\nb"]}, "pattern"),
    ],
)
def test_contradictions_and_what_a_script_cannot_hold_are_refused(
    cluster: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        ClusterSettings(**cluster)


def test_an_unknown_option_is_refused_before_any_job_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin's option is known to the site's sbatch alone."""
    helped = "[[ $1 = --help ]] && { echo '  --bright[=how]  lights'; exit; }; echo $number"
    slurm = SlurmStandIn(tmp_path / "slurm", helped)
    monkeypatch.setenv("PATH", slurm.variables()["PATH"])

    def plan(cluster: str) -> None:
        overrides = [f"output={tmp_path}/run", f"cluster={cluster}"]
        plan_chain(Path("launch/recipes/demo.yaml"), overrides, None, None)

    plan("{extra: [--bright=very, --exclusive]}")
    with pytest.raises(UserError, match=r"cluster.merge.extra: .*did you mean '--reservation'\?"):
        plan("{merge: {extra: [--reservatoin=x]}}")
    assert slurm.lines("submitted") == ["--help"], "asked once, and nothing is queued"


def test_variables_and_setup_reach_the_command_as_they_are(tmp_path: Path) -> None:
    """Executed: modules first, then setup, then variables, which win."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    (run / "jobs").mkdir(parents=True)
    slurm.tool("srun", '#!/bin/bash\nenv -0 > "$OUT/seen"\n')
    (tmp_path / "profile.sh").write_text("export NCCL_DEBUG=$UNSET TMPDIR=/fast\n")
    odd = 'it\'s "1" & 2; * \\ #'
    settings = ClusterSettings(
        setup=(f"source {tmp_path}/profile.sh", "umask 027"),
        env={"NCCL_DEBUG": "INFO", "ODD": odd, "NCCL_IB_DISABLE": 1},  # pyright: ignore
        interface="ib0",
    )
    script = tmp_path / "x.sbatch"
    script.write_text(render_stage(STAGES["merge"], "x", settings, RunPlace(run)))
    variables = slurm.variables(OUT=str(tmp_path), SLURM_JOB_ID="7", SLURM_JOB_NODELIST="node7")
    done = subprocess.run(["bash", script], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "seen").read_text()
    seen = dict(line.split("=", 1) for line in text.split("\0") if line)
    wanted = {
        "NCCL_DEBUG": "INFO", "ODD": odd, "NCCL_IB_DISABLE": "1", "TMPDIR": "/fast",
        "GLOO_SOCKET_IFNAME": "ib0",
    }  # fmt: skip
    assert {name: seen.get(name) for name in wanted} == wanted


def test_what_the_documentation_shows_is_accepted() -> None:
    """Every cluster part of README and docs/slurm.md; a container of the latter each by itself."""
    parts = []
    for name in ("README.md", "docs/slurm.md"):
        for block in re.findall(r"```yaml\n(.*?)```", Path(name).read_text(), re.DOTALL):
            if block.startswith("cluster:"):
                parts.append(yaml.safe_load(block)["cluster"])
            elif "  container: " in block:
                parts += [yaml.safe_load(line) for line in block.splitlines()]
    assert len(parts) == 4
    for part in parts:
        assert render_stage(STAGES["safety"], "x", ClusterSettings(**part), PLACE)
