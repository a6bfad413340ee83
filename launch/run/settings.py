"""The recipe's section ``eval``."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    PositiveInt,
    field_validator,
)

from eval.settings import Dtype, Margins, parse_decoding
from launch.shipped import ShippedFile
from merge.common.settings import Settings

VariantName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name of a model beside the patched one."""


class EvalSettings(Settings):
    """On which prompts the models are compared at the end. Nothing is chosen on them."""

    suite: ShippedFile
    """The test prompts: a suite file, see ``docs/suites.md``."""
    data_dir: Path | None = None
    """Stands for ``${DATA}`` in suite files."""
    dtype: Dtype = "auto"
    """Data type in which the models answer; ``auto`` is that of the weights."""
    batch_tokens: PositiveInt = 16384
    """Rows times tokens of a batch of answers; smaller needs less memory."""
    margins: Margins = Margins()
    """How much worse an axis may get and still count as not worse."""
    single_patches: bool = True
    """Also evaluate the backbone with either patch alone, as the paper's table does."""
    decodings: dict[VariantName, dict[str, Any]] = Field(default_factory=dict)
    """By name a decoding (as ``eval run --decoding`` reads it) that the backbone answers with, for
    comparison: the baselines that need no training."""

    @field_validator("decodings")
    @classmethod
    def _are_decodings(cls, decodings: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, values in decodings.items():
            parse_decoding(values, f"eval.decodings.{name}")
        return decodings
