"""The baselines that a training makes of the backbone, as rows of a run's own report (issue 17).

``launch ablate`` asks the same models for its table; here they are evaluated as the patched model
is, set by set and on MT-Bench. Their patches lie where an ablation's do. On a cluster, where they
are trained side by side, they stay there until the merge, so that an ablation finds them; else each
is deleted after use.
"""

import logging
import shutil
from pathlib import Path

from eval.decoding_settings import ExpertMixture
from eval.settings import parse_decoding
from launch.ablation.patches import AblationPatches
from launch.ablation.variants import WholePatch, baselines
from launch.recipe import Recipe
from launch.run.comparisons import is_evaluated, whole_patch
from launch.run.evaluations import Evaluations
from launch.run.folder import COMPARISONS, compared_model, is_merged
from merge.build import build
from merge.common.errors import UserError
from merge.common.files import make_directory
from merge.engine.resources import MergeResources

logger = logging.getLogger(__name__)

_SAFETY = "safety"
_KEPT = ("completions.jsonl", "judgements.jsonl", "mt_bench_*.jsonl")
"""What of an evaluation is known by the model's hash, and serves another of the same weights."""


def trained_baselines(recipe: Recipe) -> dict[str, WholePatch]:
    """By name the baselines that a run trains for its report; none unless the recipe asks.

    Raises:
        UserError: a baseline's training has wrong settings.
    """
    if recipe.eval is None or not recipe.eval.baselines:
        return {}
    rows = baselines(recipe)
    return {row.name: row.model for row in rows if isinstance(row.model, WholePatch)}


def keeps_patches(recipe: Recipe) -> bool:
    """Whether the trained patches stay until the merge."""
    return recipe.cluster is not None or recipe.keep_intermediates


def are_evaluated(recipe: Recipe) -> bool:
    """Whether all are, or what they are trained on went with the patches after the merge."""
    if is_merged(recipe.output) and not (recipe.output / "over_safety" / "patch.json").is_file():
        return True
    return not _pending(recipe)


def _pending(recipe: Recipe) -> dict[str, WholePatch]:
    """The baselines that are not evaluated, or are the expert of a decoding that is not."""
    wanted = {
        made for name, made in _experts(recipe).items() if not is_evaluated(recipe.output, name)
    }
    return {
        name: patch
        for name, patch in trained_baselines(recipe).items()
        if name in wanted or not is_evaluated(recipe.output, name)
    }


def check_experts(recipe: Recipe) -> None:
    """See that a decoding's expert, where the run makes it, is made.

    Raises:
        UserError: it is none of the baselines that the run trains.
    """
    made = sorted(trained_baselines(recipe))
    for name, expert in _experts(recipe).items():
        if expert not in made:
            raise UserError(
                f"eval.decodings.{name}.expert {recipe.output / COMPARISONS / expert}: the run "
                f"makes no such model; set eval.baselines: true and name one of "
                f"{', '.join(made) or 'ablate.baselines'}, which needs harmless pairs and refusals "
                "where its objective learns them"
            )


def _experts(recipe: Recipe) -> dict[str, str]:
    """By decoding the model of this run that is its expert."""
    found = {}
    for name, values in (recipe.eval.decodings if recipe.eval else {}).items():
        settings = parse_decoding(values, f"eval.decodings.{name}")
        if isinstance(settings, ExpertMixture):
            made = compared_model(recipe.output, settings.expert)
            found |= {} if made is None else {name: made}
    return found


def evaluate_baselines(recipe: Recipe, backbone: Path) -> None:
    """Train, evaluate and delete every baseline that has no evaluation yet.

    A decoding whose expert is one of these models answers while that model is there.

    Raises:
        UserError: one cannot be trained or evaluated.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    evaluations, patches = Evaluations(recipe, backbone), AblationPatches(recipe, backbone)
    for name, patch in _pending(recipe).items():
        directory = patches.directory(patch)
        model = recipe.output / COMPARISONS / name
        if model.exists():
            shutil.rmtree(model)
        make_directory(model.parent)
        settings = whole_patch("safety")
        # Of a method that takes one patch alone the other may be any.
        build(
            backbone, directory, directory, model, settings, MergeResources(), recipe=recipe.sha256
        )
        if patch.name == _SAFETY:
            _take_answers(recipe.output / "eval" / _SAFETY, recipe.output / "eval" / name)
        evaluations.evaluate_decodings(expert=name)
        evaluations.evaluate(name, model)
        shutil.rmtree(model)
        if patch.name != _SAFETY and not keeps_patches(recipe):
            shutil.rmtree(directory.parent)


def _take_answers(source: Path, target: Path) -> None:
    """Start from the answers of a model of the same weights; they are known by its hash."""
    if target.exists() or not source.is_dir():
        return
    logger.info("evaluation: %s has the answers of %s", target.name, source.name)
    make_directory(target)
    for pattern in _KEPT:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
