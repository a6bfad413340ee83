"""What a merge did, for people: totals, the model card, and densities in TensorBoard."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from merge.patching import TensorReport

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def totals(reports: dict[str, TensorReport]) -> dict[str, int]:
    """Sums over all covered tensors of every count."""
    counts = ("elements", "top_S", "top_O", "overlap", "kept_S", "kept_O", "changed")
    erased = ("erased_S", "erased_O")
    return {
        key: sum(getattr(report, key) for report in reports.values()) for key in counts + erased
    }


def model_card(record: dict[str, Any]) -> str:
    """The README.md of a patched model."""
    settings = "\n".join(f"- {key}: `{value}`" for key, value in record["settings"].items())
    sums = record["totals"]
    share = sums["changed"] / max(1, sums["elements"])
    return f"""---
library_name: transformers
tags: [safepatching, merge]
---
# A patched model

Made by SafePatching (arXiv 2405.13820): a safety patch and an over-safety patch, merged into their
backbone. Of {sums["elements"]:,} covered weights {sums["changed"]:,} changed ({share:.2%}); all
other tensors are the backbone's, byte for byte. The backbone's licence holds for this model too.

Kept entries: {sums["kept_S"]:,} of the safety patch, {sums["kept_O"]:,} of the over-safety patch.
Rounding to the backbone's dtype gave back {sums["erased_S"]:,} and {sums["erased_O"]:,} of these.

## Settings

{settings}

`merge.json` has every input's and output's SHA-256 and the counts of every tensor.
"""


def write_densities(folder: Path, record: dict[str, Any]) -> None:
    """Write the share of kept entries by layer to TensorBoard; the step is the layer's number."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    sums: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for name, report in record["tensors"].items():
        layer = _LAYER.search(name)
        for key, value in report.items():
            sums[int(layer[1]) if layer else 0][key] += value
    writer = EventFileWriter(str(folder))
    for layer, counts in sorted(sums.items()):
        densities = {
            f"merge/{tag}(fraction)": counts[key] / max(1, counts["elements"])
            for tag, key in (
                ("kept_safety", "kept_S"),
                ("kept_over_safety", "kept_O"),
                ("overlap", "overlap"),
                ("changed", "changed"),
            )
        }
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in densities.items()]
        writer.add_event(Event(step=layer, summary=Summary(value=values)))
    writer.close()
