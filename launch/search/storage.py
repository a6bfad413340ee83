"""The trials of a search that several processes share: optuna's storage, in one file on disk.

A process claims a trial under a lock, so that as many are begun as there should be, and each once.
On one machine the locks are the system's own: they end with the process that holds them, also with
`kill -9`. Between nodes these may say nothing, as many a shared filesystem keeps them on each node
alone: there a file that is made anew is the lock, which every such filesystem makes but once. What
a killed process has left locked so is taken after half a minute.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._file import BaseJournalFileLock  # exported nowhere else
from optuna.trial import TrialState

from launch.search.choice import Outcome, Tried, violation
from launch.search.settings import SearchMethod, SearchSettings
from launch.search.space import DIRECTIONS, new_sampler, suggest
from merge.common.errors import UserError
from merge.settings import MergeSettings

FILE = "trials.jsonl"
_LOCKS = f"{FILE}.lock", "claims.lock"
"""Lock files between processes of one machine: for the trials, and for claims."""
_LOCKS_BETWEEN_NODES = f"{FILE}.nodes", "claims.nodes"
_WORKER = "worker"
"""What a trial is marked with by the worker that has claimed it."""
_SEED_STEP = 10_000
"""Between the seeds of two searches, more than trials in one."""


class _FileLock(BaseJournalFileLock):
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


class _WholeLinesLock(BaseJournalFileLock):
    """A lock to append to a file, whose last line is then a whole one.

    What is appended to half a line, as a full disk or the fall of a machine leaves it, would make
    optuna refuse the file with all that is in it.
    """

    def __init__(self, lock: BaseJournalFileLock, file: Path) -> None:
        self._lock = lock
        self._file = file

    def acquire(self) -> bool:
        self._lock.acquire()
        drop_half_line(self._file)
        return True

    def release(self) -> None:
        self._lock.release()


class SharedTrials:
    """The trials of one method.

    Args:
        folder: the search's; the trials of all methods are in one file there.
        base: the recipe's settings of the merge, for what is not drawn.
        seed: of the drawing. A trial's random numbers depend on its number, not on who claims it.
        worker: the number of this process, where others are on other nodes; None where all are on
            this machine.
    """

    def __init__(
        self,
        folder: Path,
        method: SearchMethod,
        settings: SearchSettings,
        base: MergeSettings,
        seed: int,
        worker: int | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = folder / FILE
        self._method: SearchMethod = method
        self._settings = settings
        self._base = base
        self._seed = seed
        self._worker = worker
        names = _LOCKS if worker is None else _LOCKS_BETWEEN_NODES
        lock, self._claims = (_lock(folder / name, worker is not None) for name in names)
        backend = JournalFileBackend(str(file), lock_obj=_WholeLinesLock(lock, file))
        with self._claiming():
            self._study = optuna.create_study(
                study_name=method,
                storage=optuna.storages.JournalStorage(backend),
                directions=DIRECTIONS,
                load_if_exists=True,
            )

    def claim(self, blocks: Sequence[str]) -> tuple[optuna.Trial, MergeSettings] | None:
        """A trial to do, with its settings, or ``None`` when all are begun.

        Args:
            blocks: see ``suggest``.
        """
        with self._claiming():
            known = self._study.get_trials(deepcopy=False)
            begun = [t for t in known if t.state in (TrialState.COMPLETE, TrialState.RUNNING)]
            if len(begun) >= self._settings.trials:
                return None
            seed = self._seed * _SEED_STEP + len(known)
            self._study.sampler = new_sampler(self._settings, seed)
            trial = self._study.ask()
            if self._worker is not None:
                trial.set_user_attr(_WORKER, self._worker)
            return trial, suggest(trial, self._method, self._settings, self._base, blocks)

    def tell(
        self, trial: optuna.Trial, settings: MergeSettings, outcome: Outcome, before: Outcome
    ) -> None:
        """Record what came of a claimed trial; on disk when this returns."""
        trial.set_user_attr("settings", settings.model_dump(mode="json"))
        trial.set_user_attr("outcome", outcome.as_dict())
        trial.set_constraint("margins", violation(before, outcome, self._settings))
        self._study.tell(trial, [outcome.harmful_rate, outcome.refusal_rate])

    def done(self) -> dict[int, Tried]:
        """The trials that are done, by number: the order of their claims, with gaps."""
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
                if trial.params:
                    self._study.enqueue_trial(trial.params)

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[None]:
        self._claims.acquire()
        try:
            yield
        finally:
            self._claims.release()


def _lock(path: Path, between_nodes: bool) -> BaseJournalFileLock:
    return JournalFileOpenLock(str(path)) if between_nodes else _FileLock(path)


def drop_half_line(file: Path) -> None:
    """Take off what a full disk or the fall of a machine left of a last line; under the lock."""
    with file.open("rb+") as lines:
        size = end = lines.seek(0, os.SEEK_END)
        while end > 0:
            lines.seek(end - 1)
            if lines.read(1) == b"\n":
                break
            end -= 1
        if end < size:
            lines.truncate(end)
