"""The trade-off picture: names beside their points and over nothing, colours for any page."""

import itertools
import math
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from eval.report.pictures.label_places import Box, place_labels
from eval.report.pictures.trade_off import standalone, trade_off_svg

FRAME = Box(40, 30, 430, 330)
RADIUS = 5.0
SVG = "{http://www.w3.org/2000/svg}"


def _crowd(seed: int) -> list[tuple[float, float]]:
    """Ten points within 12 points of each other, some nearly equal."""
    draw = np.random.default_rng(seed)
    centre = draw.uniform((60, 50), (410, 310))
    places = centre + draw.uniform(-6, 6, size=(10, 2))
    return [(float(x), float(y)) for x, y in places]


EDGES = [(x, y) for x in (40.0, 235.0, 430.0) for y in (30.0, 180.0, 330.0)]


@pytest.mark.parametrize("points", [*map(_crowd, range(6)), EDGES, [(40.0, 30.0)] * 10])
@pytest.mark.parametrize("width", [30.0, 130.0])
def test_names_overlap_nothing_and_stay_near_and_inside(points, width):
    legend = Box(330, 290, 430, 330)
    points = [point for point in points if not (point[0] > 320 and point[1] > 280)]
    boxes = place_labels(points, [(width, 12.0)] * len(points), RADIUS, FRAME, [legend])
    for one, other in itertools.combinations([*boxes, legend], 2):
        assert _apart(one, other)
    for place, (point, box) in enumerate(zip(points, boxes, strict=True)):
        assert FRAME.left <= box.left < box.right <= FRAME.right
        assert FRAME.bottom <= box.bottom < box.top <= FRAME.top
        assert box.right - box.left == pytest.approx(width)
        # In a corner all stand in one stack: each before it moves a name up by its height.
        assert _distance(box, point) <= 12 + 15 * place
        assert all(_distance(box, other) > 0.8 * RADIUS for other in points)


def _apart(one: Box, other: Box) -> bool:
    return (
        one.right <= other.left
        or other.right <= one.left
        or one.top <= other.bottom
        or other.top <= one.bottom
    )


def _distance(box: Box, point: tuple[float, float]) -> float:
    return math.hypot(
        max(box.left - point[0], point[0] - box.right, 0),
        max(box.bottom - point[1], point[1] - box.top, 0),
    )


def test_points_apart_have_their_names_at_their_right_and_bars_are_not_crossed():
    points = [(100.0, 100.0), (300.0, 250.0)]
    sizes = [(60.0, 12.0)] * 2
    for point, box in zip(points, place_labels(points, sizes, RADIUS, FRAME), strict=True):
        assert 0 < box.left - point[0] < 10
        assert abs((box.bottom + box.top) / 2 - point[1]) < 1
    bar = Box(70, 99.5, 140, 100.5)
    box = place_labels(points, sizes, RADIUS, FRAME, lines=[bar])[0]
    assert _apart(box, bar) and _distance(box, points[0]) < 14


def _report(names: list[str]) -> Any:
    def rate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100}

    return {
        "models": {
            name: {"refusal_rate": rate(place / 10), "harmful_rate": rate(1 - place / 10)}
            for place, name in enumerate(names)
        }
    }


def test_every_name_is_in_the_picture_as_it_is():
    """Also what matplotlib would read as a formula; the same report gives the same bytes."""
    names = ["backbone", "safepatching", "a$b$ & <c>", "x_1^2"]
    drawn = trade_off_svg(_report(names))
    assert drawn == trade_off_svg(_report(names))
    texts = [text.text for text in ET.fromstring(drawn).iter(f"{SVG}text")]
    assert all(texts.count(name) == 1 for name in names)


def test_names_make_way_for_the_chosen_merge_and_the_fronts():
    """Where a name stood beside its dot, a search's choice or front is drawn: the name moves."""

    def place(trials: list[dict[str, Any]]) -> str | None:
        report: Any = {**_report(["one", "two"]), "search": {"trials": trials}}
        texts = ET.fromstring(trade_off_svg(report)).iter(f"{SVG}text")
        return next(text.get("transform") for text in texts if text.text == "two")

    far = {
        "method": "dense",
        "refusal_rate": 0.9,
        "harmful_rate": 0.2,
        "pareto": True,
        "chosen": True,
    }
    beside = {**far, "refusal_rate": 0.107, "harmful_rate": 0.9}  # "two" is at 0.1 and 0.9
    plain = place([far])
    assert plain is not None and place([{**far, "chosen": False}, far]) == plain
    assert place([far, {**beside, "pareto": False}]) != plain
    assert place([far, {**beside, "chosen": False}]) != plain


def test_ticks_and_bars_stay_between_0_and_100():
    """The first model's intervals would reach from -5 to 105 %."""
    drawn = ET.fromstring(trade_off_svg(_report(["one", "two"])))
    ticks = [text.text or "" for text in drawn.iter(f"{SVG}text")]
    signed = [text.replace("\N{MINUS SIGN}", "-") for text in ticks]
    numbers = [int(text) for text in signed if text.lstrip("-").isdigit()]
    assert len(numbers) > 4
    assert min(numbers) >= 0 and max(numbers) <= 100


def test_a_picture_alone_has_a_ground_and_follows_the_readers_scheme():
    element = trade_off_svg(_report(["one"]))
    assert "prefers-color-scheme" not in element, "inside a page the page's own colours hold"
    root = ET.fromstring(standalone(element))
    style = next(root.iter(f"{SVG}style")).text or ""
    assert "prefers-color-scheme: dark" in style
    ground = root.find(f"{SVG}rect")
    assert ground is not None and ground.get("width") == "100%"
    for ink, behind in (
        (root.get("color"), ground.get("fill")),
        (style.split("svg { color: ")[1][:7], style.split(".ground { fill: ")[1][:7]),
    ):
        assert _contrast(str(ink), str(behind)) > 7


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio, from 1 to 21."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
