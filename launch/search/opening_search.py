"""A search by the margins of one set of openings: trials, fits, and answers of the best (issue 14).

Where the answers of a merge show that it refuses in other ways than the backbone, these margins
mislead: the search then ends without a result, to begin again with more openings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from eval.answering.ask import chat_prompts
from eval.answering.completions import FILE_NAME, read_completions
from eval.rates import Evaluation
from launch.search.choice import Outcome, Trial, badness
from launch.search.finalists import Known, next_finalist
from launch.search.fit.fitting import FitRecord
from launch.search.fit.margin_fit import can_be_fitted, fit_merge, predict
from launch.search.fit.prediction import PredictionRecord
from launch.search.margins.first_words import check_first_words
from launch.search.margins.margin_model import TEMPERATURE, MarginModel
from launch.search.margins.merged_openings import learn_from_merge
from launch.search.settings import SearchMethod
from launch.search.storage import Trials
from launch.search.trial_model import TrialModel, evaluated_outcome
from merge.common.progress import Progress
from merge.settings import MergeSettings
from train.guards.openings_file import OPENINGS_FILE

BACKBONE = "backbone"
"""Folder of the backbone's answers to the validation prompts, in that of the search."""
MARGINS = "margins"
"""What the names of all kinds of trials by margins have in them."""
OWN, MERGED = f"{MARGINS} at {TEMPERATURE}", f"merged {MARGINS} at {TEMPERATURE}"
"""Trials by the backbone's own openings, and by those of a merge as well."""

DoTrials = Callable[[MarginModel, SearchMethod, Trials], list[Trial]]
"""Does all trials of a method and gives them back, in their order."""


class OpeningsRecord(TypedDict):
    """The openings by which the margins were measured."""

    tokens: Sequence[Sequence[int]]
    """The token ids of each."""
    from_merge: bool
    """Whether those of a merge are among them."""


class MarginRecord(TypedDict, total=False):
    """What search.json says of the margins, where they were asked."""

    calibration: dict[str, float] | None
    """See ``launch.search.margins.calibration``; None without refusals to learn it from."""
    openings: OpeningsRecord
    first_words: dict[str, float] | None
    """How well the first words alone tell both axes apart; see ``eval.suites.form_check``."""
    prediction: PredictionRecord
    fit: dict[str, FitRecord]
    """By method, where scales were fitted."""


@dataclass
class SearchResult:
    """The outcome of a search.

    Attributes:
        before: the backbone's rates, by its answers.
        answered: by method the merges that were asked for answers, with their rates.
        estimated: by method all other merges, with rates that are estimates from margins.
        record: what search.json says of the margins.
    """

    before: Outcome
    answered: dict[SearchMethod, list[Trial]] = field(default_factory=dict)
    estimated: dict[SearchMethod, list[Trial]] = field(default_factory=dict)
    record: MarginRecord = field(default_factory=MarginRecord)


@dataclass(frozen=True)
class OpeningSearch:
    """A search by the margins of one set of openings.

    Attributes:
        model: measures margins.
        answering: the same model, asked for answers.
        folder: of the search.
        do_trials: does the trials of a method.
        seed: of the trials.
        kind: of the margins, and of the trials by these: ``OWN``, or ``MERGED``
            where the openings of a merge are among those of the backbone.
    """

    model: MarginModel
    answering: TrialModel
    folder: Path
    do_trials: DoTrials
    seed: int
    kind: str

    def run(self) -> SearchResult | None:
        """Search all methods.

        Returns:
            ``None`` where a merge refuses in other ways: the openings are learned again, and the
            search must begin again by these.
        """
        model, search = self.model, self.answering.search
        assert model.calibration is not None
        result = SearchResult(self.answering.before)
        result.record["calibration"] = vars(model.calibration)
        result.record["openings"] = {
            "tokens": model.openings.tokens,
            "from_merge": self.kind == MERGED,
        }
        result.record["first_words"] = check_first_words(model)
        for method in search.methods:
            answers, most = self._trials(method, "answers"), search.answered
            answers.ask_again()
            tried = self.do_trials(model, method, self._trials(method, self.kind))
            if can_be_fitted(method, model, search):
                bases = self._by_estimate(tried)[: search.fit_starts]
                if method == search.methods[0]:
                    first, most = bases[0][0], most + 1
                    # A fit takes longer than these answers, and is in vain by wrong openings.
                    if not answers.done() and self._ask(first, answers) is None:
                        return None
                    result.record["prediction"] = predict(model, first, search, self.folder)
                fits = [fit_merge(model, base, search, self.folder) for base, _ in bases]
                fit = min(fits, key=lambda each: each.best.loss)
                tried = [*(pair for each in fits for pair in each.tried), *tried]
                result.record.setdefault("fit", {})[method] = fit.as_dict()
            result.estimated[method] = tried
            answered = self._answered(tried, answers, most)
            if answered is None:
                return None
            result.answered[method] = answered
        return result

    def _by_estimate(self, tried: list[Trial]) -> list[Trial]:
        """Merges by their estimated rates, the best first."""
        before, search = self.model.before, self.answering.search
        return sorted(tried, key=lambda pair: badness(before, pair[1], search))

    def _trials(self, method: SearchMethod, asked: str) -> Trials:
        return Trials(self.folder, f"{method}.{asked}", self.answering.search, self.seed)

    def _answered(self, tried: list[Trial], answers: Trials, most: int) -> list[Trial] | None:
        """Ask the best few for answers, one after the other; those that are done have answered.

        Args:
            most: number of merges that answer in all.

        Returns:
            ``None`` where the openings were learned again.
        """
        search = self.answering.search
        backbone = Known(self.model.before, self.answering.before)
        known = [
            Known(self._estimate(merge, tried), outcome)
            for merge, outcome in answers.done().values()
        ]
        with Progress("answers of the best merges", most, "merges", len(known)) as progress:
            while len(known) < most:
                chosen = next_finalist(tried, backbone, known, search)
                if chosen is None:
                    break
                settings, estimate = chosen
                outcome = self._ask(settings, answers)
                if outcome is None:
                    return None
                known.append(Known(estimate, outcome))
                progress.advance()
        return list(answers.done().values())

    def _ask(self, settings: MergeSettings, answers: Trials) -> Outcome | None:
        """The rates by a merge's answers, which are kept.

        Returns:
            ``None`` where the openings were learned again of them.
        """
        trial = answers.begin()
        evaluation = self.answering.evaluation(settings)
        outcome = evaluated_outcome(evaluation)
        learned = self.kind == OWN and self._learn(evaluation)
        answers.tell(trial, settings, outcome, self.answering.before)
        return None if learned else outcome

    def _learn(self, evaluation: Evaluation) -> bool:
        """Learn openings from a merge's answers, where those that are known miss its refusals."""
        in_memory = self.model.in_memory
        return learn_from_merge(
            chat_prompts(in_memory.tokenizer, in_memory.chat),
            self.model.openings,
            read_completions(self.folder / BACKBONE / FILE_NAME),
            [completion.as_dict() for completion in evaluation.completions],
            self.folder / OPENINGS_FILE,
        )

    def _estimate(self, merge: MergeSettings, tried: list[Trial]) -> Outcome:
        known = next((outcome for settings, outcome in tried if settings == merge), None)
        return self.model.outcome(merge) if known is None else known
