"""Which process of how many this is, as its launcher says in the environment."""

import contextlib
import os
import random
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from merge.common.errors import UserError

_PORTS = (20000, 32000)
"""Below the ports for outgoing connections, on Linux from 32768 on."""


@dataclass(frozen=True)
class World:
    """This process among all processes of one training."""

    rank: int
    size: int
    local_rank: int
    """Number of the rank on its machine, which is also the number of its GPU."""
    local_size: int
    """Processes on its own machine."""

    @property
    def is_main(self) -> bool:
        """Whether this rank talks to the user and writes the shared files."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> "World":
        """Read RANK, WORLD_SIZE and LOCAL_RANK; without them, a world of one process.

        A world of one also gets an address of its own, so that the rest need not know.

        Raises:
            UserError: the variables contradict each other.
        """
        if "RANK" not in environment:
            environment.update(
                RANK="0",
                WORLD_SIZE="1",
                LOCAL_RANK="0",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(free_port()),
            )
        try:
            world = cls(
                rank=int(environment["RANK"]),
                size=int(environment["WORLD_SIZE"]),
                local_rank=int(environment["LOCAL_RANK"]),
                local_size=int(_local_size(environment)),
            )
        except (KeyError, ValueError) as error:
            raise UserError(
                f"environment: RANK, WORLD_SIZE and LOCAL_RANK must be numbers ({error}); "
                "start the training with deepspeed, torchrun or python -m train.launcher"
            ) from None
        if not 0 <= world.rank < world.size:
            raise UserError(f"environment: RANK {world.rank} is outside WORLD_SIZE {world.size}")
        return world


def _local_size(environment: MutableMapping[str, str]) -> str:
    """torchrun's name, then the deepspeed launcher's."""
    return environment.get("LOCAL_WORLD_SIZE") or environment.get("LOCAL_SIZE") or "1"


def free_port() -> int:
    """A TCP port that is free at this moment, and likely still is when the ranks meet.

    Seconds later, that is; so not one of those that the system gives to any new connection.
    """
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
