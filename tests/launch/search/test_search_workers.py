"""Workers that share a search: every trial once, none lost when one of them or all are killed."""

import fcntl
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from launch.recipe import Recipe
from launch.search import workers
from launch.search.choice import Outcome, choose
from launch.search.search import search
from launch.search.settings import SearchSettings
from launch.search.space import suggest
from launch.search.storage import FILE, Trials
from launch.search.trial_model import TrialModel
from launch.search.workers import search_together
from merge.common.errors import UserError
from merge.settings import MergeSettings
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

TRIALS = 12


def shared_recipe(folder: Path, **changes: Any) -> Recipe:
    settings = {
        "suite": str(folder / "suite.yaml"), "utility_margin": 1, "degenerate_margin": 1,
        "trials": TRIALS, "workers": 2, "methods": ["difference", "dense"], **changes,
    }  # fmt: skip
    return load_recipe(make_run(folder, search=settings), [], Recipe)


def draw(trial: optuna.Trial) -> MergeSettings:
    """The settings of a trial of a method with masks; of two layers."""
    settings = SearchSettings(suite=Path("suite.yaml"))
    return suggest(trial, "difference", settings, MergeSettings(), ["layers.0", "layers.1"])


def test_workers_are_dealt_to_the_gpus_in_turn(tmp_path, monkeypatch):
    """And the models of judges, which go to the current GPU. Without GPUs they share the cores,
    and the model goes where it goes by default."""
    recipe = shared_recipe(tmp_path, workers=3)
    assert recipe.search is not None
    devices = []
    monkeypatch.setattr(
        TrialModel, "load", lambda recipe, backbone, device=None: devices.append(device)
    )
    for gpus in (2, 0):
        monkeypatch.setattr("torch.cuda.device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr("torch.cuda.set_device", devices.append)
        monkeypatch.setattr("torch.set_num_threads", devices.append)
        for rank in range(3):
            workers._load(rank, recipe, recipe.search, tmp_path / "backbone")
    cores = max(1, len(os.sched_getaffinity(0)) // 3)
    assert devices == [0, "cuda:0", 1, "cuda:1", 0, "cuda:0", *[cores, None] * 3]


def journal(folder: Path) -> list[dict[str, Any]]:
    file = folder / FILE
    text = file.read_text() if file.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def finished(folder: Path) -> int:
    """How many trials optuna's own file says are complete (state 1 of its operation 6)."""
    return sum(row["op_code"] == 6 and row["state"] == 1 for row in journal(folder))


@pytest.mark.slow
def test_two_workers_do_every_trial_once_although_one_is_killed(tmp_path):
    """Rates against this process's own model; the choice against the rule over all trials."""
    recipe = shared_recipe(tmp_path)
    folder = tmp_path / "search"
    result: dict[str, Any] = {}

    def run() -> None:
        result["chosen"] = search(recipe, tmp_path / "backbone", folder)

    running = threading.Thread(target=run)
    running.start()
    while finished(folder) < 3:
        time.sleep(0.01)
        assert running.is_alive()
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    os.kill(workers[0].pid or 0, signal.SIGKILL)
    running.join()
    record = json.loads((folder / "search.json").read_text())
    trials = record["trials"]
    assert len(trials) == 2 * TRIALS == finished(folder)
    assert len({json.dumps(trial["settings"]) for trial in trials}) == 2 * TRIALS
    model = TrialModel.load(recipe, tmp_path / "backbone")
    assert record["backbone"] == model.before.as_dict()
    assert recipe.search is not None
    for method in ("difference", "dense"):
        tried = []
        for trial in trials:
            settings = MergeSettings(**trial["settings"])
            if settings.method == method:
                tried.append((settings, model.outcome(settings, [])))
                assert tried[-1][1].rates() == {axis: trial[axis] for axis in tried[-1][1].rates()}
        assert result["chosen"][method] == choose(model.before, tried, recipe.search)


@pytest.mark.slow
def test_a_search_whose_workers_all_died_goes_on(tmp_path):
    """What was begun is asked again with the same settings, and what is done is not."""
    recipe = shared_recipe(tmp_path, methods=["difference"])
    assert recipe.search is not None
    folder = tmp_path / "search"
    folder.mkdir()
    trials = Trials(folder, "difference", recipe.search, recipe.seed, shared=True)
    before = Outcome(0.5, 0.5, 0.5, 0)
    known = {}
    for number in range(3):
        claimed = trials.claim(draw)
        assert claimed is not None
        known[number] = (claimed[1], Outcome(number / 10, 0.25, 0.5, 0))
        trials.tell(claimed[0], claimed[1], known[number][1], before)
    begun = [trials.claim(draw) for _ in range(2)]
    (folder / FILE).open("a").write('{"op_code": 4, "worker')
    seen: list[int] = []
    _, tried = search_together(
        recipe,
        recipe.search,
        tmp_path / "backbone",
        folder,
        lambda m, number, o: seen.append(number),
    )
    trials = dict(tried["difference"])  # pyright: ignore[reportArgumentType]
    assert len(trials) == len(seen) == len(set(seen)) == TRIALS
    assert tried["difference"][:3] == list(known.values())
    for claimed in begun:
        assert claimed is not None and claimed[1] in trials


def test_claims_are_never_more_than_trials(tmp_path):
    """From four threads with handles of their own, as from four processes."""
    recipe = shared_recipe(tmp_path)
    settings = recipe.search
    assert settings is not None
    claims: list[MergeSettings] = []
    outcome = Outcome(0.5, 0.5, 0.5, 0)

    def work() -> None:
        trials = Trials(tmp_path, "difference", settings, recipe.seed, shared=True)
        while (claimed := trials.claim(draw)) is not None:
            claims.append(claimed[1])
            trials.tell(claimed[0], claimed[1], outcome, outcome)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == TRIALS
    assert len({settings.model_dump_json() for settings in claims}) == TRIALS


def do_trials(trials: Trials, count: int) -> None:
    """So many trials that all come to the same."""
    outcome = Outcome(0.5, 0.5, 0.5, 0)
    for _ in range(count):
        claimed = trials.claim(draw)
        assert claimed is not None
        trials.tell(*claimed, outcome, outcome)


def test_half_a_line_costs_no_other_workers_trials(tmp_path):
    """As a full disk or a node that fell leaves it, while others go on."""
    recipe = shared_recipe(tmp_path)

    def worker(number: int) -> Trials:
        assert recipe.search is not None
        return Trials(tmp_path, "difference", recipe.search, recipe.seed, True, number)

    others = worker(0)
    do_trials(others, 2)
    with (tmp_path / FILE).open("a") as lines:
        lines.write('{"op_code": 8, "wor')
    do_trials(others, 1)
    do_trials(worker(1), 1)
    assert len(worker(2).done()) == 4
    assert len(journal(tmp_path)) == (tmp_path / FILE).read_text().count("\n")


def test_a_worker_takes_back_its_own_trials_and_no_others(tmp_path, monkeypatch):
    """Between nodes, whose filesystem need not know a lock of the system's; then the last process
    takes back all."""
    recipe = shared_recipe(tmp_path, trials=4)

    def trials(worker: int | None) -> Trials:
        assert recipe.search is not None
        return Trials(tmp_path, "difference", recipe.search, recipe.seed, True, worker)

    with monkeypatch.context() as between_nodes:
        between_nodes.setattr(fcntl, "flock", lambda *_: pytest.fail("a lock of one machine"))
        claims = {number: trials(number).claim(draw) for number in (0, 1)}
        again = trials(1)
        again.ask_again()
        claimed = again.claim(draw)
        assert claimed is not None and claims[1] is not None
        assert claimed[1] == claims[1][1] and claimed[0].number != claims[1][0].number
        again.tell(*claimed, Outcome(0.5, 0.5, 0.5, 0), Outcome(0.5, 0.5, 0.5, 0))
        do_trials(again, 2)
        assert again.claim(draw) is None, "the first worker's trial is begun"
    last = trials(None)
    last.ask_again()
    claimed = last.claim(draw)
    assert claimed is not None and claims[0] is not None and claimed[1] == claims[0][1]


@pytest.mark.slow
def test_one_process_ends_what_several_have_begun(tmp_path):
    """Also with ``workers: 1``: none of their trials is asked again."""
    recipe = shared_recipe(tmp_path, methods=["difference"], workers=1, trials=5)
    folder = tmp_path / "search"
    folder.mkdir()
    assert recipe.search is not None
    parts = (folder, "difference", recipe.search, recipe.seed)
    do_trials(Trials(*parts, shared=True, worker=0), 3)
    before = Trials(*parts).done()
    search(recipe, tmp_path / "backbone", folder)
    trials = json.loads((folder / "search.json").read_text())["trials"]
    assert len(trials) == 5
    assert [MergeSettings(**trial["settings"]) for trial in trials[:3]] == [
        settings for settings, _ in before.values()
    ]


@pytest.mark.slow
def test_a_workers_user_error_ends_the_search(tmp_path):
    recipe = shared_recipe(tmp_path)
    (tmp_path / "run" / "safety" / "patch.json").unlink()
    with pytest.raises(UserError, match="safety"):
        search(recipe, tmp_path / "backbone", tmp_path / "search")
    assert not (tmp_path / "search" / "search.json").exists()
    assert multiprocessing.active_children() == []
