"""The baselines that a training makes of the backbone, as rows of a run's own report (issue 17).

``launch ablate`` asks the same models for its table; here they are evaluated as the patched model
is, set by set and on MT-Bench. Their patches lie where an ablation's do. On a cluster, where they
are trained side by side, they stay there until the merge, so that an ablation finds them; else each
is deleted after use.
"""

import shutil
from pathlib import Path

from eval.decoding_settings import ExpertMixture, parse_decoding
from launch.ablation.patches import AblationPatches
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations, take_answers
from launch.run.folder import COMPARISONS, compared_model, is_evaluated, is_merged
from launch.run.variant import Variant, WholePatch
from launch.run.variant_list import reported_baselines
from merge.common.errors import UserError

_SAFETY = "safety"


def keeps_patches(recipe: Recipe) -> bool:
    """Whether the trained patches stay until the merge."""
    return recipe.cluster is not None or recipe.keep_intermediates


def are_evaluated(recipe: Recipe) -> bool:
    """Whether all are, or what they are trained on went with the patches after the merge."""
    if is_merged(recipe.output) and not (recipe.output / "over_safety" / "patch.json").is_file():
        return True
    return not _pending(recipe)


def _pending(recipe: Recipe) -> list[Variant]:
    """The baselines that are not evaluated, or are the expert of a decoding that is not."""
    wanted = {
        made for name, made in _experts(recipe).items() if not is_evaluated(recipe.output, name)
    }
    return [
        row
        for row in reported_baselines(recipe)
        if row.name in wanted or not is_evaluated(recipe.output, row.name)
    ]


def check_experts(recipe: Recipe) -> None:
    """See that a decoding's expert, where the run makes it, is made.

    Raises:
        UserError: it is none of the baselines that the run trains.
    """
    made = sorted(row.name for row in reported_baselines(recipe))
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
    experts = {}
    for name, values in (recipe.eval.decodings if recipe.eval else {}).items():
        settings = parse_decoding(values, f"eval.decodings.{name}")
        if isinstance(settings, ExpertMixture):
            made = compared_model(recipe.output, settings.expert)
            experts |= {} if made is None else {name: made}
    return experts


def evaluate_baselines(recipe: Recipe, backbone: Path) -> None:
    """Train, evaluate and delete every baseline that has no evaluation yet.

    A decoding whose expert is one of these models answers while that model is there.

    Raises:
        UserError: one cannot be trained or evaluated.
        StoppedOnRequestError: a signal asked for it; what was finished before stays.
    """
    evaluations, patches = Evaluations(recipe, backbone), AblationPatches(recipe)
    for row in _pending(recipe):
        patch = row.model
        assert isinstance(patch, WholePatch)
        directory = patches.directory(patch)
        # This merge takes the one patch alone, so any patch may stand for the other.
        with evaluations.built(row, (directory, directory)) as model:
            if patch.name == _SAFETY:
                take_answers(recipe.output / "eval" / _SAFETY, recipe.output / "eval" / row.name)
            evaluations.evaluate_decodings(expert=row.name)
            evaluations.evaluate(row.name, model)
        if patch.name != _SAFETY and not keeps_patches(recipe):
            shutil.rmtree(directory.parent)
