"""What records tell of the version, commit and recipe that wrote them."""

from collections.abc import Mapping
from typing import Any

from launch.run.trace.node import Node
from merge.common.provenance import RECIPE_HASH


class Writers:
    """Notes who wrote a record, and whether its recipe was the traced report's.

    Args:
        report: all of report.json.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.recipe: str | None = section(report, "written_by").get(RECIPE_HASH)

    def tell(self, node: Node, record: Mapping[str, Any]) -> None:
        """Note version, commit and recipe of a node, or that they are not recorded."""
        written = section(record, "written_by")
        if not written:
            node.notes.append("which version, commit and recipe wrote it is not recorded")
            return
        node.written = {key: str(value) for key, value in written.items()}
        recipe = written.get(RECIPE_HASH)
        if self.recipe is not None and recipe not in (None, self.recipe):
            node.notes.append(
                "made when the recipe said something else than when the report was made"
            )


def section(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A part of a record; empty where older versions had none."""
    value = record.get(key)
    return value if isinstance(value, dict) else {}
