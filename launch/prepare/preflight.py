"""What can be known before the first training, checked before it (issue 13).

`launch run` and `launch submit` refuse at the first fault; `launch plan` shows the same facts.
"""

import logging
from pathlib import Path
from typing import Any

from eval.answering.backends import check_backend
from launch.ablation.baseline_models import check_experts, keeps_patches
from launch.in_memory.vllm_model import answers_by_vllm, refuse_experts
from launch.prepare.text_check import check_data
from launch.prepare.token_check import check_prompts
from launch.recipe import Recipe
from launch.run.variant_list import compares, trained_baselines, warn_of_left_out
from merge.common.errors import UserError
from merge.common.files import free_bytes
from merge.engine.coverage import Coverage, cover, untrained_sentence
from merge.io.block_names import blocks_of
from merge.settings import MergeSettings
from train.backbone.attention import attention_implementation, computation_dtype
from train.backbone.block_weights import block_weights
from train.backbone.flops import ModelShape
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
    check_answering(recipe)
    directory = backbone_directory(recipe.backbone)
    texts = check_data(recipe)
    check_trainings(recipe)
    check_experts(recipe)
    if recipe.eval is not None and recipe.eval.baselines:
        warn_of_left_out(recipe)
    tensors = open_backbone(directory, recipe.backbone)
    facts = backbone_facts(recipe, tensors)
    check_prompts(recipe, directory, tensors.map.skeleton, texts)
    check_disk(recipe, _shape(tensors.map.skeleton), _weight_bytes(directory))
    for fact in facts:
        logger.info("backbone: %s", fact)


def check_answering(recipe: Recipe) -> None:
    """See that the backend that answers is installed, and can do what the recipe asks of it.

    Raises:
        UserError: it is not, or the recipe asks for decodings that it does not know.
    """
    settings = recipe.evaluation
    check_backend(settings.backend, is_decoded=bool(settings.decodings))


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
        UserError: the merge, or an ablation of it, would cover no tensor, or one that a search by
            vLLM cannot change, or fewer layers than the search wants groups of; a named attention
            is not there; or a copy of a tied parameter holds other values.
    """
    mapping = tensors.map
    covered = _coverage(mapping, recipe.merge, "merge")
    if answers_by_vllm(recipe):
        refuse_experts(covered.names)
    layers = len(blocks_of(covered.names))
    if recipe.search is not None and recipe.search.layer_groups > max(layers, 1):
        raise UserError(
            f"search.layer_groups {recipe.search.layer_groups}: only {layers} layers are merged; "
            "lower it"
        )
    for name, changes in recipe.ablations.items():
        _coverage(mapping, MergeSettings(**{**recipe.merge.model_dump(), **changes}), name)
    attention = attention_implementation(recipe.backbone, mapping.skeleton)
    tensors.refuse_differing_copies()
    converted = sum(bool(group.patterns) for group in mapping.groups)
    trained = len(mapping.shapes) - len(covered.untrained)
    facts = [
        f"{trained} tensors in its files hold the {len(mapping.parameters)} parameters of "
        f"{type(mapping.skeleton).__name__}"
        + (f", {converted} of them after transformers' conversions" if converted else ""),
        covered.sentence(),
        f"attention: {attention or 'the default of its architecture'}",
    ]
    return facts + ([untrained_sentence(covered.untrained)] if covered.untrained else [])


def _coverage(mapping: Any, settings: MergeSettings, section: str) -> Coverage:
    trained = {name for group in mapping.groups for name in group.tensors} | mapping.copies.keys()
    linear = mapping.tensors_of(block_weights(mapping.skeleton))
    covered = cover(mapping.shapes, trained, linear, settings)
    if not covered.names:
        raise UserError(
            f"{section}: include and exclude leave no tensor to merge; give patterns that fit "
            f"names such as {', '.join(linear[:2] or sorted(trained)[:2])}, or leave include out"
        )
    return covered


def check_disk(recipe: Recipe, model: ModelShape, weight_bytes: int) -> None:
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


def disk_bytes(recipe: Recipe, model: ModelShape, weight_bytes: float) -> float:
    """Bytes that a run will write besides checkpoints: its patches, and models in full size."""
    patches = [role for role in ROLES if not (recipe.output / role / "patch.json").is_file()]
    trained = [patch.name for patch in trained_baselines(recipe)]
    patches += trained if keeps_patches(recipe) else trained[:1]
    models = 2 if compares(recipe) or trained else 1
    return len(patches) * patch_bytes(model) + models * weight_bytes


def patch_bytes(model: ModelShape) -> float:
    """Size of a patch directory: delta and importance in fp32."""
    return model.parameters * 8.0


def _shape(skeleton: Any) -> ModelShape:
    sizes = {name: parameter.numel() for name, parameter in skeleton.named_parameters()}
    return ModelShape.of(skeleton, sizes)


def readable(count: float) -> str:
    """A number of bytes in the largest unit of which it has one."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"


def _weight_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
