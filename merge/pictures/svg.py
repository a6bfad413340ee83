"""The few shapes of the merge's picture, as SVG text: no plotting library has to load for it."""

from collections.abc import Callable, Mapping, Sequence
from html import escape

INK, FAINT, GRID = "#22272e", "#5d6670", "#dfe3e8"
_ROW, _LEFT = 17, 74
Colour = tuple[int, int, int]
WHITE: Colour = (255, 255, 255)
SAFETY: Colour = (31, 90, 166)
OVER_SAFETY: Colour = (214, 104, 22)
BOTH: Colour = (92, 60, 130)
"""Colours of the patches, in every picture."""


def text(x: float, y: float, words: str, size: int = 11, anchor: str = "start", **more: str) -> str:
    """Words with their baseline at (x, y)."""
    style = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    colour = "" if "fill" in more else f' fill="{INK}"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{colour}{style}>'
        f"{escape(words)}</text>"
    )


def mix(colour: Colour, share: float) -> str:
    """White at 0, the colour at 1."""
    parts = (round(w + (c - w) * share) for w, c in zip(WHITE, colour, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def heatmap(
    place: tuple[float, float],
    width: float,
    title: str,
    cells: Mapping[tuple[int, str], float],
    layers: Sequence[int],
    modules: Sequence[str],
    colours: tuple[Colour, Colour],
    limit: float,
    legend: tuple[str, str],
    written: Callable[[float], str] = _percent,
) -> str:
    """A grid of modules (rows) by layers (columns).

    Args:
        cells: values from -limit, in the first colour, over 0, white, to limit, in the second.
        legend: what stands at the scale's low and high end.
        written: a value in words.
    """
    x, y = place
    step = (width - _LEFT) / len(layers)
    scale = _scale(x + width, y - 8, colours, legend)
    parts = [text(x, y - 8, title, 13, font_weight="600"), scale]
    for row, module in enumerate(modules):
        top = y + row * _ROW
        parts.append(text(x + _LEFT - 6, top + 12, module, 10, "end", fill=FAINT))
        for column, layer in enumerate(layers):
            value = cells.get((layer, module))
            if value is None:
                continue
            share = min(abs(value) / limit, 1.0) if limit else 0.0
            parts.append(
                f'<rect x="{x + _LEFT + column * step:.2f}" y="{top}" width="{step:.2f}" '
                f'height="{_ROW}" fill="{mix(colours[value > 0], share)}" '
                'shape-rendering="crispEdges">'
                f"<title>layer {layer}, {escape(module)}: {written(value)}</title></rect>"
            )
    height = _ROW * len(modules)
    parts.append(_frame(x + _LEFT, y, width - _LEFT, height))
    parts.append(_layer_axis(x + _LEFT, y + height, step, layers))
    return "".join(parts)


def heatmap_height(modules: Sequence[str]) -> int:
    """Height of the grid and its axis, in pixels."""
    return _ROW * len(modules) + 30


def lines(
    place: tuple[float, float],
    size: tuple[float, float],
    title: str,
    curves: Mapping[str, Mapping[int, float]],
    layers: Sequence[int],
    percent: bool,
) -> str:
    """Curves over the layers from 0 on; a key of ``curves`` is the curve's colour."""
    (x, y), (width, height) = place, size
    left = x + 46
    step = (width - 46) / len(layers)
    top = max((max(curve.values(), default=0) for curve in curves.values()), default=0) or 1.0
    parts = [text(x, y - 14, title, 13, font_weight="600")]
    for part in (0, 0.5, 1):
        level = y + height * (1 - part)
        label = f"{100 * top * part:.3g} %" if percent else f"{top * part:.3g}"
        parts.append(f'<path d="M{left:.1f} {level:.1f}h{width - 46:.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 6, level + 4, label, 10, "end", fill=FAINT))
    for colour, curve in curves.items():
        points = [
            (left + (column + 0.5) * step, y + height * (1 - curve[layer] / top))
            for column, layer in enumerate(layers)
            if layer in curve
        ]
        joined = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2.2" fill="{colour}"/>' for px, py in points
        ]
    parts.append(_layer_axis(left, y + height, step, layers))
    return "".join(parts)


def page(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    """The whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
        f'width="{width}" height="{height:.0f}" font-family="system-ui, sans-serif" role="img">'
        f"<title>{escape(title)}</title>"
        '<rect width="100%" height="100%" fill="#ffffff"/>' + "".join(parts) + "</svg>\n"
    )


def _frame(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="none" '
        f'stroke="{GRID}"/>'
    )


def _layer_axis(x: float, y: float, step: float, layers: Sequence[int]) -> str:
    every = max(1, -(-len(layers) // 8))
    marks = [
        text(x + (column + 0.5) * step, y + 14, str(layer), 10, "middle", fill=FAINT)
        for column, layer in enumerate(layers)
        if column % every == 0
    ]
    return "".join(marks)


def _scale(right: float, y: float, colours: tuple[Colour, Colour], legend: tuple[str, str]) -> str:
    """A strip from the low to the high end; of the second colour alone where both are the same."""
    steps, width = 16, 5
    low, high = legend
    start = right - 6 * len(high) - steps * width - 4
    parts = [
        text(start - 5, y, low, 10, "end", fill=FAINT),
        text(right, y, high, 10, "end", fill=FAINT),
    ]
    for number in range(steps):
        share = number / (steps - 1)
        if colours[0] != colours[1]:
            share = 2 * share - 1
        colour = mix(colours[share > 0], abs(share))
        parts.append(
            f'<rect x="{start + number * width:.1f}" y="{y - 9}" width="{width}" height="10" '
            f'fill="{colour}"/>'
        )
    return "".join(parts)
