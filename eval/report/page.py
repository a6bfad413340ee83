"""A comparison for people: one page without network, and a table for a model card."""

from pathlib import Path

import jinja2
from markupsafe import Markup

from eval.axes import AXES, FAULTS, SEARCHED
from eval.report.curves import AUC_TITLES
from eval.report.headline import main_model
from eval.report.paper_table.table import (
    REFERENCE,
    markdown_lines,
    reference_line,
    shown_cell,
    shown_published,
)
from eval.report.pictures.fronts import fronts_of
from eval.report.pictures.roc_curves import roc_svg
from eval.report.pictures.trade_off import standalone, trade_off_svg
from eval.report.record import Report
from eval.report.table import (
    area,
    axis_title,
    judged_by,
    markdown_table,
    percent,
    rating,
    settings_line,
    shown_axes,
)
from eval.text.forms import FORMS
from merge.common.files import atomic_write_json, atomic_write_text, make_directory

_TEMPLATE = Path(__file__).parent / "templates" / "report.html.jinja"


def write_report(report: Report, directory: Path) -> None:
    """Write report.html, trade-off.svg, report.md and, last, report.json.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    make_directory(directory)
    atomic_write_text(directory / "report.html", render_html(report))
    atomic_write_text(directory / "trade-off.svg", standalone(trade_off_svg(report)))
    lines = [markdown_table(report), *markdown_lines(report)]
    atomic_write_text(directory / "report.md", "\n".join(lines).rstrip("\n") + "\n")
    atomic_write_json(directory / "report.json", report)


def render_html(report: Report) -> str:
    """One self-contained page; everything that a model said is escaped."""
    # Autoescape on: what a model says never becomes part of the page's code.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
    )
    template = environment.get_template(_TEMPLATE.name)
    trials = report.get("search", {}).get("trials", [])
    axes, main = shown_axes(report), main_model(report)
    return template.render(
        report=report,
        axes=axes,
        cards=sorted(report.get("verdicts", {}), key=lambda name: name != main),
        faults=FAULTS,
        searched=SEARCHED,
        names={key: axis.title for key, axis in AXES.items()},
        titles={axis: axis_title(report, axis) for axis in axes},
        judged_by=judged_by(report),
        percent=percent,
        rating=rating,
        settings_line=settings_line,
        # matplotlib escapes the names that it draws.
        picture=Markup(trade_off_svg(report)),
        narrow_picture=Markup(trade_off_svg(report, narrow=True)),
        curve=Markup(roc_svg(report)) if "margins" in report else None,
        area=area,
        auc_titles=AUC_TITLES,
        forms=FORMS,
        fronts=fronts_of(trials),
        reference=REFERENCE,
        reference_line=reference_line,
        shown_cell=shown_cell,
        shown_published=shown_published,
    )
