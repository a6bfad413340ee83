"""The trials of a search on disk: optuna's storage, in one file.

A search that was stopped goes on from it as if it had not been. Several processes may share it: one
claims a trial under a lock, so that as many are begun as there should be, and each once.
On one machine the locks are the system's own: they end with the process that holds them, also with
`kill -9`. Between nodes these may say nothing, as many a shared filesystem keeps them on each node
alone: there a file that is made anew is the lock, which every such filesystem makes but once. What
a killed process has left locked so is taken after half a minute.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState

from launch.search.choice import Outcome, Trial, violation
from launch.search.settings import SearchSettings
from launch.search.space import DIRECTIONS, new_sampler
from merge.common.errors import UserError
from merge.common.json_lines import drop_torn_line
from merge.settings import MergeSettings

Draw = Callable[[optuna.Trial], MergeSettings]
"""Draws the settings of a trial."""

FILE = "trials.jsonl"
_LOCKS = f"{FILE}.lock", "claims.lock"
"""Lock files between processes of one machine: for the trials, and for claims."""
_LOCKS_BETWEEN_NODES = f"{FILE}.nodes", "claims.nodes"
_WORKER = "worker"
"""What a trial is marked with by the worker that has claimed it."""
_DRAWN = "drawn"
"""What a trial is marked with when all of its settings are drawn."""
_SEED_STEP = 10_000
"""Between the seeds of two searches, more than trials in one."""


class _Lock(Protocol):
    def acquire(self) -> bool: ...

    def release(self) -> None: ...


class _NoLock:
    """For one process alone."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return


class _FileLock:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise UserError(
                f"{self._path.parent}: its filesystem has no file locks ({error.strerror}), which "
                "several workers need; set search.workers to 1, or choose another output"
            ) from None
        return True

    def release(self) -> None:
        os.close(self._descriptor)


class _WholeLinesLock:
    """A lock to append to a file, whose last line is then a whole one.

    What is appended to half a line, as a full disk or the fall of a machine leaves it, would make
    optuna refuse the file with all that is in it.
    """

    def __init__(self, lock: _Lock, file: Path) -> None:
        self._lock = lock
        self._file = file

    def acquire(self) -> bool:
        self._lock.acquire()
        drop_torn_line(self._file)
        return True

    def release(self) -> None:
        self._lock.release()


class Trials:
    """Merges of one kind that a search tries, such as those of one method.

    Args:
        folder: the search's; all trials are in one file there.
        kind: name of the kind, which no other one of the folder has.
        settings: of the search.
        seed: of the drawing. A trial's random numbers depend on how many were begun before it, not
            on who claims it.
        shared: others work on the same trials; one process alone needs no locks.
        worker: the number of this process, where others are on other nodes; None where all are on
            this machine.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        settings: SearchSettings,
        seed: int,
        shared: bool = False,
        worker: int | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._settings = settings
        self._seed = seed
        self._worker = worker
        file = folder / FILE
        names = _LOCKS if worker is None else _LOCKS_BETWEEN_NODES
        lock, self._claims = (_lock(folder / name, shared, worker is not None) for name in names)
        with self._claiming():
            self._study = optuna.create_study(
                study_name=kind,
                storage=_storage(file, _WholeLinesLock(lock, file)),
                directions=DIRECTIONS,
                load_if_exists=True,
            )

    def claim(self, draw: Draw) -> tuple[optuna.Trial, MergeSettings] | None:
        """A trial to do, with its settings, or ``None`` when all are begun.

        Args:
            draw: draws the settings.
        """
        with self._claiming():
            known = self._study.get_trials(deepcopy=False)
            begun = [t for t in known if t.state in (TrialState.COMPLETE, TrialState.RUNNING)]
            if len(begun) >= self._settings.trials:
                return None
            seed = self._seed * _SEED_STEP + len(begun)
            self._study.sampler = new_sampler(self._settings, seed)
            trial = self._study.ask()
            if self._worker is not None:
                trial.set_user_attr(_WORKER, self._worker)
            drawn = trial, draw(trial)
            trial.set_user_attr(_DRAWN, True)
            return drawn

    def begin(self) -> optuna.Trial:
        """A trial whose settings are not drawn."""
        with self._claiming():
            return self._study.ask()

    def tell(
        self, trial: optuna.Trial, settings: MergeSettings, outcome: Outcome, before: Outcome
    ) -> None:
        """Record what came of a claimed trial; on disk when this returns."""
        trial.set_user_attr("settings", settings.model_dump(mode="json"))
        trial.set_user_attr("outcome", outcome.as_dict())
        trial.set_constraint("margins", violation(before, outcome, self._settings))
        self._study.tell(trial, [outcome.harmful_rate, outcome.refusal_rate])

    def done(self) -> dict[int, Trial]:
        """The trials that are done, by number: the order in which they were begun, with gaps."""
        return {
            trial.number: (
                MergeSettings(**trial.user_attrs["settings"]),
                Outcome(**trial.user_attrs["outcome"]),
            )
            for trial in self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        }

    def ask_again(self) -> None:
        """Give back the trials that are begun and not done: those that an earlier start of this
        worker had claimed, or all of them where no process is on another node.

        Only while no process works on any of these.
        """
        with self._claiming():
            for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                if self._worker is not None and trial.user_attrs.get(_WORKER) != self._worker:
                    continue
                self._study.tell(trial.number, state=TrialState.FAIL)
                # Half a draw is drawn anew; with some of its values given the rest would differ.
                if trial.user_attrs.get(_DRAWN):
                    self._study.enqueue_trial(trial.params)

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[None]:
        self._claims.acquire()
        try:
            yield
        finally:
            self._claims.release()


def seconds_of_trials(folder: Path) -> dict[str, list[float]]:
    """How long each trial took, by kind, in a search's folder (issue 15)."""
    if not (folder / FILE).is_file():
        return {}
    storage = _storage(folder / FILE, _NoLock())
    seconds = {}
    for kind in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=kind, storage=storage)
        done = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        seconds[kind] = [trial.duration.total_seconds() for trial in done if trial.duration]
    return seconds


def _storage(file: Path, lock: _Lock) -> optuna.storages.JournalStorage:
    # Any object that locks will do; optuna exports its locks' base class nowhere.
    backend = JournalFileBackend(str(file), lock_obj=lock)  # pyright: ignore[reportArgumentType]
    return optuna.storages.JournalStorage(backend)


def _lock(path: Path, shared: bool, between_nodes: bool) -> _Lock:
    if between_nodes:
        return JournalFileOpenLock(str(path))
    return _FileLock(path) if shared else _NoLock()
