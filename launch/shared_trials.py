"""The trials of a search that several processes share: optuna's storage, in one file on disk.

A process claims a trial under a lock, so that as many are begun as there should be, and each once.
Both locks are the system's own: they end with the process that holds them, also with `kill -9`.
"""

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # exported nowhere else
from optuna.trial import TrialState

from launch.choice import Outcome, Tried, violation
from launch.recipe import SearchMethod, SearchSettings
from launch.search_space import DIRECTIONS, new_sampler, suggest
from merge.errors import UserError
from merge.files import atomic_write_text
from merge.recipe import MergeSettings

FILE, CLAIMS = "trials.jsonl", "claims.lock"
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

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class SharedTrials:
    """The trials of one method.

    Args:
        folder: the search's; the trials of all methods are in one file there.
        base: the recipe's settings of the merge, for what is not drawn.
        seed: of the drawing. A trial's random numbers depend on its number, not on who claims it.
    """

    def __init__(
        self,
        folder: Path,
        method: SearchMethod,
        settings: SearchSettings,
        base: MergeSettings,
        seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        file = folder / FILE
        self._method: SearchMethod = method
        self._settings = settings
        self._base = base
        self._seed = seed
        self._claims = _FileLock(folder / CLAIMS)
        backend = JournalFileBackend(str(file), lock_obj=_FileLock(folder / f"{FILE}.lock"))
        with self._claims:
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
        with self._claims:
            known = self._study.get_trials(deepcopy=False)
            begun = [t for t in known if t.state in (TrialState.COMPLETE, TrialState.RUNNING)]
            if len(begun) >= self._settings.trials:
                return None
            seed = self._seed * _SEED_STEP + len(known)
            self._study.sampler = new_sampler(self._settings, seed)
            trial = self._study.ask()
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
        """Give back the trials that are begun and not done; only while no process works on any."""
        for trial in self._study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)


def drop_half_line(folder: Path) -> None:
    """Take off what a fall of the whole machine left of a last line; nobody may be writing."""
    file = folder / FILE
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if not text.endswith("\n") and text:
        atomic_write_text(file, text[: text.rfind("\n") + 1])
