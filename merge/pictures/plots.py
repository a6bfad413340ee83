"""Two more shapes for pictures as SVG text: curves over labels, and a grid of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

from merge.pictures import svg

_WIDTH, _HEIGHT = 540, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 52, 24
_ROW = 20


@dataclass(frozen=True)
class Curve:
    """One curve: its name, its colour, and a share (fraction of 1) for every label."""

    name: str
    colour: svg.Colour
    shares: Sequence[float]
    dashed: bool = False


def curves(title: str, labels: Sequence[str], drawn: Sequence[Curve]) -> str:
    """Curves from 0 on over equally spaced labels, as an SVG element."""
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = width / len(labels)
    top = max(share for curve in drawn for share in curve.shares) or 1.0
    parts = [svg.text(0, 14, title, 13, font_weight="600")]
    for part in (0, 0.5, 1):
        level = _TOP + height * (1 - part)
        parts.append(f'<path d="M{_LEFT} {level:.1f}h{width}" stroke="{svg.GRID}"/>')
        label = f"{100 * top * part:.3g} %"
        parts.append(svg.text(_LEFT - 6, level + 4, label, 10, "end", fill=svg.FAINT))
    for place, label in enumerate(labels):
        x = _LEFT + (place + 0.5) * step
        parts.append(svg.text(x, _HEIGHT - 8, label, 10, "middle", fill=svg.FAINT))
    for number, curve in enumerate(drawn):
        colour = svg.mix(curve.colour, 1)
        points = [
            (_LEFT + (place + 0.5) * step, _TOP + height * (1 - share / top))
            for place, share in enumerate(curve.shares)
        ]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if curve.dashed else ""
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        )
        if not curve.dashed:
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}">'
                f"<title>{label}: {100 * share:.3g} %</title></circle>"
                for (x, y), share, label in zip(points, curve.shares, labels, strict=True)
            ]
        parts.append(svg.text(_LEFT + 130 * number, 34, curve.name, 11, fill=colour))
    return svg.page(_WIDTH, _HEIGHT, title, parts)


def grid(
    title: str,
    rows: tuple[str, Sequence[str]],
    columns: tuple[str, Sequence[str]],
    shares: Sequence[Sequence[float]],
    colour: svg.Colour,
) -> str:
    """A table of shares (fractions of 1) in percent, its cells coloured, as an SVG element.

    Args:
        rows: what they are, and their labels; ``columns`` the same.
        shares: row by row.
    """
    step = (_WIDTH - _LEFT) / len(columns[1])
    most = max(map(max, shares)) or 1.0
    corner = f"{rows[0]} \\ {columns[0]}"
    parts = [svg.text(0, 14, title, 13, font_weight="600")]
    parts.append(svg.text(_LEFT - 6, 36, corner, 10, "end", fill=svg.FAINT))
    for place, label in enumerate(columns[1]):
        x = _LEFT + (place + 0.5) * step
        parts.append(svg.text(x, 36, label, 10, "middle", fill=svg.FAINT))
    for number, (label, row) in enumerate(zip(rows[1], shares, strict=True)):
        y = 42 + number * _ROW
        parts.append(svg.text(_LEFT - 6, y + 14, label, 10, "end", fill=svg.FAINT))
        for place, share in enumerate(row):
            x, part = _LEFT + place * step, share / most
            ink = "#ffffff" if part > 0.55 else svg.INK
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{step:.1f}" height="{_ROW}" '
                f'fill="{svg.mix(colour, part)}"/>'
            )
            words = f"{100 * share:.2g}" if share < 0.1 else f"{100 * share:.0f}"
            parts.append(svg.text(x + step / 2, y + 14, words, 10, "middle", fill=ink))
    return svg.page(_WIDTH, 48 + _ROW * len(shares), title, parts)
