"""Evaluates variants: one model in memory takes on each, and every outcome is kept at once."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.answering.loading import resolve_dtype
from eval.settings import DEFAULTS
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from launch.ablation.patches import AblationPatches
from launch.ablation.record_types import TrainingRecord, VariantOutcome, VariantRate
from launch.in_memory.hf_model import InMemoryModel
from launch.recipe import Recipe
from launch.run.variant import Model, WholePatch, model_key
from merge.common.files import read_json, sha256_json
from merge.common.json_lines import LineStore
from merge.common.progress import Progress
from merge.in_memory import LoadedInputs

logger = logging.getLogger(__name__)

OUTCOMES = "outcomes.jsonl"
"""In the folder of the ablation: an outcome by all that it depends on."""


class VariantEvaluator:
    """Asks variants the prompts of the recipe's evaluation, each variant once.

    Args:
        patches: finds the patches of the run and of its baselines, or trains them.
        folder: of the ablation; outcomes that are there are not asked for again.

    Raises:
        UserError: the suite or the file of outcomes cannot be read.
    """

    def __init__(
        self, recipe: Recipe, backbone: Path, patches: AblationPatches, folder: Path
    ) -> None:
        assert recipe.eval is not None
        self._recipe = recipe
        self._backbone = backbone
        self._patches = patches
        suite = load_suite(recipe.eval.suite, recipe.evaluation.data_dir)
        self._prompt_sets = load_prompts(suite)
        asked = [
            (each.row.model_dump(mode="json"), [asdict(prompt) for prompt in each.prompts])
            for each in self._prompt_sets
        ]
        self._asked = {
            "prompts_sha256": sha256_json(asked),
            "dtype": resolve_dtype(recipe.evaluation.dtype),
            **_unusual(recipe),
        }
        self._store = LineStore(folder / OUTCOMES)

    def outcome(self, model: Model) -> VariantOutcome:
        """The outcome of a variant that is evaluated."""
        return self._store.values[self._key(model)]

    def evaluate(self, models: Sequence[Model]) -> None:
        """Evaluate those whose outcome is not there: merges of the run, then whole patches.

        Raises:
            UserError: a patch cannot be trained or merged, or the model cannot be loaded.
            StoppedOnRequestError: a signal asked for it; finished outcomes stay.
        """
        pending: list[Model] = []
        for model in models:
            if self._key(model) not in self._store.values and model not in pending:
                pending.append(model)
        in_memory = None
        for variants, loaded in self._by_inputs(pending):
            if in_memory is None:
                in_memory = InMemoryModel.load(self._recipe, loaded, self._prompt_sets)
            else:
                in_memory.change_inputs(loaded)
            with Progress("ablation", len(variants), "models") as progress:
                for model in progress.over(variants):
                    self._store.add({self._key(model): self._evaluated(in_memory, model)})

    def _by_inputs(self, models: Sequence[Model]) -> Iterator[tuple[Sequence[Model], LoadedInputs]]:
        """The variants that are made of the same patches, with these; what is absent is trained."""
        merges = [model for model in models if not isinstance(model, WholePatch)]
        if merges:
            patches = self._patches.run_patches()
            yield merges, LoadedInputs.read(self._backbone, *patches, self._recipe.merge)
        for model in models:
            if isinstance(model, WholePatch):
                pair = self._patches.pair(model)
                logger.info("ablation: evaluates %s alone", model.name)
                loaded = LoadedInputs.read(self._backbone, *pair, model.merge, ranks=False)
                yield [model], loaded

    def _evaluated(self, in_memory: InMemoryModel, model: Model) -> VariantOutcome:
        rates = in_memory.rates(model.merge if isinstance(model, WholePatch) else model)
        outcome: VariantOutcome = {
            "axes": {
                axis: VariantRate(value=rate.value, low=rate.low, high=rate.high, n=rate.n)
                for axis, rate in rates.items()
            }
        }
        if isinstance(model, WholePatch):
            outcome["training"] = _training(self._patches.directory(model))
        return outcome

    def _key(self, model: Model) -> str:
        return json.dumps({**model_key(model), **self._asked}, sort_keys=True)


def _unusual(recipe: Recipe) -> dict[str, Any]:
    """What else outcomes depend on, where it is not what it always was once."""
    chat = recipe.backbone.chat
    usual = DEFAULTS.model_copy(update={"reasoning": chat.reasoning, "date": chat.date})
    own, plain = (each.model_dump(mode="json") for each in (recipe.evaluation, usual))
    keys = ("reasoning", "date", "harm_judge", "refusal_judge")
    return {key: own[key] for key in keys if own[key] != plain[key]}


def _training(patch: Path) -> TrainingRecord:
    record = read_json(patch / "patch.json")
    return {
        "steps": record.get("steps"),
        "stop_reason": record.get("stop_reason"),
        "training_seconds": record.get("training_seconds"),
    }
