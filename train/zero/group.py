"""DeepSpeed on this machine's accelerator, and the group of ranks that it works in."""

import datetime
import logging
import os
import warnings

import torch

from merge.common.errors import UserError
from train.zero.ranks import World

# DeepSpeed chooses its accelerator when it is imported, so all of it is imported from here.
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed import comm

_COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)


def initialise_distributed(world: World) -> None:
    """Join the other ranks (collective): NCCL on GPUs, gloo on CPUs.

    Raises:
        UserError: the port is taken, or there are fewer GPUs than processes.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed 0.19.8 calls collectives by names that torch 2.13 renames: a warning a collective.
    warnings.filterwarnings("ignore", message="`torch.distributed.", category=FutureWarning)
    # The device is set below: PyTorch guesses right.
    warnings.filterwarnings(
        "ignore", message=r"barrier\(\): using the device", category=UserWarning
    )
    # Else DeepSpeed compiles a shared-memory operator at the first start; only inference uses it.
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    if torch.cuda.is_available():
        if world.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {world.local_rank} of this machine has no GPU: it sees "
                f"{torch.cuda.device_count()}; start as many processes as there are GPUs"
            )
        torch.cuda.set_device(world.local_rank)
    # Without it DeepSpeed asks numactl, in a process of its own, at every forward and step.
    os.environ.setdefault("LOCAL_SIZE", str(world.local_size))
    if "OMP_NUM_THREADS" not in os.environ:
        # Ranks that take all cores each slow one another down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
    try:
        comm.init_distributed(
            "nccl" if torch.cuda.is_available() else "gloo",
            timeout=_COLLECTIVE_TIMEOUT,
            rank=world.rank,
            world_size=world.size,
            verbose=False,
        )
    except RuntimeError as error:
        if "address already in use" in str(error).lower() or "EADDRINUSE" in str(error):
            raise UserError(
                f"port {os.environ.get('MASTER_PORT')} is in use; set MASTER_PORT (or "
                "--master_port of the launcher) to a free one"
            ) from None
        raise


def leave_distributed() -> None:
    """Leave the group of ranks."""
    if comm.is_initialized():
        comm.destroy_process_group()
