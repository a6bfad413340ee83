"""What can be known before the first training, checked before it (issue 13).

`launch run` and `launch submit` refuse at the first fault; `launch plan` shows the same facts.
"""

import logging
from pathlib import Path
from typing import Any

from launch.ablation.baseline_models import check_experts, keeps_patches, trained_baselines
from launch.prepare.text_check import check_data, check_prompts
from launch.recipe import Recipe
from launch.sizing.training_needs import Model, patch_bytes
from merge.common.errors import UserError
from merge.common.files import free_bytes
from merge.engine.coverage import Coverage, cover, untrained_sentence
from merge.settings import MergeSettings
from train.backbone.attention import attention_implementation, computation_dtype
from train.backbone.block_weights import block_weights
from train.backbone.folder import backbone_directory
from train.backbone.tensors import BackboneTensors, open_backbone
from train.recipe import ROLES
from train.zero.ds_config import ds_config
from train.zero.ranks import World

logger = logging.getLogger(__name__)

_UNITS = ((1e9, "GB"), (1e6, "MB"))


def check_inputs(recipe: Recipe) -> None:
    """See that backbone, data, suites, judges and disk will do, and say what was found.

    A backbone on the hub is downloaded: compute nodes may not reach it.

    Raises:
        UserError: naming the first input that will not do, and the fix.
    """
    directory = backbone_directory(recipe.backbone)
    texts = check_data(recipe)
    check_trainings(recipe)
    check_experts(recipe)
    tensors = open_backbone(directory, recipe.backbone)
    facts = backbone_facts(recipe, tensors)
    check_prompts(recipe, directory, tensors.map.skeleton, texts)
    check_disk(recipe, Model.of(tensors.map.skeleton), _weight_bytes(directory))
    for fact in facts:
        logger.info("backbone: %s", fact)


def check_trainings(recipe: Recipe) -> None:
    """See that the DeepSpeed configuration of either training can be completed.

    Raises:
        UserError: a file cannot be read, or is not of the form that the trainings need.
    """
    for role in ROLES:
        ds_config(recipe.training(role), computation_dtype(recipe.backbone), World(0, 1, 0, 1))


def backbone_facts(recipe: Recipe, tensors: BackboneTensors) -> list[str]:
    """What the trainings and the merge will make of the backbone, a sentence each.

    Raises:
        UserError: the merge, or an ablation of it, would cover no tensor; a named attention is
            not there; or a copy of a tied parameter holds other values.
    """
    found = tensors.map
    covered = _coverage(found, recipe.merge, "merge")
    for name, changes in recipe.ablations.items():
        _coverage(found, MergeSettings(**{**recipe.merge.model_dump(), **changes}), name)
    attention = attention_implementation(recipe.backbone, found.skeleton)
    tensors.refuse_differing_copies()
    converted = sum(bool(group.patterns) for group in found.groups)
    trained = len(found.shapes) - len(covered.untrained)
    facts = [
        f"{trained} tensors in its files hold the {len(found.parameters)} parameters of "
        f"{type(found.skeleton).__name__}"
        + (f", {converted} of them after transformers' conversions" if converted else ""),
        covered.sentence(),
        f"attention: {attention or 'the default of its architecture'}",
    ]
    return facts + ([untrained_sentence(covered.untrained)] if covered.untrained else [])


def _coverage(found: Any, settings: MergeSettings, section: str) -> Coverage:
    trained = {name for group in found.groups for name in group.tensors} | found.copies.keys()
    linear = found.tensors_of(block_weights(found.skeleton))
    covered = cover(found.shapes, trained, linear, settings)
    if not covered.names:
        raise UserError(
            f"{section}: include and exclude leave no tensor to merge; give patterns that fit "
            f"names such as {', '.join(linear[:2] or sorted(trained)[:2])}, or leave include out"
        )
    return covered


def check_disk(recipe: Recipe, model: Model, weight_bytes: int) -> None:
    """See that patches and models will fit on the disk.

    Args:
        weight_bytes: of the backbone's files.

    Raises:
        UserError: they will not, with the figures.
    """
    free, needed = free_bytes(recipe.output), disk_bytes(recipe, model, weight_bytes)
    if needed > free:
        raise UserError(
            f"{recipe.output}: patches and models need {readable(needed)}, checkpoints apart, and "
            f"{readable(free)} are free; make room, or choose another output"
        )


def disk_bytes(recipe: Recipe, model: Model, weight_bytes: float) -> float:
    """Bytes that a run will write besides checkpoints: its patches, and models in full size."""
    patches = [role for role in ROLES if not (recipe.output / role / "patch.json").is_file()]
    trained = [each.name for each in trained_baselines(recipe).values() if each.name not in ROLES]
    patches += trained if keeps_patches(recipe) else trained[:1]
    compared = recipe.eval is not None and (recipe.eval.single_patches or recipe.ablations)
    models = 2 if compared or trained else 1
    return len(patches) * patch_bytes(model) + models * weight_bytes


def readable(count: float) -> str:
    """A number of bytes in the largest unit of which it has one."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
