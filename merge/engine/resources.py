"""How much of the machine a merge may use. None of it changes a single output bit of a tensor."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

from merge.common.settings import Settings

_UNITS = {
    "": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
    "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40,
}  # fmt: skip


def parse_size(value: object) -> object:
    """Bytes from an integer, or from text such as 350MiB, 5GB or 0.5G.

    Raises:
        ValueError: text of another form.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?", value.strip().upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError("write a size such as 350MiB or 5GB")
    return int(float(match[1]) * _UNITS[match[2]])


Size = Annotated[int, BeforeValidator(parse_size)]


class MergeResources(Settings):
    """Threads, memory and the size of the output's files."""

    threads: Annotated[int, Field(ge=1, le=256)] = 2
    memory_limit: Annotated[Size, Field(ge=16 * 2**20)] = 128 * 2**20
    """Bytes of tensor data in hand, over all threads; the program itself comes on top."""
    max_shard_size: Annotated[Size, Field(ge=2**10)] | None = None
    """Bytes of an output file; by default the output is cut as the backbone is."""
