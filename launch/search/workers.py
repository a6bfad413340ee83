"""A search by several processes: each loads the model and the patches, and tries what it claims.

They are processes of this machine, or jobs on the nodes of a cluster, after which a last process
does what these have left.

The trials are on disk (launch/search/storage.py), so any process may die at any time, this one too:
what it had begun is asked again. Which settings are tried depends on who is done when; so, unlike a
search by one process, this one does not repeat itself bit for bit.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from launch.recipe import Recipe
from launch.search.choice import Outcome, Trial
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.storage import Trials
from launch.search.trial_loop import do_trials
from launch.search.trial_model import TrialModel
from merge.common.errors import UserError
from merge.common.files import atomic_write_json, make_directory, read_json
from merge.common.progress import Progress

BACKBONE = "backbone.json"
_ROUNDS = 4
"""How often workers are started, when some of them die."""
_POLL_SECONDS = 0.5


def search_together(
    recipe: Recipe,
    search: SearchSettings,
    backbone: Path,
    folder: Path,
    on_trial: Callable[[SearchMethod, int, Outcome], None],
) -> tuple[Outcome, dict[SearchMethod, list[Trial]]]:
    """Do all trials of all methods in ``search.workers`` processes.

    On a machine with GPUs they are dealt to these in turn; without, they share its cores.

    Args:
        on_trial: called with method, number and outcome of each trial that is done.

    Returns:
        The outcome of the backbone, and the trials by method.

    Raises:
        UserError: an input is wrong, or workers die again and again; trials that are done stay.
    """
    shared = _shared_trials(recipe, search, folder)
    reported: set[tuple[SearchMethod, int]] = set()

    def report(advance: Callable[[], None]) -> None:
        for method, trials in shared.items():
            for number, (_, outcome) in trials.done().items():
                if (method, number) not in reported:
                    reported.add((method, number))
                    on_trial(method, number, outcome)
                    advance()

    with Progress("search", len(search.methods) * search.trials, "trials") as progress:
        for started in range(_ROUNDS + 1):
            for trials in shared.values():
                trials.ask_again()
            report(progress.advance if started else progress.skip)
            tried: dict[SearchMethod, list[Trial]]
            tried = {method: list(trials.done().values()) for method, trials in shared.items()}
            if all(len(done) >= search.trials for done in tried.values()):
                return Outcome(**read_json(folder / BACKBONE)), tried
            if started < _ROUNDS:
                _run_workers(recipe, search, backbone, folder, lambda: report(progress.advance))
    raise UserError(
        "processes of the search ended before their time again and again, often for want of "
        "memory; lower search.workers and run again: finished trials are kept"
    )


def _shared_trials(
    recipe: Recipe, search: SearchSettings, folder: Path, worker: int | None = None
) -> Mapping[SearchMethod, Trials]:
    return {
        method: Trials(folder, method, search, recipe.seed, shared=True, worker=worker)
        for method in search.methods
    }


def _run_workers(
    recipe: Recipe,
    search: SearchSettings,
    backbone: Path,
    folder: Path,
    report: Callable[[], None],
) -> None:
    """Start all workers and wait for their ends, good or bad.

    Raises:
        UserError: a worker has met one.
    """
    # CUDA does not survive a fork.
    context = multiprocessing.get_context("spawn")
    # Not a queue, whose lock Python's resource tracker counts: it complains when a signal ends all.
    errors, told = context.Pipe(duplex=False)
    processes = [
        context.Process(
            target=_work, args=(rank, recipe, search, backbone, folder, told), daemon=True
        )
        for rank in range(search.workers)
    ]
    try:
        for process in processes:
            process.start()
        running = list(processes)
        while running:
            connection.wait([process.sentinel for process in running], _POLL_SECONDS)
            running = [process for process in running if process.is_alive()]
            report()
            if errors.poll():
                raise UserError(errors.recv())
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def _work(
    rank: int,
    recipe: Recipe,
    search: SearchSettings,
    backbone: Path,
    folder: Path,
    told: Connection,
) -> None:
    """The whole life of a worker."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        model = _load(rank, recipe, search, backbone)
        atomic_write_json(folder / BACKBONE, model.before.as_dict())
        _try_all(model, recipe, _shared_trials(recipe, search, folder))
    except UserError as error:
        told.send(str(error))


def try_apart(recipe: Recipe, backbone: Path, folder: Path, worker: int) -> None:
    """Do trials beside the same work of other nodes, until all that there should be are begun.

    What an earlier start of this worker had begun is asked again; what others have begun is theirs.

    Args:
        worker: its number, which no other process has at the same time.

    Raises:
        UserError: an input is wrong.
    """
    search = recipe.search
    assert search is not None
    make_directory(folder)
    shared = _shared_trials(recipe, search, folder, worker)
    for trials in shared.values():
        trials.ask_again()
    model = TrialModel.load(recipe, backbone)
    atomic_write_json(folder / BACKBONE, model.before.as_dict())

    done = 0

    def newly_done() -> int:
        nonlocal done
        before, done = done, sum(len(trials.done()) for trials in shared.values())
        return done - before

    with Progress("search", len(search.methods) * search.trials, "trials") as progress:
        progress.skip(newly_done())
        _try_all(model, recipe, shared, lambda: progress.advance(newly_done()))


def _try_all(
    model: TrialModel,
    recipe: Recipe,
    shared: Mapping[SearchMethod, Trials],
    report: Callable[[], None] = lambda: None,
) -> None:
    """Claim and do trials until all are begun; ``report`` is called after each."""
    for method, trials in shared.items():
        do_trials(model, method, recipe, trials, lambda number, outcome: report())


def _load(rank: int, recipe: Recipe, search: SearchSettings, backbone: Path) -> TrialModel:
    gpus = torch.cuda.device_count()
    if gpus:
        # A judge's model asks for the current GPU.
        torch.cuda.set_device(rank % gpus)
        return TrialModel.load(recipe, backbone, f"cuda:{rank % gpus}")
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // search.workers))
    return TrialModel.load(recipe, backbone)


def _end_with_parent() -> None:
    """A worker without its parent would go on beside those of the next search."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
