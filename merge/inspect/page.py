"""The page that shows what is in a pair of patches: pictures, each with a line and its source."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.axes import Axes

from merge.common.files import atomic_write_json, atomic_write_text, make_directory
from merge.inspect import prediction_page
from merge.inspect.charts import Curve, curves, grid
from merge.pictures.density_curves import by_layer_and_module, ordered_modules
from merge.pictures.panels import (
    BOTH,
    OVER_SAFETY,
    SAFETY,
    heatmap,
    heatmap_height,
    percent,
    picture,
)

PAGE, NUMBERS = "inspection.html", "inspection.json"
WEI_SHARE, SSAH_SHARE = 0.03, 0.013
"""Safety-critical parameters by arXiv 2402.05162, and units exclusive to safety by 2410.10862."""
_TEMPLATE = Path(__file__).with_name("inspection.html.jinja")
_NEUTRAL = "#8c949c"
Figure = tuple[str, str]
"""A picture, and what it shows."""


def write_page(numbers: Mapping[str, Any], name: str, directory: Path) -> None:
    """Write the page and, last, the numbers.

    Args:
        numbers: of ``merge.inspect.inspection.inspect``; ``prediction`` beside it where there is
            one, a dump of ``merge.inspect.prediction.Prediction``.
        name: of the backbone, for the heading.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    make_directory(directory)
    atomic_write_text(directory / PAGE, render(numbers, name))
    atomic_write_json(directory / NUMBERS, numbers)


def render(numbers: Mapping[str, Any], name: str) -> str:
    """The page as HTML; it loads nothing."""
    figures = [*_by_layer(numbers), *_by_rate(numbers), *_by_rates(numbers), *_by_unit(numbers)]
    rows = []
    if "prediction" in numbers:
        rows = prediction_page.rows(numbers["prediction"])
        figures = [*prediction_page.by_layer(numbers["prediction"]), *figures]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent), autoescape=True
    )
    return environment.get_template(_TEMPLATE.name).render(
        title=f"What is in the patches of {name}",
        numbers=numbers,
        chosen=numbers["settings"],
        rows=rows,
        # matplotlib escapes the names that it draws.
        figures=[(Markup(image), words) for image, words in figures],
    )


def _jaccard(report: Mapping[str, float]) -> float:
    """What both top sets share, of what either holds; also of reports that were added up."""
    either = report["top_S"] + report["top_O"] - report["overlap"]
    return report["overlap"] / max(either, 1)


def _by_layer(numbers: Mapping[str, Any]) -> list[Figure]:
    """Where importance lies, what both want, and what is left to the safety patch."""
    reports = by_layer_and_module(numbers["tensors"])
    if not reports or "overlap" not in next(iter(reports.values())):
        return []
    modules = ordered_modules({module for _, module in reports})

    def shown(title: str, colour: str, value: Callable[[Mapping[str, float]], float]) -> str:
        cells = {place: value(report) for place, report in reports.items()}
        limit = max(cells.values())

        def draw(axes: Axes) -> None:
            heatmap(axes, title, cells, modules, [colour], limit, ("0", percent(limit)))

        return picture(title, heatmap_height(modules), draw)

    figures = []
    for letter, colour, patch in (("S", SAFETY, "safety"), ("O", OVER_SAFETY, "over-safety")):
        key = f"importance_{letter}"
        total = sum(report[key] for report in numbers["tensors"].values()) or 1.0
        mean = total / numbers["elements"]
        image = shown(
            f"importance of the {patch} patch",
            colour,
            lambda report, key=key, mean=mean: report[key] / report["elements"] / (mean or 1.0),
        )
        words = (
            f"Mean score of an entry of the {patch} patch by module and decoder layer; 100 % is "
            "the mean over all covered entries. SNIP score on D_h: SafePatching (2405.13820)."
        )
        figures.append((image, words))
    figures.append(
        (
            shown("wanted by both (Jaccard)", BOTH, _jaccard),
            "Of the entries that are in either top set at the chosen a and b, the share that is in "
            "both: there the patches conflict, and SafePatching leaves the backbone alone.",
        )
    )
    figures.append(
        (
            shown(
                "left to the safety patch",
                SAFETY,
                lambda report: report["difference_S"] / report["elements"],
            ),
            "Share of all entries in the safety patch's difference set at the chosen a and b, "
            "before the random retention. By tensor every top set is equally large, so this shows "
            "the overlap; by model (--scope model) it also shows where importance lies.",
        )
    )
    return figures


def _by_rate(numbers: Mapping[str, Any]) -> list[Figure]:
    """Overlap and difference sets where a = b."""
    rates, size = numbers["rates"], numbers["elements"]

    def diagonal(key: str, divisor: int = 1) -> list[float]:
        return [numbers[key][place][place] / divisor for place in range(len(rates))]

    labels = [percent(rate) for rate in rates]
    jaccard = [
        Curve("found", BOTH, diagonal("jaccard")),
        Curve("by chance", _NEUTRAL, [rate / (2 - rate) for rate in rates], dashed=True),
    ]
    differences = [
        # One curve for both patches: equally large top sets have equally large differences.
        Curve("found, either", BOTH, diagonal("difference_S", size)),
        Curve("Wei et al.: 3 %", _NEUTRAL, [WEI_SHARE] * len(rates), dashed=True),
    ]
    return [
        (
            curves("overlap of the top sets (Jaccard), a = b", labels, jaccard),
            "How much of two equally large top sets is shared, by their size. Two independent "
            "patches would share r / (2 - r) at the rate r.",
        ),
        (
            curves("difference sets, share of all entries, a = b", labels, differences),
            "Wei et al. (2402.05162) call safety-critical what is among the top q % for safety "
            "and not among the top p % for utility, and find about 3 % of the parameters. The "
            "difference set is the same set of another pair: over-safety takes utility's role, and "
            "both scores are those of the patched models on D_h, not of the backbone on safe "
            "answers. So the sizes can be compared, and not the parameters' meaning.",
        ),
    ]


def _by_rates(numbers: Mapping[str, Any]) -> list[Figure]:
    """What each of a and b changes."""
    labels, size = [percent(rate) for rate in numbers["rates"]], numbers["elements"]
    return [
        (
            grid("safety's difference set (%)", labels, numbers["difference_S"], SAFETY, size),
            "Share of all entries that the safety patch may change, for its own top rate a (rows) "
            "and the over-safety patch's b (columns): a adds, b takes away.",
        ),
        (
            grid(
                "over-safety's difference set (%)",
                labels,
                numbers["difference_O"],
                OVER_SAFETY,
                size,
            ),
            "The same for the over-safety patch: b adds, a takes away.",
        ),
    ]


def _by_unit(numbers: Mapping[str, Any]) -> list[Figure]:
    """Neurons and channels that matter to one patch, or to both."""
    units = numbers["units"]
    labels = [f"{multiple:g}" for multiple in units["multiples"]]
    kinds = (
        ("safety", "safety alone", SAFETY),
        ("over_safety", "over-safety alone", OVER_SAFETY),
        ("both", "both", BOTH),
    )
    figures = []
    for side, of in (("rows", "output neurons (rows)"), ("columns", "input channels (columns)")):
        count = max(units[side]["units"], 1)
        drawn = [
            Curve(label, colour, [value / count for value in units[side][kind]])
            for kind, label, colour in kinds
        ]
        drawn.append(Curve("SSAH: 1.3 %", _NEUTRAL, [SSAH_SHARE] * len(labels), dashed=True))
        words = (
            f"Of {units[side]['units']:,} {of} the share whose summed score is more than m times "
            "that of the mean unit of its matrix, by m. SSAH (2410.10862) finds 1.3 to 1.4 % of "
            "units exclusive to safety, by pruning and against utility; here units are counted by "
            "their share of importance and against over-safety, and where the line is crossed "
            "depends on m, which is our choice."
        )
        figures.append((curves(f"units that matter: {of}, by m", labels, drawn), words))
    return figures
