"""What every part of the method is worth: one run's ablation table, curves and spread over seeds.

It comes before the merge deletes the intermediates. Merges are made in memory, and every outcome is
kept at once: a killed ablation goes on with the next.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eval.settings import DEFAULTS
from launch.ablation.outcomes import OutcomeJournal
from launch.ablation.patches import AblationPatches
from launch.ablation.record import run_record, summarise, write_record
from launch.ablation.sensitivity import curves, retention_seeds
from launch.ablation.variants import Model, WholePatch, model_key, variants
from launch.recipe import Recipe
from launch.run.comparisons import chosen_settings
from launch.run.folder import ABLATION, ABLATION_RECORD
from merge.common.files import make_directory, read_json, sha256_json
from merge.common.progress import Progress
from merge.settings import MergeSettings
from train.backbone.folder import backbone_directory

logger = logging.getLogger(__name__)


def measure(recipe: Recipe) -> Path:
    """Evaluate every part, once the merge settings are chosen and before the merge deletes patches.

    Returns:
        The folder with ablation.json, ablation.md and sensitivity.svg.

    Raises:
        UserError: a patch cannot be trained, or an evaluation cannot be done.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    backbone, chosen = backbone_directory(recipe.backbone), chosen_settings(recipe)
    full = next(iter(chosen.values()))
    rows, lines = variants(recipe, chosen), curves(full)
    seeds = retention_seeds(full, recipe.ablate_settings().retention_seeds)
    folder = recipe.output / ABLATION
    make_directory(folder)
    patches = AblationPatches(recipe, backbone)
    evaluator = _Evaluator(recipe, backbone, patches, folder)
    points = [point.settings for line in lines.values() for point in line]
    evaluator.evaluate([*(row.model for row in rows), *points, *seeds])
    record = run_record(recipe, full, rows, lines, seeds, evaluator.outcome)
    write_record(folder, record)
    patches.close()
    return folder


def average(folder: Path, runs: Sequence[Path]) -> Path:
    """Summarise the ablations of runs that differ in their seed; returns the summary's folder."""
    records = [read_json(run / ABLATION / ABLATION_RECORD) for run in runs]
    make_directory(folder / ABLATION)
    write_record(folder / ABLATION, summarise(records))
    return folder / ABLATION


class _Evaluator:
    """Asks models the prompts of the recipe's evaluation, each model once."""

    def __init__(
        self, recipe: Recipe, backbone: Path, patches: AblationPatches, folder: Path
    ) -> None:
        from eval.answering.loading import resolve_dtype
        from eval.judges.judges import load_judges
        from eval.suites.prompts import load_prompts
        from eval.suites.suite import load_suite

        assert recipe.eval is not None
        self._recipe = recipe
        self._settings = recipe.evaluation
        self._judges = load_judges(self._settings)
        self._backbone = backbone
        self._patches = patches
        suite = load_suite(recipe.eval.suite, self._settings.data_dir)
        self._prompt_sets = load_prompts(suite)
        self._dtype = resolve_dtype(self._settings.dtype)
        asked = [
            (found.row.model_dump(mode="json"), [asdict(prompt) for prompt in found.prompts])
            for found in self._prompt_sets
        ]
        self._asked = {
            "prompts_sha256": sha256_json(asked),
            "dtype": self._dtype,
            **self._unusual(),
        }
        self._journal = OutcomeJournal(folder / "outcomes.jsonl")

    def _unusual(self) -> dict[str, Any]:
        """What else outcomes depend on, where it is not what it always was once."""
        chat = self._recipe.backbone.chat
        usual = DEFAULTS.model_copy(update={"reasoning": chat.reasoning, "date": chat.date})
        found, plain = (each.model_dump(mode="json") for each in (self._settings, usual))
        keys = ("reasoning", "date", "harm_judge", "refusal_judge")
        return {key: found[key] for key in keys if found[key] != plain[key]}

    def outcome(self, model: Model) -> dict[str, Any]:
        """What ``evaluate`` has found: rates by "axes", and of a baseline its "training"."""
        found = self._journal.find(self._key(model))
        assert found is not None
        return found

    def evaluate(self, models: Sequence[Model]) -> None:
        """Evaluate those of which nothing is known yet: merges in memory, then whole patches."""
        pending: list[Model] = []
        for model in models:
            if self._journal.find(self._key(model)) is None and model not in pending:
                pending.append(model)
        self._evaluate_merges([model for model in pending if not isinstance(model, WholePatch)])
        for model in pending:
            if isinstance(model, WholePatch):
                self._evaluate_whole(model)

    def _key(self, model: Model) -> dict[str, Any]:
        return {**model_key(model), **self._asked}

    def _evaluate_merges(self, merges: Sequence[MergeSettings | None]) -> None:
        if not merges:
            return
        from eval.answering.loading import load_model, load_tokenizer
        from launch.in_memory_model import BorrowedModel
        from merge.in_memory import LoadedInputs

        safety, over_safety = self._patches.run_patches()
        with Progress("ablation", len(merges), "merges") as progress:
            model = BorrowedModel(
                load_model(self._backbone, self._dtype),
                load_tokenizer(self._backbone),
                LoadedInputs.read(self._backbone, safety, over_safety, self._recipe.merge),
                self._prompt_sets,
                self._settings.batch_tokens,
                self._settings.chat,
                self._judges,
            )
            for settings in progress.over(merges):
                rates = model.rates(settings)
                axes = {axis: rate.as_dict() for axis, rate in rates.items()}
                self._journal.add(self._key(settings), {"axes": axes})

    def _evaluate_whole(self, patch: WholePatch) -> None:
        from eval.answering.loading import load_model, load_tokenizer
        from eval.rates import evaluate

        directory = self._patches.directory(patch)
        logger.info("ablation: evaluates %s alone", patch.name)
        model = load_model(self._patches.build(patch), self._dtype)
        tokenizer = load_tokenizer(self._backbone)
        how = (self._settings.batch_tokens, self._settings.chat, self._judges)
        found = evaluate(model, tokenizer, self._prompt_sets, *how)
        axes = {axis: rate.as_dict() for axis, rate in found.axes.items()}
        record = read_json(directory / "patch.json")
        training = {key: record.get(key) for key in ("steps", "stop_reason", "training_seconds")}
        self._journal.add(self._key(patch), {"axes": axes, "training": training})
