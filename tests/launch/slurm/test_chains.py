"""What is submitted beside a plain run: ablation, continual alignment, a search's workers."""

import os
import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from launch.cli import parse
from launch.recipe import Recipe
from launch.run.folder import claim_folder, holding
from launch.sizing.chain_times import ablation_models, chain_table
from launch.slurm.queue.job_record import record_jobs, refuse_beside_jobs
from launch.slurm.status import run_states
from launch.slurm.submit import plan_chain, plan_continual
from merge.common.errors import UserError
from merge.common.files import atomic_write_text
from tests.support.slurm_stand_in import SlurmStandIn, recorded
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

DEMO = Path("launch/recipes/demo.yaml")
CONTINUAL = Path("launch/recipes/demo-continual.yaml")
CLUSTER = "cluster={nodes: 2, merge: {partition: cpu}, evaluation: {memory: 9G}}"
TWO_STAGES = (
    "continual={stages: [{name: one, categories: [gronka]}, {name: two, categories: [gosk], "
    "recipe: {search: null}}], baselines: {npo: {safety: {objective: npo}}}}"
)


def dependencies(slurm: SlurmStandIn, jobs: dict[str, str]) -> dict[str, set[str]]:
    """By job what it waits for, as kind:job, of what sbatch was given."""
    names = {number: name for name, number in jobs.items()}
    by_name = {}
    for name, line in zip(jobs, slurm.lines("submitted"), strict=True):
        given = re.search(r"--dependency=(\S+)", line)
        by_name[name] = set()
        for kind, *numbers in (part.split(":") for part in (given[1].split(",") if given else [])):
            by_name[name] |= {f"{kind}:{names[number]}" for number in numbers}
    return by_name


def directives(run: Path, job: str) -> list[str]:
    folder, _, name = job.rpartition("/")
    text = (run / folder / "jobs" / f"{name}.sbatch").read_text()
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


def test_the_merge_waits_for_the_ablation_and_this_for_its_trainings(tmp_path: Path) -> None:
    """The merge deletes the patches. Trainings have two nodes, the ablation what evaluations do."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    jobs = slurm.queue(plan_chain(DEMO, [f"output={run}", CLUSTER], ablate=True))
    baselines = {"ablation.npo", "ablation.ascent_mismatch_kl", "ablation.derta"}
    waits = dependencies(slurm, jobs)
    trained = {"afterok:safety", "afterok:over_safety", "afterok:search"}
    assert waits["ablation"] == trained | {f"afterok:{baseline}" for baseline in baselines}
    assert waits["merge"] == trained | {"afterok:comparisons", "afterok:ablation"}
    for baseline in baselines:
        assert waits[baseline] == {"afterok:world", "afterok:openings"}
        assert "#SBATCH --nodes=2" in directives(run, baseline)
        assert (run / "ablation/work" / baseline[9:] / "recipe.yaml").is_file()
    assert "#SBATCH --mem=9G" in directives(run, "ablation")
    assert (run / "ablation/work").stat().st_mode & 0o777 == 0o700
    assert recorded(run) == jobs


def test_an_ablation_of_seeds_is_arrays_of_which_each_waits_for_its_own(tmp_path: Path) -> None:
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    jobs = slurm.queue(plan_chain(DEMO, [f"output={run}", CLUSTER], 2, None, ablate=True))
    waits = dependencies(slurm, jobs)
    assert "aftercorr:ablation.npo" in waits["ablation"]
    assert "aftercorr:ablation" in waits["merge"] and waits["seeds"] == {"afterok:evaluate"}
    assert recorded(run / "seed-1")["ablation.npo"] == f"{jobs['ablation.npo']}_1"


def made(folder: Path, **sections: Any) -> Path:
    """A recipe of a run that is merged, and has deleted its over-safety patch."""
    suite = {"suite": str(folder / "suite.yaml")}
    recipe = make_run(folder, eval=suite, cluster={}, **sections)
    claim_folder(load_recipe(recipe, [], Recipe))
    for name in ("patched/merge.json", "report/report.json"):
        (folder / "run" / name).parent.mkdir()
        (folder / "run" / name).write_text("{}")
    for file in (folder / "run/over_safety").iterdir():
        file.unlink()
    (folder / "run/over_safety").rmdir()
    return recipe


def test_a_deleted_patch_is_trained_again_for_an_ablation(tmp_path: Path) -> None:
    recipe = made(tmp_path, ablate={"baselines": {}})
    slurm = SlurmStandIn(tmp_path / "slurm")
    jobs = slurm.queue(plan_chain(recipe, [], ablate=True))
    assert list(jobs) == ["ablation.over_safety", "ablation"]
    (tmp_path / "run/ablation/ablation.json").write_text("{}")
    assert slurm.queue(plan_chain(recipe, [], ablate=True)) == {}
    other = ["ablate.retention_seeds=9"]
    assert list(slurm.queue(plan_chain(recipe, other, ablate=True))) == list(jobs)


def test_openings_that_are_learned_later_reach_the_trainings_of_an_ablation(
    tmp_path: Path,
) -> None:
    """Those are prepared when they are submitted, before the job that learns them."""
    from launch.ablation.patches import hand_over_openings, patches_to_train, prepare

    recipe = load_recipe(DEMO, [f"output={tmp_path / 'run'}"], Recipe)
    claim_folder(recipe)
    files = [prepare(recipe, patch) for patch in patches_to_train(recipe)]
    atomic_write_text(tmp_path / "run/openings.json", '{"texts": []}')
    hand_over_openings(tmp_path / "run")
    assert len(files) == 3
    assert all(file.with_name("openings.json").read_text() == '{"texts": []}' for file in files)


def test_each_stage_waits_for_the_model_of_the_stage_before(tmp_path: Path) -> None:
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    chain = plan_continual(CONTINUAL, [f"output={run}", CLUSTER, TWO_STAGES])
    jobs = slurm.queue(chain)
    waits = dependencies(slurm, jobs)
    first, second, baseline = "stages/one", "stages/two", "baselines/npo"
    assert waits["stages"] == {"afterok:world"}
    assert waits[f"{baseline}/one/safety"] == {"afterok:stages"}
    for role in ("safety", "over_safety"):
        assert waits[f"{first}/{role}"] == {"afterok:stages", f"afterok:{first}/openings"}
    for role in ("safety", "over_safety"):
        assert waits[f"{second}/{role}"] == {f"afterok:{first}/merge", "afterok:stages"}
        assert "#SBATCH --nodes=2" in directives(run, f"{second}/{role}")
    assert f"afterok:{first}/evaluate" in waits[f"{second}/evaluate"]
    assert f"{first}/search" in jobs and f"{second}/search" not in jobs
    assert waits[f"{baseline}/two/safety"] == {f"afterok:{baseline}/one/merge", "afterok:stages"}
    assert waits[f"{baseline}/two/evaluate"] >= {f"afterok:{baseline}/two/merge"}
    for job in (f"{baseline}/one/merge", f"{first}/merge", "stages", "continual"):
        assert "#SBATCH --partition=cpu" in directives(run, job)
    assert waits["continual"] == {f"afterok:{job}" for job in jobs if job != "continual"}
    assert recorded(run / first)["merge"] == jobs[f"{first}/merge"]
    shown = [row.stage for row in run_states_of(slurm, run / baseline / "one", "npo")]
    assert shown == ["safety", "merge", "evaluate"]


def run_states_of(slurm: SlurmStandIn, run: Path, baseline: str | None) -> list[Any]:
    with mock.patch.dict(os.environ, slurm.variables(), clear=True):
        return run_states(run, baseline)


def test_jobs_of_a_stage_are_those_of_the_whole(tmp_path: Path) -> None:
    """Refused beside them, cancelled with them, and forgotten when they are taken back."""
    waiting = "504|PENDING|Dependency|0:00|\\n"
    slurm = SlurmStandIn(tmp_path / "slurm", "echo $number", waiting)
    run = tmp_path / "run"
    record_jobs(run / "stages/one", {"safety": "7"})
    chain = plan_continual(CONTINUAL, [f"output={run}", CLUSTER, TWO_STAGES])
    slurm.queue(chain)
    assert recorded(run / "stages/one")["safety"] == "504"
    with (
        mock.patch.dict(os.environ, slurm.variables(), clear=True),
        pytest.raises(UserError, match=r"safety \(job 504\)"),
    ):
        refuse_beside_jobs(run)
    with pytest.raises(UserError, match=r"safety \(job 504\)"):
        slurm.queue(chain)
    assert slurm.cancel(run) == ["504"]


def test_a_chain_of_stages_that_cannot_be_whole_is_taken_back(tmp_path: Path) -> None:
    refusing = "[ $number = 509 ] && { echo 'sbatch: error: no more' >&2; exit 1; }\necho $number"
    slurm, run = SlurmStandIn(tmp_path / "slurm", refusing), tmp_path / "run"
    record_jobs(run / "stages/two", {"safety": "7"})
    with pytest.raises(UserError, match=r"no more.*\(501, .*508\) were cancelled"):
        slurm.queue(plan_continual(CONTINUAL, [f"output={run}", CLUSTER, TWO_STAGES]))
    assert recorded(run / "stages/two") == {"safety": "7"}
    assert recorded(run / "stages/one") == {} == recorded(run)


@pytest.mark.parametrize("busy", [".", "stages/two"])
def test_a_command_at_work_in_the_folder_is_refused(tmp_path: Path, busy: str) -> None:
    """`launch run` there holds the lock of its stage, and a job would train beside it."""
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    (run / busy).mkdir(parents=True)
    chain = plan_continual(CONTINUAL, [f"output={run}", CLUSTER, TWO_STAGES])
    with (
        holding(run / busy, "safety"),
        pytest.raises(UserError, match="another process is at stage safety"),
    ):
        slurm.queue(chain)
    assert slurm.lines("submitted") == []
    assert slurm.queue(chain)


ARRAY = "cluster={search_array: true, evaluation: {cpus: 3}}"
THREE = ["search.by=answers", "search.fit=none", "search.workers=3"]


def test_a_searchs_workers_are_an_array_after_which_one_job_chooses(tmp_path: Path) -> None:
    slurm, run = SlurmStandIn(tmp_path / "slurm"), tmp_path / "run"
    jobs = slurm.queue(plan_chain(DEMO, [f"output={run}", ARRAY, *THREE]))
    trained = {"afterok:safety", "afterok:over_safety"}
    waits = dependencies(slurm, jobs)
    assert waits["search.workers"] == trained
    assert waits["search"] == trained | {"afterany:search.workers"}, "whatever became of a worker"
    submitted = dict(zip(jobs, slurm.lines("submitted"), strict=True))
    assert "--array=0-2 " in submitted["search.workers"] and "--array" not in submitted["search"]
    number = jobs["search.workers"]
    kept = recorded(run)
    assert [kept[f"search.{task}"] for task in range(3)] == [f"{number}_{n}" for n in range(3)]
    assert "#SBATCH --cpus-per-task=3" in directives(run, "search.workers")
    assert f'#SBATCH --output="{run}/jobs/search.%a.log"' in directives(run, "search.workers")
    states = [row.stage for row in run_states_of(slurm, run, None)]
    assert states.index("search.2") + 1 == states.index("search")


def test_of_seeds_each_searches_in_one_job(tmp_path: Path) -> None:
    """They are an array already."""
    chain = plan_chain(DEMO, [f"output={tmp_path}", ARRAY, *THREE], seeds=2)
    jobs = {job.name: job for job in chain.jobs()}
    assert "search.workers" not in jobs and "search.workers=1" not in jobs["search"].script


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            [DEMO, ARRAY],
            "cluster.search_array makes jobs of a search's workers; set search.workers",
        ),
        ([DEMO, "cluster={}", "eval=null", "--ablate"], "has no eval section, which ablate needs"),
        ([DEMO, "cluster={}", "--continual"], "has no continual section"),
        ([CONTINUAL, "cluster={}", "--continual", "--seeds", "2"], "submit it with seed=N"),
        ([CONTINUAL, "--continual"], "has no cluster part; add one"),
    ],
)
def test_mistakes_are_one_line(words: list[str], wanted: str, tmp_path: Path) -> None:
    command = ["submit", *map(str, words), "--dry-run", f"output={tmp_path}/run"]
    options = parse(command)
    with pytest.raises(UserError, match=wanted) as refused:
        options.command(options)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_the_plan_counts_what_would_be_queued(tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", CLUSTER, TWO_STAGES]
    recipe = load_recipe(CONTINUAL, overrides, Recipe)
    table = chain_table(recipe)
    assert table is not None
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    # A run is world, openings, both trainings, search, merge and evaluate. Of the baselines of an
    # ablation gradient ascent is the safety patch itself, and mismatch training and DeRTa have no
    # pairs. The stages have six and four jobs, the baseline's three each; world, checks and summary
    # are of the whole.
    assert cells == [
        ("launch submit", "7", "2", "5"),
        ("launch submit --ablate", "9", "3", "6"),
        ("launch submit --continual", "19", "6", "13"),
    ]
    assert len(plan_continual(CONTINUAL, overrides).jobs()) == 19


def test_an_ablation_counts_a_model_once(tmp_path: Path) -> None:
    """The chosen merge is in each of the five curves, and one of the seeds."""
    recipe = load_recipe(DEMO, [f"output={tmp_path}", "merge.retention=0.6"], Recipe)
    chosen = recipe.merge
    assert (chosen.method, chosen.score, chosen.retention) == ("difference", "weight", 0.6)
    top_rates = len({min(1, f * chosen.top_safety) for f in (0.25, 0.5, 2, 4)})
    top_rates += len({min(1, f * chosen.top_over_safety) for f in (0.25, 0.5, 2, 4)})
    retentions, scales, seeds = 4, 2 * 6, 4
    others = [
        *("backbone", "chosen", "dense", "delta", "magnitude", "intersection", "safety"),
        *("over_safety", "task_arithmetic", "ties", "dare", "linear", "mismatch", "npo", "derta"),
    ]
    expected = len(others) + top_rates + retentions + scales + seeds
    assert ablation_models(recipe) == expected
