"""One patch from its recipe: check, load, train, measure importance, export."""

import gc
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from merge.errors import StoppedOnRequestError, UserError
from merge.files import make_directory
from merge.patch_directory import Role
from train.backbone import BackboneTensors, backbone_directory, load_tokenizer
from train.batches import BatchPlan, order_seed
from train.data import Example, read_examples
from train.identity import is_finished, patch_inputs, software_versions
from train.prompts import ChatPrompts
from train.recipe import TrainRecipe
from train.stopping import STOP_FILE, StopRequest
from train.training_data import TrainingData, tokenize_data
from train.world import World

if TYPE_CHECKING:
    from train.resume import Checkpoints, Progress
    from train.zero3 import Zero3Model

logger = logging.getLogger(__name__)

_PRIVATE_FOLDER = 0o700
_PRIVATE_UMASK = 0o077


def derive_patch(recipe: TrainRecipe, role: Role, world: World, stop: StopRequest) -> None:
    """Write the patch directory of one role; every rank of the training calls this.

    Raises:
        UserError: anything in recipe, data, backbone or machine that the user can mend.
        StoppedOnRequestError: a stop was asked for; the next start goes on from there.
    """
    started = time.monotonic()
    directory = recipe.output / role
    backbone = backbone_directory(recipe.backbone)
    examples = read_examples(recipe.data)
    harmless = read_examples(recipe.harmless) if recipe.harmless else []
    inputs = patch_inputs(recipe, role, backbone, examples, harmless)
    if is_finished(directory, inputs["identity"]):
        logger.info("%s: already done", directory)
        return
    mode = _PRIVATE_FOLDER if role == "over_safety" else None
    if world.is_main:
        _make_folders(recipe.output, role, mode)
    if mode is not None:
        # The over-safety patch answers what the backbone refuses: nobody else reads any of it.
        os.umask(_PRIVATE_UMASK)
    data = _tokenize(recipe, role, backbone, examples, harmless)
    _train_and_export(recipe, role, world, stop, backbone, data, inputs, mode, started)


def _tokenize(
    recipe: TrainRecipe,
    role: Role,
    backbone: Path,
    examples: Sequence[Example],
    harmless: Sequence[Example],
) -> TrainingData:
    prompts = ChatPrompts(load_tokenizer(backbone, recipe.backbone), f"backbone {backbone}")
    return tokenize_data(prompts, recipe.training(role), examples, harmless, recipe.seed)


def _train_and_export(
    recipe: TrainRecipe,
    role: Role,
    world: World,
    stop: StopRequest,
    backbone: Path,
    data: TrainingData,
    inputs: dict[str, Any],
    mode: int | None,
    started: float,
) -> None:
    # These import DeepSpeed, which takes seconds: only once all cheap checks have passed.
    from train.collectives import gather_from_ranks
    from train.export import export_patch
    from train.importance import choose_samples, measure_importance
    from train.model import load_model
    from train.monitor import peak_memory_mib
    from train.resume import Checkpoints
    from train.zero3 import initialise_distributed, leave_distributed

    initialise_distributed(world)
    settings = recipe.training(role)
    checkpoints = Checkpoints(
        recipe.output / f"{role}.work",
        mode,
        settings.checkpoint_every,
        settings.checkpoints_kept,
        inputs["identity"],
        world,
    )
    checkpoints.latest()
    tensors = BackboneTensors(backbone)
    model = load_model(backbone, tensors, recipe.backbone, settings, world)
    # What the start has made stays to the end: no collection, the last one included, visits it.
    gc.freeze()
    gc.enable()
    watched = recipe.output if world.is_main else None

    def stop_asked() -> bool:
        return stop.agreed(watched)

    try:
        progress = _train(
            recipe, role, world, model, tensors, data, inputs, checkpoints, stop_asked, started
        )
        measuring = time.monotonic()
        samples = choose_samples(recipe.importance, len(data.forget))
        progress = measure_importance(model, data.forget, samples, world, progress, stop_asked)
        if progress.importance_samples < len(samples):
            checkpoints.save(model, progress)
            raise StoppedOnRequestError(
                f"{role} training is saved with the importance of {progress.importance_samples} "
                "samples"
            )
    except StoppedOnRequestError:
        if world.is_main:
            # It has been heeded; the next start shall not stop at once.
            (recipe.output / STOP_FILE).unlink(missing_ok=True)
        raise
    measured = time.monotonic() - measuring
    memory = gather_from_ranks(peak_memory_mib())
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
        "importance_seconds": round(measured, 3),
        "peak_host_memory_mib": [round(host) for host, _ in memory],
        "peak_gpu_memory_mib": [round(gpu) for _, gpu in memory],
    }
    logger.info("writing the patch of %d parameters", model.shape.parameters)
    export_patch(recipe.output / role, role, mode, metadata, model, tensors, len(samples), world)
    checkpoints.remove()
    leave_distributed()
    logger.info("%s: done in %.1f s", recipe.output / role, time.monotonic() - started)


def _train(
    recipe: TrainRecipe,
    role: Role,
    world: World,
    model: "Zero3Model",
    tensors: BackboneTensors,
    data: TrainingData,
    inputs: dict[str, Any],
    checkpoints: "Checkpoints",
    stop_asked: Callable[[], bool],
    started: float,
) -> "Progress":
    """Train to the end, from the newest checkpoint where there is one (collective)."""
    from train.guards import Guards
    from train.loop import Training
    from train.monitor import Monitor
    from train.references import mean_answer_loss
    from train.resume import Progress
    from train.terms import build_terms

    settings = recipe.training(role)
    seed = settings.data_seed
    plan = BatchPlan(
        samples=len(data.forget),
        batch_size=settings.batch_size,
        seed=order_seed(recipe.seed, role) if seed is None else seed,
    )
    steps = settings.steps or settings.epochs * plan.steps_per_epoch
    # Both of the backbone: before the model is what a checkpoint holds.
    terms = build_terms(settings, data, plan, steps, model, world)
    retained_loss = None
    if data.retained:
        size = settings.micro_batch_size
        retained_loss = mean_answer_loss(model, data.retained, size, world)
    progress = checkpoints.resume(model) or Progress()
    events = recipe.output / "tensorboard" / f"train-{role}" if world.is_main else None
    with Monitor(events, role, steps, progress.step, model.shape, world.size) as monitor:
        monitor.text("run/inputs", f"```yaml\n{yaml.safe_dump(inputs)}```")
        monitor.text("run/versions", str(software_versions()))
        logger.info("ready after %.1f s; training %s", time.monotonic() - started, role)
        training = Training(
            role=role,
            settings=settings,
            total_steps=steps,
            model=model,
            backbone=tensors,
            terms=terms,
            retained=data.retained,
            guards=Guards(
                settings.guards, model.vocabulary_size, progress.guard_losses, retained_loss
            ),
            world=world,
            checkpoints=checkpoints,
            monitor=monitor,
            stop_asked=stop_asked,
        )
        progress = training.run(progress)
        logger.info("%s after step %d", progress.stop_reason, progress.step)
        monitor.text("run/stop_reason", progress.stop_reason or "")
    return progress


def _make_folders(output: Path, role: Role, mode: int | None) -> None:
    """Make the run folder and the patch folder, and see that both can be written."""
    make_directory(output)
    make_directory(output / role, mode)
    make_directory(output / "tensorboard")
    for folder in (output, output / role, output / "tensorboard"):
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: no permission to write; choose another output")
