"""The backbone as a partitioned model in training, checked against its files."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from merge.common.errors import UserError, first_line
from train.backbone.attention import attention_implementation, computation_dtype
from train.backbone.recomputation import evaluating
from train.backbone.tensors import BackboneTensors
from train.data.batches import TokenizedExample, collate
from train.objectives.losses import answer_losses
from train.patch.importance import absolute_gradient
from train.recipe import BackboneSettings
from train.settings import TrainingSettings
from train.zero.collectives import compute_device, lost_another_rank, sum_over_ranks
from train.zero.ds_config import check_config, ds_config
from train.zero.ranks import World
from train.zero.zero3 import Zero3Model


def load_model(
    directory: Path,
    tensors: BackboneTensors,
    backbone: BackboneSettings,
    training: TrainingSettings,
    world: World,
) -> Zero3Model:
    """Load the backbone in partitions, ready to train (collective).

    Raises:
        UserError: the model cannot be built, or is not what its files hold.
    """
    dtype = computation_dtype(backbone)
    config = ds_config(training, dtype, world)
    check_config(config, training.ds_config)
    use_liger = liger_patch() if training.liger else None

    def load() -> torch.nn.Module:
        from transformers import AutoModelForCausalLM

        try:
            model: Any = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=getattr(torch, dtype),
                attn_implementation=attention_implementation(backbone, tensors.map.skeleton),
                trust_remote_code=backbone.trust_remote_code,
                use_safetensors=True,
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Beside files that are wrong, code of single architectures that knows no partitions.
            if lost_another_rank(error):
                raise
            raise UserError(
                f"backbone {directory}: cannot be loaded ({first_line(error)})"
            ) from None
        if use_liger is not None:
            # Norms, rotations and gated layers. Its fused loss is left out: objectives and guards
            # need the logits that it never forms.
            use_liger(model=model, fused_linear_cross_entropy=False, cross_entropy=False)
        if training.gradient_checkpointing:
            with warnings.catch_warnings():
                # transformers 5.23 renames it; the release for Python 3.10 knows this name alone.
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable({"use_reentrant": False})
        return model

    model = Zero3Model(config, load, absolute_gradient)
    _check_weights(model, tensors, directory)
    return model


def refuse_impossible(model: Zero3Model, sample: TokenizedExample, directory: Path) -> None:
    """Send one sample through the model and back (collective): not every one that loads can run.

    Raises:
        UserError: widths in its configuration contradict each other, a kernel is missing, or the
            architecture does not run in partitions.
    """
    try:
        micro = collate([sample], [0]).to(compute_device())
        with evaluating(model.engine):
            model.backward(answer_losses(model.logits(micro), micro.labels).sum(), last=True)
        model.clear_gradients()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever a model's own code raises where it meets shapes that it did not expect.
        if lost_another_rank(error):
            raise
        raise UserError(
            f"backbone {directory}: loads, but cannot run ({first_line(error)}); fix its "
            "config.json, or set backbone.attention"
        ) from None


def liger_patch() -> Callable[..., None]:
    """liger-kernel's function that puts its kernels into one model.

    Raises:
        UserError: they cannot run here.
    """
    if not torch.cuda.is_available():
        raise UserError(
            "liger: its kernels run on GPUs only, and this machine has none; leave liger out of "
            "the recipe"
        )
    try:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            _apply_liger_kernel_to_instance,
        )
    except ImportError as error:
        raise UserError(
            f"liger: liger-kernel cannot be imported ({error}); run 'pip install liger-kernel' on "
            "the GPU machine, or leave liger out of the recipe"
        ) from None
    return _apply_liger_kernel_to_instance


def _check_weights(model: Zero3Model, tensors: BackboneTensors, directory: Path) -> None:
    """Compare every loaded bit with the files (collective): each rank its own partitions.

    Some architectures of transformers load wrongly under ZeRO-3 (transformers issues 45313 and
    45397), and a patch is addressed by the names in the backbone's files.
    """
    wrong = 0
    for name in model.parameters:
        start, stop = model.local_range(name)
        loaded = model.local_weights(name).cpu()
        wrong += not torch.equal(loaded, tensors.read_flat(name, start, stop, model.dtype))
    if sum_over_ranks([float(wrong)])[0]:
        raise UserError(
            f"backbone {directory}: the loaded weights differ from its files; another "
            "transformers version may load this architecture rightly under ZeRO-3"
        )
    tensors.map.refuse_irreversible()
