"""A report as a table: for the terminal, and in Markdown for a model card."""

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from eval.axes import AXES
from eval.report.attacks import attack_lines
from eval.report.curves import AUC_TITLES
from eval.report.headline import main_model
from eval.report.record import Report
from eval.statistics.rates import GroupedMean, Interval, RateRecord

_SHOWN_SETTINGS = (
    "method",
    "score",
    "scope",
    "top_safety",
    "top_over_safety",
    "retention",
    "alpha",
    "beta",
)
_SET_SCALES = ("alpha_shared", "alpha_rest", "beta_shared", "beta_rest")


_AUC_COLUMNS = ("auc", "auc_matched")


def shown_axes(report: Mapping[str, Any]) -> list[str]:
    """The axes that any model has, in fixed order.

    Args:
        report: anything with rates by model and axis under "models".
    """
    return [axis for axis in AXES if any(axis in rates for rates in report["models"].values())]


def percent(rate: Interval | None) -> str:
    """A rate as "12.3 % [10.1, 14.9]"; a dash where there is none."""
    if rate is None:
        return "-"
    low, high = (f"{100 * rate[end]:.1f}" for end in ("low", "high"))
    return f"{100 * rate['value']:.1f} % [{low}, {high}]"


def area(interval: Interval | None) -> str:
    """An AUC as "0.781 [0.722, 0.835]"; a dash where there is none."""
    if interval is None:
        return "-"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def rating(entry: GroupedMean) -> str:
    """A mean rating as "6.01 [5.70, 6.35]"; a dash where nothing could be read."""
    if entry["value"] is None:
        return "-"
    return f"{entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"


def headline_text(report: Report) -> str:
    """What happened to the model that the report is about, after its name; else nothing."""
    name = main_model(report)
    sentence = report.get("headline", {}).get(name or "")
    return f"{name}: {sentence}" if sentence else ""


def axis_title(report: Report, axis: str) -> str:
    """Title with direction and number of cases, for example "Utility (higher is better, n=50)"."""
    return f"{AXES[axis].title} ({_direction(axis)} is better, n={_cases(report, axis)})"


def render_table(report: Report) -> Table:
    """The three axes and degenerate answers of each model, for a rich console."""
    axes = shown_axes(report)
    verdicts = report.get("verdicts", {})
    table = Table(
        title="Rates in % with 95 % Wilson intervals",
        caption="\n".join([*map(escape, judged_by(report)), *map(escape, report.get("notes", []))]),
        show_lines=True,
    )
    table.add_column("model", overflow="fold", min_width=12)
    for axis in axes:
        title = AXES[axis].title.replace(" ", "\n", 1)
        head = f"{title}\n{_direction(axis)} is\nbetter\nn={_cases(report, axis)}"
        table.add_column(head, justify="right")
    measured = report.get("margins", {})
    if measured:
        table.padding = (0, 1, 0, 0)  # so that one column more fits 80 characters
        table.add_column("AUC,\nof\nmatched\nforms", justify="right")
    if verdicts:
        table.add_column(f"against\n{report['backbone']}")
    for name, rates in report["models"].items():
        verdict = [verdicts[name]["overall"]] if name in verdicts else []
        cells = [_narrow(rates.get(axis)) for axis in axes]
        areas = measured.get(name, {})
        cells += ["\n".join(_short(areas.get(key)) for key in _AUC_COLUMNS)] * bool(measured)
        table.add_row(escape(name), *cells, *verdict)
    return table


def judged_by(report: Report) -> list[str]:
    """Who judged what, and how far people agree where that was measured; a line each."""
    # Older summaries and reports do not say it.
    lines = [f"harmful: {report['harm_rule']}"] if "harm_rule" in report else []
    if "refusal_rule" in report:
        measured = report.get("judge_agreement", {}).get("models", {}).get("all")
        known = "{n} labelled answers: kappa {kappa:.3f} [{low:.3f}, {high:.3f}] with people"
        agreement = f" ({known.format(**measured)})" if measured else ""
        lines.append(f"refused: by {report['refusal_rule']}{agreement}")
    return lines


def markdown_table(report: Report) -> str:
    """The headline, and the same as ``render_table`` with the plain mean of utility suites."""
    axes = shown_axes(report)
    verdicts, averages = report.get("verdicts", {}), report.get("utility_average", {})
    head = ["model", *(axis_title(report, axis) for axis in axes)]
    averaged = any(averages.values())
    head += ["Utility average (of suites)"] * averaged
    measured = report.get("margins", {})
    areas = _AUC_COLUMNS if measured else ()
    head += [AUC_TITLES[key] for key in areas]
    head += [f"against {report['backbone']}"] * bool(verdicts)
    rows = [head, ["---"] * len(head)]
    for name, rates in report["models"].items():
        cells = [name.replace("|", "\\|"), *(percent(rates.get(axis)) for axis in axes)]
        cells += [percent(averages.get(name))] * averaged
        cells += [area(measured.get(name, {}).get(key)) for key in areas]
        cells += [verdicts[name]["overall"] if name in verdicts else "-"] * bool(verdicts)
        rows.append(cells)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = [f"\n{line}." for line in report.get("notes", [])]
    rule = f"95 % Wilson intervals; {'; '.join(judged_by(report))}."
    head = [f"{headline_text(report)}.\n"] if headline_text(report) else []
    return "\n".join([*head, *lines, *attack_lines(report), "", rule, *notes, ""])


def _narrow(rate: RateRecord | None) -> str:
    """A rate over its interval, so that six columns fit 80 characters."""
    if rate is None:
        return "-"
    return f"{100 * rate['value']:.1f}\n{100 * rate['low']:.1f}-{100 * rate['high']:.1f}"


def _short(entry: Interval | None) -> str:
    return "-" if entry is None else f"{entry['value']:.3f}"


def _direction(axis: str) -> str:
    return "lower" if AXES[axis].lower_is_better else "higher"


def _cases(report: Report, axis: str) -> str:
    counts = {rates[axis]["n"] for rates in report["models"].values() if axis in rates}
    return "/".join(map(str, sorted(counts)))


def settings_line(values: Mapping[str, Any]) -> str:
    """Merge settings in one line, those that a search draws or fits.

    Args:
        values: as ``MergeSettings`` dumps them; those of an older version may lack some.
    """
    shown = [
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
        if key in _SHOWN_SETTINGS or (key in _SET_SCALES and value)
    ]
    if values.get("scales"):
        shown.append(f"{len(values['scales'])} rules of scales")
    return ", ".join(shown)
