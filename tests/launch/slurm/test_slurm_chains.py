"""What is more than one run, on a real SLURM of two nodes: ablation, stages, a search's array."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.search.storage import FILE
from tests.support.slurm_cluster import NODES, SlurmCluster, slurm_cluster
from tests.support.slurm_runs import MARKS, RECIPE, TRAINING, Run
from tests.support.tiny_run import make_run

pytestmark = MARKS
TRIALS = 120
SHORT = {**TRAINING, "steps": 3, "batch_size": 1, "micro_batch_size": 1}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def made_run(cluster: SlurmCluster, folder: Path, /, **sections: Any) -> Run:
    """A run whose backbone and patches are there already."""
    recipe = yaml.safe_load(make_run(folder).read_text())
    own = {"partition": "gpu", "time": "30", "warning_seconds": 20, "interface": "eth0"}
    sections["cluster"] = own | sections.get("cluster", {})
    return Run(cluster, folder / "run", **{**RECIPE, **recipe, **sections})


def lengthen_answers(suite: Path) -> None:
    """So that a trial takes about a tenth of a second, and both workers come to some."""
    rows = yaml.safe_load(suite.read_text())
    suite.write_text(yaml.safe_dump([{**row, "max_new_tokens": 100} for row in rows]))


def journal(run: Run) -> list[dict[str, Any]]:
    file = run.folder / "search" / FILE
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def claimed(run: Run) -> Counter[int]:
    """How many trials each worker has claimed, by optuna's own file (its operation 8)."""
    rows = (row for row in journal(run) if row["op_code"] == 8)
    return Counter(row["user_attr"]["worker"] for row in rows if "worker" in row["user_attr"])


def shared_search(cluster: SlurmCluster, folder: Path) -> Run:
    """Submitted; its two workers each fill a node."""
    suite = {"suite": str(folder / "suite.yaml"), "utility_margin": 1, "degenerate_margin": 1}
    search = {**suite, "trials": TRIALS, "workers": 2}
    array = {"search_array": True, "evaluation": {"extra": ["--exclusive"]}}
    run = made_run(cluster, folder, search=search, cluster=array)
    lengthen_answers(folder / "suite.yaml")
    return run.submit()


def test_two_nodes_share_a_search_of_which_one_is_stopped(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """SLURM's warning to one of them: it goes on where it stood, and every trial is done once."""
    run = shared_search(cluster, tmp_path)
    run.when(lambda: min(claimed(run)[0], claimed(run)[1]) > 3)
    assert all(cluster.pids(node, "--worker") for node in NODES)
    cluster.ask("scancel", "--signal=USR1", run.jobs()["search.1"])
    status = run.launch("status", run.folder).stdout
    assert "search.0" in status and "waits for the stages before it" in status, status
    run.finish()
    assert "stopped on request; requeued" in run.log("search.1")
    trials = json.loads((run.folder / "search/search.json").read_text())["trials"]
    assert len(trials) == len({json.dumps(trial["settings"]) for trial in trials}) == TRIALS
    assert (run.folder / "patched/merge.json").is_file()
    status = run.launch("status", run.folder).stdout
    # The openings, two trainings, two workers, the search, and the merge.
    assert status.count(" done ") == 7, status


def test_a_search_ends_although_a_worker_is_cancelled(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    run = shared_search(cluster, tmp_path)
    run.when(lambda: min(claimed(run)[0], claimed(run)[1]) > 3)
    cluster.ask("scancel", run.jobs()["search.0"])
    run.finish()
    assert "requeued" not in run.log("search.0")
    trials = json.loads((run.folder / "search/search.json").read_text())["trials"]
    assert len(trials) == len({json.dumps(trial["settings"]) for trial in trials}) == TRIALS
    done = [row["trial_id"] for row in journal(run) if row["op_code"] == 6 and row["state"] == 1]
    assert len(done) == len(set(done)) == TRIALS


def test_an_ablation_is_a_chain_of_jobs(cluster: SlurmCluster, tmp_path: Path) -> None:
    """A baseline is trained on both nodes; the patches go after what is measured of them, which is
    interrupted."""
    run = made_run(
        cluster,
        tmp_path,
        safety=SHORT,
        over_safety=SHORT,
        keep_intermediates=False,
        eval={"suite": str(tmp_path / "suite.yaml"), "single_patches": False},
        ablate={"baselines": {"npo": {"objective": "npo"}}, "retention_seeds": 300},
        cluster={"nodes": 2},
    )
    run.submit("--ablate")
    assert list(run.jobs()) == ["ablation.npo", "ablation", "merge", "evaluate"]
    for command in ("ablate", "run"):
        refused = run.launch(command, run.recipe)
        assert refused.returncode == 2 and "merge (job" in refused.stderr, refused.stderr
    outcomes = run.folder / "ablation/outcomes.jsonl"
    run.when(lambda: outcomes.is_file() and outcomes.read_text().count("\n") > 1)
    cluster.ask("scancel", "--signal=USR1", run.jobs()["ablation"])
    run.finish()
    assert "stopped on request; requeued" in run.log("ablation")
    assert "start 1 of job" in run.log("ablation.npo") and "rank1" in str(
        list((run.folder / "jobs").glob("ablation.npo-*"))
    )
    keys = [json.loads(line)["key"] for line in outcomes.read_text().splitlines()]
    assert len(keys) == len(set(keys)), "what was measured is not measured again"
    record = json.loads((run.folder / "ablation/ablation.json").read_text())
    rows = {row["name"]: row for row in record["variants"]}
    assert rows["npo"]["training"]["steps"] == 3
    for name in ("ablation/work", "over_safety"):
        assert not (run.folder / name).exists()
    report = json.loads((run.folder / "report/report.json").read_text())["models"]
    assert report["safepatching"]["harmful_rate"] == rows["full"]["axes"]["harmful_rate"]
    assert "nothing to submit" in run.launch("submit", run.recipe, "--ablate").stdout
    status = run.launch("status", run.folder).stdout
    assert status.count(" done ") == 6 and "ablation.npo" in status, status


def test_a_continual_alignment_is_a_chain_of_chains(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Every stage starts from the model of the stage before; the baseline's beside them."""
    make_run(tmp_path)
    for name, key, verb in (("harm", "prompt", "it"), ("pairs", "question", "mund")):
        rows = [{key: f"{verb} {w}", "answer": "blip it", "category": w} for w in ("red", "grond")]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = yaml.safe_load((tmp_path / "suite.yaml").read_text())
    suite[0]["columns"] = {"category": "category"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(suite))
    run = Run(
        cluster,
        tmp_path / "whole",
        backbone={"path": str(tmp_path / "backbone")},
        data={"path": str(tmp_path / "pairs.jsonl")},
        safety=SHORT,
        over_safety=SHORT,
        importance={"samples": 1},
        eval={"suite": str(tmp_path / "own.yaml"), "single_patches": False},
        continual={
            "stages": [{"name": w, "categories": [w]} for w in ("red", "grond")],
            "baselines": {"npo": {"safety": {"objective": "npo"}}},
        },
        cluster={**RECIPE["cluster"], "nodes": 1},
    ).submit("--continual")
    assert list(run.jobs()) == ["continual"]
    second = json.loads((run.folder / "stages/grond/jobs/jobs.json").read_text())
    refused = run.launch("run", run.folder / "stages/grond/recipe.yaml")
    assert refused.returncode == 2 and "launch cancel" in refused.stderr, refused.stderr
    waits = cluster.ask("scontrol", "show", "job", second["safety"])
    first = json.loads((run.folder / "stages/red/jobs/jobs.json").read_text())
    assert f"afterok:{first['merge']}(" in waits, waits
    run.finish()
    status = run.launch("status", run.folder).stdout
    assert status.count(" done ") == 2 * 4 + 2 * 3 + 1, status
    summary = json.loads((run.folder / "continual/continual.json").read_text())
    assert {name: len(way) for name, way in summary["models"].items()} == {
        "safepatching": 2, "npo": 2,
    }  # fmt: skip
    assert {file.stem for file in (run.folder / "deltas").iterdir()} == {"red", "grond"}
    backbone = json.loads((run.folder / "stages/grond/patched/merge.json").read_text())
    assert "stages/red/patched" in json.dumps(backbone)
    assert "nothing to submit" in run.launch("submit", run.recipe, "--continual").stdout
