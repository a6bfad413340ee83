"""One patch from its recipe: everything that is checked before DeepSpeed starts."""

import logging
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from merge.common.errors import UserError
from merge.common.files import PRIVATE_FOLDER, make_directory, remove_folder
from merge.common.metrics import metrics_file
from merge.engine.coverage import untrained_sentence
from merge.io.patch_directory import Role
from train.backbone.folder import backbone_directory, load_tokenizer
from train.backbone.tensors import open_backbone
from train.chat.prompts import ChatPrompts
from train.chat.round_trip import check_round_trip
from train.chat.vocabulary import embedding_count, refuse_unknown_ids
from train.data.examples import read_examples
from train.data.role_data import measured_pairs, refused_pairs, trained_pairs
from train.guards.openings_file import OPENINGS_FILE, read_openings
from train.guards.refusal_margin import RefusalOpenings
from train.job.stopping import StopRequest
from train.objectives.training_data import tokenize_data
from train.patch.identity import is_finished, patch_inputs
from train.recipe import TrainRecipe
from train.zero.ranks import World

logger = logging.getLogger(__name__)

_PRIVATE_UMASK = 0o077


def derive_patch(recipe: TrainRecipe, role: Role, world: World, stop: StopRequest) -> None:
    """Write the patch directory of one role; every rank of the training calls this.

    Raises:
        UserError: anything in recipe, data, backbone or machine that the user can fix.
        StoppedOnRequestError: a stop was asked for; the next start continues from there.
    """
    started = time.monotonic()
    directory = recipe.output / role
    backbone = backbone_directory(recipe.backbone)
    examples = trained_pairs(recipe, role)
    measured = measured_pairs(recipe, role)
    harmless = read_examples(recipe.harmless) if recipe.harmless else []
    refusals = refused_pairs(recipe, role)
    openings = _openings(recipe, role)
    tokenizer = load_tokenizer(backbone, recipe.backbone)
    prompts = ChatPrompts(tokenizer, f"backbone {backbone}", recipe.backbone.chat)
    inputs = patch_inputs(
        recipe, role, backbone, examples, harmless, prompts, measured, openings, refusals
    )
    finished = is_finished(directory, inputs["identity"])
    if finished and world.is_main:
        # Where the process was killed between the patch and their removal.
        remove_folder(recipe.checkpoints(role))
    if finished and world.size == world.local_size:
        logger.info("%s: already done", directory)
        return
    for pairs in (examples, refusals):
        if pairs:
            check_round_trip(prompts, pairs)
    mode = PRIVATE_FOLDER if role == "over_safety" else None
    if world.is_main:
        _make_folders(recipe.output, role, mode)
    if mode is not None:
        # The over-safety patch answers what the backbone refuses: nobody else reads any of it.
        os.umask(_PRIVATE_UMASK)
    settings = recipe.training(role)
    data = tokenize_data(prompts, settings, examples, harmless, recipe.seed, openings, refusals)
    data = replace(data, measured=prompts.encode(measured, settings.max_length))
    tensors = open_backbone(backbone, recipe.backbone)
    refuse_unknown_ids(data.texts(), embedding_count(tensors.map.skeleton), f"backbone {backbone}")
    tensors.refuse_differing_copies()
    if tensors.map.untrained:
        logger.info("%s", untrained_sentence(tensors.map.untrained))
    # It imports DeepSpeed, which takes seconds: only once all cheap checks have passed.
    from train.job.derivation import Derivation

    with metrics_file(recipe.output, role) if world.is_main else nullcontext():
        Derivation(
            recipe, role, world, stop, backbone, tensors, data, inputs, mode, started, finished
        ).run()


def _openings(recipe: TrainRecipe, role: Role) -> RefusalOpenings | None:
    """How the backbone's refusals open, where the training's guard asks for it."""
    if not recipe.training(role).guards.margin_samples:
        return None
    path = recipe.output / OPENINGS_FILE
    need = f"{role}.guards.margin_samples needs how the backbone's refusals open"
    if not path.exists():
        raise UserError(
            f"{path}: is missing, and {need}; `python -m launch run` writes it, and by hand "
            "`python -m launch openings RECIPE`"
        )
    openings = read_openings(path)
    if not openings.tokens:
        raise UserError(
            f"{path}: holds no opening, and {need}; set margin_samples to 0, or let `python -m "
            "launch openings RECIPE` look again at more prompts that the backbone refuses"
        )
    return openings


def _make_folders(output: Path, role: Role, mode: int | None) -> None:
    """Make the run folder and the patch folder, and see that both can be written."""
    make_directory(output)
    make_directory(output / role, mode)
    make_directory(output / "tensorboard")
    for folder in (output, output / role, output / "tensorboard"):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: no permission to write; choose another output")
