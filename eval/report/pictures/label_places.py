"""Where the names of points go in a picture: each beside its own point, over nothing else."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_GAP = 2.0
"""Free points around every name."""
_DIRECTIONS = 24
"""So many are tried at each distance."""
_STEP = 3.0
"""By how many points the next ring is farther away."""
_CROSSING = 8.0
"""A name goes so many points farther away, to cross one line less."""


class Box(NamedTuple):
    """A rectangle; all lengths are in points, y grows upwards."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(width, 0.0) * max(height, 0.0)

    def grown(self, by: float) -> "Box":
        return Box(self.left - by, self.bottom - by, self.right + by, self.top + by)

    def inside(self, frame: "Box") -> bool:
        return (
            frame.left <= self.left
            and frame.bottom <= self.bottom
            and self.right <= frame.right
            and self.top <= frame.top
        )

    def nearest(self, point: tuple[float, float]) -> tuple[float, float]:
        """The place in the box that is nearest to a point."""
        x, y = point
        return min(max(x, self.left), self.right), min(max(y, self.bottom), self.top)

    def distance(self, point: tuple[float, float]) -> float:
        return math.dist(self.nearest(point), point)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    radius: float,
    frame: Box,
    others: Sequence[Box] = (),
    lines: Sequence[Box] = (),
) -> list[Box]:
    """A box for each point's name; the first points choose first.

    Each takes the place nearest to its point, of rings of places around it, that lies in the frame
    and over no earlier name, point or other box; where there is none, the least covered place.

    Args:
        points: centres of the points, in the frame.
        sizes: width and height of each name; none is larger than the frame.
        radius: of every point.
        others: what else is drawn, as a legend.
        lines: what a name rather does not cross, as an interval's bar.
    """
    discs = [Box(x, y, x, y).grown(0.8 * radius) for x, y in points]
    taken = [*others, *discs]
    boxes: list[Box] = []
    for point, size in zip(points, sizes, strict=True):
        best, least = _into(frame, point, size), (math.inf, math.inf)
        for away, box in _places(point, size, radius + _GAP, frame):
            if least[0] == 0 and away > least[1]:
                break
            covered = sum(box.grown(_GAP).overlap(other) for other in taken)
            crossed = sum(box.overlap(line) > 0 for line in lines)
            if (covered, away + _CROSSING * crossed) < least:
                best, least = box, (covered, away + _CROSSING * crossed)
        boxes.append(best)
        taken.append(best)
    return boxes


def _places(
    point: tuple[float, float], size: tuple[float, float], first: float, frame: Box
) -> Iterator[tuple[float, Box]]:
    """Places around a point that lie in the frame, with their distances, nearest first."""
    longest = math.hypot(frame.right - frame.left, frame.top - frame.bottom)
    for away in itertools.takewhile(longest.__gt__, itertools.count(first, _STEP)):
        for turn in range(_DIRECTIONS):
            # From the right, up and down in turns: 0, 1, -1, 2, -2, ...
            step = (turn + 1) // 2 * (1 if turn % 2 else -1)
            box = _beside(point, size, away, 2 * math.pi * step / _DIRECTIONS)
            if box.inside(frame):
                yield away, box


def _beside(
    point: tuple[float, float], size: tuple[float, float], away: float, angle: float
) -> Box:
    """The box whose nearest corner, or middle of a side, lies there from the point."""
    ends = []
    for start, length, part in zip(point, size, (math.cos(angle), math.sin(angle)), strict=True):
        if abs(part) < 1e-9:
            ends.append(start - length / 2)
        else:
            ends.append(start + away * part - (length if part < 0 else 0))
    return Box(*ends, *(end + length for end, length in zip(ends, size, strict=True)))


def _into(frame: Box, point: tuple[float, float], size: tuple[float, float]) -> Box:
    """The box in the frame that is nearest to the point, for a frame without any other place."""
    width, height = size
    left = min(max(point[0], frame.left), frame.right - width)
    bottom = min(max(point[1], frame.bottom), frame.top - height)
    return Box(left, bottom, left + width, bottom + height)
