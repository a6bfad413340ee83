"""The model that a search tries its merges on: what comes of each on the validation prompts."""

from dataclasses import dataclass
from pathlib import Path

from eval.harness import DEFAULT_BATCH_TOKENS
from eval.models import load_model, load_tokenizer, resolve_dtype
from eval.prompts import load_prompts
from eval.statistics import Rate
from eval.suite import load_suite
from launch.borrowed_model import BorrowedModel
from launch.choice import Outcome
from launch.recipe import Recipe
from merge.in_memory import LoadedInputs
from merge.recipe import MergeSettings


@dataclass(frozen=True)
class TrialModel:
    """A loaded model, and the outcome of its backbone.

    Attributes:
        before: what every merge is compared with.
    """

    model: BorrowedModel
    before: Outcome

    @classmethod
    def load(cls, recipe: Recipe, backbone: Path) -> "TrialModel":
        """Load model and patches of a run, and ask the backbone.

        Raises:
            UserError: an input is missing or wrong.
        """
        search, evaluation = recipe.search, recipe.eval
        assert search is not None
        model = BorrowedModel(
            load_model(backbone, resolve_dtype(evaluation.dtype if evaluation else "auto")),
            load_tokenizer(backbone),
            LoadedInputs.read(
                backbone, recipe.output / "safety", recipe.output / "over_safety", recipe.merge
            ),
            load_prompts(load_suite(search.suite, evaluation.data_dir if evaluation else None)),
            evaluation.batch_tokens if evaluation else DEFAULT_BATCH_TOKENS,
        )
        return cls(model, _outcome(model.rates(None)))

    def outcome(self, settings: MergeSettings) -> Outcome:
        """Merge, ask every prompt, and count."""
        return _outcome(self.model.rates(settings))


def _outcome(rates: dict[str, Rate]) -> Outcome:
    return Outcome(**{axis: rate.value for axis, rate in rates.items()})
