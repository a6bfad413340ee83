"""One patch from its recipe: check, load, train, measure importance, export."""

import gc
import logging
import os
import time
from pathlib import Path
from typing import Any

import yaml

from merge.errors import UserError
from merge.files import make_directory
from merge.patch_directory import Role
from train.backbone import BackboneTensors, backbone_directory, load_tokenizer
from train.batches import BatchPlan, TokenizedExample, order_seed
from train.data import read_examples
from train.identity import is_finished, patch_inputs, software_versions
from train.prompts import ChatPrompts
from train.recipe import TrainRecipe
from train.world import World

logger = logging.getLogger(__name__)

_PRIVATE_FOLDER = 0o700
_PRIVATE_UMASK = 0o077


def derive_patch(recipe: TrainRecipe, role: Role, world: World) -> None:
    """Write the patch directory of one role; every rank of the training calls this.

    Raises:
        UserError: anything in recipe, data, backbone or machine that the user can mend.
    """
    started = time.monotonic()
    directory = recipe.output / role
    backbone = backbone_directory(recipe.backbone)
    examples = read_examples(recipe.data)
    inputs = patch_inputs(recipe, role, backbone, examples)
    if is_finished(directory, inputs["identity"]):
        logger.info("%s: already done", directory)
        return
    mode = _PRIVATE_FOLDER if role == "over_safety" else None
    if world.is_main:
        _make_folders(recipe.output, role, mode)
    if mode is not None:
        # The over-safety patch answers what the backbone refuses: nobody else reads any of it.
        os.umask(_PRIVATE_UMASK)
    prompts = ChatPrompts(load_tokenizer(backbone, recipe.backbone), f"backbone {backbone}")
    tokenized = prompts.encode(examples, recipe.training(role).max_length)
    _train_and_export(recipe, role, world, backbone, tokenized, inputs, mode, started)


def _train_and_export(
    recipe: TrainRecipe,
    role: Role,
    world: World,
    backbone: Path,
    examples: list[TokenizedExample],
    inputs: dict[str, Any],
    mode: int | None,
    started: float,
) -> None:
    # These import DeepSpeed, which takes seconds: only once all cheap checks have passed.
    from train.collectives import gather_from_ranks
    from train.export import export_patch
    from train.guards import Guards
    from train.importance import choose_samples, measure_importance
    from train.loop import Training
    from train.model import load_model
    from train.monitor import Monitor, peak_memory_mib
    from train.resume import Checkpoints, Progress
    from train.zero3 import initialise_distributed, leave_distributed

    initialise_distributed(world)
    settings = recipe.training(role)
    work = recipe.output / f"{role}.work"
    checkpoints = Checkpoints(work, mode, settings.checkpoint_every, inputs["identity"], world)
    checkpoints.latest()
    tensors = BackboneTensors(backbone)
    model = load_model(backbone, tensors, recipe.backbone, settings, world)
    # What the start has made stays to the end: no collection, the last one included, visits it.
    gc.freeze()
    gc.enable()
    progress = checkpoints.resume(model) or Progress()
    seed = settings.data_seed
    training = Training(
        role=role,
        settings=settings,
        model=model,
        backbone=tensors,
        examples=examples,
        plan=BatchPlan(
            samples=len(examples),
            batch_size=settings.batch_size,
            seed=order_seed(recipe.seed, role) if seed is None else seed,
        ),
        guards=Guards(settings.guards, model.vocabulary_size, progress.guard_losses),
        world=world,
    )
    events = recipe.output / "tensorboard" / f"train-{role}" if world.is_main else None
    with Monitor(events, role, training.total_steps(), progress.step) as monitor:
        monitor.text("run/inputs", f"```yaml\n{yaml.safe_dump(inputs)}```")
        monitor.text("run/versions", str(software_versions()))
        logger.info("ready after %.1f s; training %s", time.monotonic() - started, role)
        progress = training.run(progress, monitor, checkpoints)
        logger.info("%s after step %d", progress.stop_reason, progress.step)
        monitor.text("run/stop_reason", progress.stop_reason or "")
    measuring = time.monotonic()
    samples = choose_samples(recipe.importance, len(examples))
    factor = measure_importance(model, examples, samples, world)
    host, gpu = peak_memory_mib()
    metadata = {
        "score": "gradient",
        **inputs,
        "versions": software_versions(),
        "processes": world.size,
        "stop_reason": progress.stop_reason,
        "steps": progress.step,
        "tokens": progress.tokens,
        "importance_samples": len(samples),
        "training_seconds": round(progress.seconds, 3),
        "importance_seconds": round(time.monotonic() - measuring, 3),
        "peak_host_memory_mib": [round(value) for value in gather_from_ranks(host)],
        "peak_gpu_memory_mib": [round(value) for value in gather_from_ranks(gpu)],
    }
    export_patch(recipe.output / role, role, mode, metadata, model, tensors, factor, world)
    checkpoints.remove()
    leave_distributed()
    logger.info("%s: done in %.1f s", recipe.output / role, time.monotonic() - started)


def _make_folders(output: Path, role: Role, mode: int | None) -> None:
    """Make the run folder and the patch folder, and see that both can be written."""
    make_directory(output)
    make_directory(output / role, mode)
    make_directory(output / "tensorboard")
    for folder in (output, output / role, output / "tensorboard"):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: no permission to write; choose another output")
