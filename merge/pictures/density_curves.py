"""A merge in TensorBoard: what each layer and module kept of either patch.

A curve per kind of module, for example q_proj, with the decoder layer as its step: it shows in
which layers each patch lives (the paper's Figure 3).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from merge.common.errors import UserError
from merge.io.block_names import layer_and_module
from merge.io.patch_directory import LETTERS
from merge.record.erasure import erased_share
from merge.record.merge_json import totals

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_densities(directory: Path, tensors: Mapping[str, Mapping[str, float]]) -> None:
    """Write the event file of one merge; ``tensors`` as in merge.json.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    # Both take a second to import, and most merges write no events.
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    try:
        writer = EventFileWriter(str(directory))
        for tag, layer, value in density_rows(tensors):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(step=layer, summary=summary))
        writer.close()
    except OSError as error:
        raise UserError(f"{directory}: TensorBoard cannot write ({error.strerror})") from None


def by_layer_and_module(
    tensors: Mapping[str, Mapping[str, float]],
) -> dict[tuple[int, str], Mapping[str, float]]:
    """The reports by decoder layer and kind of module, those of a layer's experts added up.

    Tensors outside numbered layers, and empty ones, are left out.
    """
    found: dict[tuple[int, str], list[Mapping[str, float]]] = {}
    for name, report in tensors.items():
        place = layer_and_module(name)
        if place is not None and report["elements"]:
            found.setdefault(place, []).append(report)
    return {
        place: reports[0] if len(reports) == 1 else totals(reports)
        for place, reports in found.items()
    }


def ordered_modules(found: set[str]) -> list[str]:
    """Kinds of module as they follow in a decoder layer, unknown ones last."""
    return [m for m in _MODULES if m in found] + sorted(found - set(_MODULES))


def density_rows(tensors: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, int, float]]:
    """Tag, layer and value of every point; tensors outside numbered layers have none."""
    for (layer, module), report in by_layer_and_module(tensors).items():
        size = report["elements"]
        yield f"overlap/{module}(fraction)", layer, report["overlap"] / size
        for role, patch in LETTERS.items():
            kept = report[f"kept_{patch}"]
            yield f"kept_{role}/{module}(fraction)", layer, kept / size
            yield f"delta_norm_{role}/{module}", layer, report[f"norm_{patch}"]
            erased = erased_share(report, patch)
            if kept and erased is not None:
                yield f"erased_{role}/{module}(fraction)", layer, erased
