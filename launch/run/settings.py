"""The recipe's section ``eval``."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from eval.report.paper_table.published import Published, load_published
from eval.settings import EvaluationSettings
from launch.shipped import ShippedFile, shipped
from merge.common.settings import Settings


class PaperTableSettings(Settings):
    """Adds a table in the paper's layout to the report, with published numbers as a reference."""

    backbone: str | None = None
    """The entry of ``published`` that stands beside, as llama-2-7b-chat; None for no reference."""
    published: ShippedFile = Field(
        default=Path("eval/report/paper_table/published.yaml"), validate_default=True
    )
    """A file of published numbers (YAML): by backbone ``title``, ``source`` and ``rows``. The
    project's own holds what we could read of the paper; yours may hold more."""

    def numbers(self) -> Published | None:
        """The published numbers of the named backbone; None where none is named.

        Raises:
            UserError: the file is missing or malformed, or has no entry of that name.
        """
        return None if self.backbone is None else load_published(self.published, self.backbone)


class EvalSettings(EvaluationSettings):
    """On which prompts the models are compared at the end, and how. Nothing is chosen on them.

    A search asks and judges in the same way, on prompts of its own.
    """

    suite: ShippedFile
    """The test prompts: a suite file, see ``docs/suites.md``."""
    single_patches: bool = True
    """Also evaluate the backbone with either patch alone, as the paper's table does."""
    baselines: bool = False
    """Also train, evaluate and compare the baselines of ``ablate.baselines``, before the merge."""
    paper_table: PaperTableSettings | None = None
    """Adds a table in the paper's layout to the report, published numbers beside it."""

    @field_validator("harm_judge", "refusal_judge", "agreement")
    @classmethod
    def _may_be_shipped(
        cls, file: Literal["rules"] | Path | None
    ) -> Literal["rules"] | Path | None:
        return shipped(file) if isinstance(file, Path) else file
