"""Figures of matplotlib as SVG text that stands in a page or in a file, the same at each run."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

INK = "#12ab34"
"""Drawn in this, replaced by the page's text colour: pictures follow light and dark."""
TOOLTIP = "tooltip: "
"""What the id (``gid``) of a part begins with whose rest is shown while the pointer is on it."""


def svg_element(figure: Figure, title: str = "", salt: str = "") -> str:
    """The figure as an SVG element without a size, for a page or a file.

    Args:
        title: what the picture shows, for those who cannot see it.
        salt: tells the ids of its parts from those of the same figure in another size.
    """
    buffer = io.StringIO()
    metadata = {"Date": None, "Creator": None} | ({"Title": title} if title else {})
    # Same report, same bytes: SVG ids are otherwise random. Text stays text.
    with matplotlib.rc_context({"svg.hashsalt": f"safepatching{salt}", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata=metadata)
    drawing = buffer.getvalue()
    # The XML prologue has no place inside a page, and names an address.
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", drawing, count=1)
    drawing = re.sub(f'<g id="{TOOLTIP}([^"]*)">', r"<g><title>\1</title>", drawing)
    return drawing.replace(INK, "currentColor")
