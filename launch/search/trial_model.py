"""The model that a search tries its merges on: what comes of each on the validation prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eval.answering.ask import Answers
from eval.judges.judges import Judges
from eval.rates import Evaluation, summarize
from eval.statistics.rates import Rate
from eval.suites.prompts import PromptSet, load_prompts
from eval.suites.suite import load_suite
from launch.in_memory.hf_model import InMemoryModel
from launch.in_memory.vllm_model import VllmModel, answers_by_vllm
from launch.recipe import Recipe
from launch.search.choice import Outcome
from launch.search.screening import comparable, is_hopeless, split
from launch.search.settings import SearchSettings
from merge.in_memory import LoadedInputs
from merge.io.block_names import blocks_of
from merge.settings import MergeSettings
from train.recipe import ROLES


class MergedModel(Protocol):
    """A model in memory that takes on merge after merge.

    Attributes:
        covered: names of the tensors that a merge changes.
        prompt_sets: the validation prompts.
        judges: of the answers.
    """

    @property
    def covered(self) -> tuple[str, ...]: ...
    @property
    def prompt_sets(self) -> Sequence[PromptSet]: ...
    @property
    def judges(self) -> Judges: ...

    def load_merge(self, settings: MergeSettings | None) -> None:
        """Take the merged weights; None restores the backbone."""
        ...

    def answers(self, prompt_sets: Sequence[PromptSet]) -> Answers:
        """What the model says to some prompts, with the weights that it has."""
        ...


def load_in_memory_model(
    recipe: Recipe, backbone: Path, device: str | None = None
) -> InMemoryModel:
    """Load model, patches and validation prompts of a run, by transformers.

    Args:
        device: of the model; the first GPU by default, where there is one.

    Raises:
        UserError: an input is missing or wrong.
    """
    safety, over_safety = (recipe.output / role for role in ROLES)
    loaded = LoadedInputs.read(backbone, safety, over_safety, recipe.merge)
    return InMemoryModel.load(recipe, loaded, _validation_prompts(recipe), device)


def _validation_prompts(recipe: Recipe) -> list[PromptSet]:
    assert recipe.search is not None
    return load_prompts(load_suite(recipe.search.suite, recipe.evaluation.data_dir))


@dataclass(frozen=True)
class TrialModel:
    """A loaded model, and the outcome of its backbone.

    Attributes:
        before: what every merge is compared with.
    """

    model: MergedModel
    search: SearchSettings
    before: Outcome

    @classmethod
    def load(cls, recipe: Recipe, backbone: Path, device: str | None = None) -> "TrialModel":
        """Load model and patches of a run by the recipe's backend, and ask the backbone.

        Args:
            device: of a model of transformers; the first GPU by default, where there is one.

        Raises:
            UserError: an input is missing or wrong.
        """
        assert recipe.search is not None
        if answers_by_vllm(recipe):
            model = VllmModel.load(recipe, backbone, _validation_prompts(recipe))
        else:
            model = load_in_memory_model(recipe, backbone, device)
        return cls(model, recipe.search, evaluated_outcome(_evaluation(model, None)))

    @property
    def blocks(self) -> list[str]:
        """Names of the decoder blocks that the merges change, in order."""
        return blocks_of(self.model.covered)

    def outcome(self, settings: MergeSettings, kept: Sequence[Outcome]) -> Outcome:
        """Merge, ask, and count.

        Args:
            kept: the outcomes so far that keep the margins; see ``screening.is_hopeless``.
        """
        self.model.load_merge(settings)
        later, answers = self.model.prompt_sets, {}
        if kept and self.search.screen:
            first, later = split(self.model.prompt_sets, self.search.screen)
            answers = self.model.answers(first)
            rates = comparable(summarize(first, answers, self.model.judges).axes, later)
            if is_hopeless(rates, self.before, kept, self.search):
                return outcome_of({**self.before.rates(), **_values(rates)}, screened=True)
        answers |= self.model.answers(later)
        evaluation = summarize(self.model.prompt_sets, answers, self.model.judges)
        return evaluated_outcome(evaluation)

    def evaluation(self, settings: MergeSettings) -> Evaluation:
        """Merge, ask every prompt, and judge each answer."""
        return _evaluation(self.model, settings)


def _evaluation(model: MergedModel, settings: MergeSettings | None) -> Evaluation:
    model.load_merge(settings)
    return summarize(model.prompt_sets, model.answers(model.prompt_sets), model.judges)


def evaluated_outcome(evaluation: Evaluation) -> Outcome:
    """The outcome of a model whose answers are judged."""
    return outcome_of(_values(evaluation.axes))


def _values(rates: Mapping[str, Rate]) -> dict[str, float]:
    return {axis: rate.value for axis, rate in rates.items()}


def outcome_of(values: Mapping[str, float], screened: bool = False) -> Outcome:
    """The outcome of a model with these rates, by axis."""
    return Outcome(
        values["harmful_rate"],
        values["refusal_rate"],
        values["utility"],
        # Or a merge that reasons without end would pass: no harm, no refusals.
        values["degenerate_rate"] + values.get("unfinished_rate", 0.0),
        screened,
    )
