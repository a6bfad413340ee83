"""No work on this machine beside a run's own jobs: both would train one patch into one folder."""

import logging
import time
from pathlib import Path

import pytest

from launch.pipeline.pipeline import Pipeline
from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.search.choice import Outcome
from launch.search.storage import Trials
from launch.search.trial_loop import search_method
from launch.slurm.queue.job_record import record_jobs, refuse_beside_jobs
from launch.slurm.status import run_states
from merge.common import progress
from merge.common.errors import UserError
from train.recipe import load_recipe


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Stands in for SLURM's command."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "squeue").write_text(f"#!/bin/sh\n{script}\n")
    (tools / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")


def test_a_run_whose_jobs_wait_or_run_is_refused(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    run = tmp_path / "run"
    recipe.write_text(f"{{name: x, output: {run}, backbone: {{path: b}}, data: {{path: d}}}}")
    record_jobs(run, {"safety": "31", "over_safety": "32", "merge": "33"})
    waiting = "echo '32|PENDING|Priority|0:00|'; echo '33|PENDING|Dependency|0:00|'"
    squeue(tmp_path, monkeypatch, f"{waiting}; echo '7|RUNNING|None|1:00|n1'")
    with pytest.raises(UserError, match=r"over_safety \(job 32\), merge \(job 33\).*launch cancel"):
        Pipeline(load_recipe(recipe, [], Recipe)).run()
    assert not (run / "recipe.yaml").exists()


def test_a_seed_of_an_array_is_refused_with_the_whole(tmp_path, monkeypatch):
    record_jobs(tmp_path / "seed-2", {"safety": "40_2"})
    squeue(tmp_path, monkeypatch, "echo '40_2|RUNNING|None|1:00|n1'")
    for folder in (tmp_path, tmp_path / "seed-2"):
        with pytest.raises(UserError, match=r"safety \(job 40_2\)"):
            refuse_beside_jobs(folder)
    refuse_beside_jobs(tmp_path / "seed-1")


@pytest.mark.parametrize("script", [None, "echo no controller >&2; exit 1"])
def test_where_slurm_does_not_answer_it_is_a_warning(tmp_path, monkeypatch, caplog, script):
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        squeue(tmp_path, monkeypatch, script)
    with caplog.at_level(logging.WARNING):
        refuse_beside_jobs(tmp_path / "never submitted")
        assert not caplog.records
        record_jobs(tmp_path, {"safety": "31"})
        refuse_beside_jobs(tmp_path)
    assert "cannot be asked whether its jobs are over" in caplog.text


def test_jobs_that_are_over_hold_nothing_back(tmp_path, monkeypatch, caplog):
    record_jobs(tmp_path, {"safety": "31"})
    squeue(tmp_path, monkeypatch, "echo '31|COMPLETED|None|1:00|n1'")
    refuse_beside_jobs(tmp_path)
    assert not caplog.records


def test_status_shows_how_far_a_search_is(tmp_path, monkeypatch, caplog):
    """In the very words that a step of the search writes into its log."""
    file, run = tmp_path / "recipe.yaml", tmp_path / "run"
    file.write_text(
        f"{{name: x, output: {run}, backbone: {{path: b}}, data: {{path: d}}, "
        "search: {suite: s.yaml, trials: 4}, eval: {suite: t.yaml}}"
    )
    recipe = load_recipe(file, [], Recipe)
    assert recipe.search is not None
    claim_folder(recipe)
    record_jobs(run, {"search": "5"})
    squeue(tmp_path, monkeypatch, "echo '5|RUNNING|None|1:00|n1'")
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    with caplog.at_level(logging.INFO):
        trials = Trials(tmp_path, "difference", recipe.search, recipe.seed)
        search_method(SlowTrials(), "difference", recipe, trials)
    (search,) = [state for state in _states(run, caplog.messages) if state.stage == "search"]
    assert search.state == "running"
    assert search.detail.startswith("1:00 on n1, search difference: 4 of 4 trials, ")
    assert search.detail.endswith(" left")


class SlowTrials:
    """Trials that all come to the same, each later than two lines of progress."""

    before, blocks = Outcome(0, 0, 0, 0), ["block.0"]

    def outcome(self, settings, kept):
        time.sleep(0.05)
        return self.before


def _states(run: Path, lines: list[str]) -> list:
    log = "\n".join(["== search: start 1 of job 5", *lines])
    (run / "jobs/search.log").write_text(log)
    return run_states(run)
