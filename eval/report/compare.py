"""`python -m eval compare`: finished evaluations side by side, as data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.answering.cost import time_per_token_ratio, token_times
from eval.axes import AXES, FAULTS
from eval.rates import Completion, axis_outcomes
from eval.report.attacks import attack_report
from eval.report.curves import curve_report
from eval.report.finished import check_comparable, in_one_order, read_answers, read_summary
from eval.report.headline import headline
from eval.report.judge_errors import read_agreement, refusal_rate_corrected, refusal_rule
from eval.report.notes import notes_of
from eval.report.origin import report_origin
from eval.report.ratings import compare_ratings
from eval.report.record import Direction, Example, Flips, Report
from eval.report.verdict import judge_change, margin_of
from eval.settings import Margins
from eval.statistics.rates import (
    MeanRecord,
    Rate,
    RateRecord,
    mean_and_spread,
    mean_of_rates,
    rate,
)
from eval.statistics.summary import SUMMARY_NAME, SuiteSummary, Summary
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.provenance import written_by

_EXAMPLES = 5
"""Changed answers shown per model, axis and direction."""


def compare(
    directories: Sequence[Path],
    search: Path | None = None,
    margins: Margins | None = None,
    agreement: Path | None = None,
    recipe: str | None = None,
) -> Report:
    """The content of report.json.

    The model named "backbone", else the first, is what the others are compared with. Several
    evaluations of one name are that model's seeds: the second is called "NAME (2)", and their
    means stand under "seeds".

    Args:
        search: a search.json whose trials the report shows.
        margins: how much worse an axis may get and count as not worse.
        agreement: what ``python -m eval agreement`` wrote about the refusal judge.
        recipe: hash of the run's recipe, for the report (``merge.common.provenance``).

    Raises:
        UserError: an evaluation is not finished, one is given twice, they were not asked or
            judged alike (``eval.report.finished``), or ``agreement`` is of another judge.
    """
    summaries: dict[str, Summary] = {}
    answers: dict[str, list[Completion]] = {}
    runs: dict[str, list[str]] = {}
    for directory in directories:
        summary = read_summary(directory)
        same_name = runs.setdefault(summary["name"], [])
        name = summary["name"] if not same_name else f"{summary['name']} ({len(same_name) + 1})"
        for other in same_name:
            if summaries[other]["identity"] == summary["identity"]:
                raise UserError(f"{directory}: '{other}' once more, with the same weights; drop it")
        same_name.append(name)
        summaries[name] = summary
        answers[name] = read_answers(directory, summary)
    check_comparable(summaries)
    _fill_unfinished(summaries)
    backbone = "backbone" if "backbone" in summaries else next(iter(summaries))
    answers = in_one_order(answers, backbone)
    others = [name for name in summaries if name != backbone]
    verdicts = {
        name: judge_change(answers[backbone], answers[name], margins or Margins())
        for name in others
    }
    curves = curve_report(answers, backbone, verdicts)
    rule = refusal_rule(summaries[backbone])
    folders = dict(zip(summaries, directories, strict=True))
    times = {name: token_times(folder) for name, folder in folders.items()}
    report: Report = {
        "format": 1,
        "headline": {name: headline(verdict) for name, verdict in verdicts.items()},
        "models": {name: summary["axes"] for name, summary in summaries.items()},
        "backbone": backbone,
        "harm_rule": summaries[backbone]["harm_rule"],
        "refusal_rule": rule,
        "notes": [*_notes(summaries), *curves.shifts],
        "utility_average": {
            name: utility_average(summary["suites"]) for name, summary in summaries.items()
        },
        "suites": {name: summary["suites"] for name, summary in summaries.items()},
        "verdicts": verdicts,
        "changes": {name: changes(answers[backbone], answers[name]) for name in others},
        "time_per_token": {
            name: time_per_token_ratio(times[name], times[backbone]) for name in others
        },
        "details": {
            name: {key: summary.get(key) for key in ("identity", "settings", "cost", "versions")}
            for name, summary in summaries.items()
        },
        "written_by": written_by(recipe),
        "made_of": report_origin(
            {name: folder / SUMMARY_NAME for name, folder in folders.items()},
            {"search": search, "agreement": agreement},
        ),
    }
    if curves.margins:
        report["margins"] = curves.margins
    if curves.forms:
        report["forms"] = curves.forms
    report["claims"] = curves.claims
    attacks = attack_report(answers, backbone, margin_of(margins or Margins(), "attack_success"))
    if attacks:
        report["attacks"] = attacks
    ratings = compare_ratings(
        folders,
        {name: summary["identity"] for name, summary in summaries.items()},
        backbone,
    )
    if ratings:
        report["mt_bench"] = ratings
    seeds = {name: same for name, same in runs.items() if len(same) > 1}
    if seeds:
        report["seeds"] = {name: _seeds(same, summaries) for name, same in seeds.items()}
    if search is not None:
        report["search"] = _read_search(search)
    if agreement is not None:
        report["judge_agreement"] = read_agreement(
            agreement, rule, summaries[backbone].get("judge_settings", {}).get("refusal")
        )
        report["refusal_rate_corrected"] = {
            name: refusal_rate_corrected(summary["axes"], report["judge_agreement"])
            for name, summary in summaries.items()
        }
    return report


def changes(before: Sequence[Completion], after: Sequence[Completion]) -> dict[str, Flips]:
    """Answers that count on an axis before and not after ("gone"), or the other way ("new").

    Returns:
        Per axis: counts by direction, in all and by category, and a few examples of each.
    """
    pairs = zip(before, after, strict=True)
    by_axis: dict[str, Flips] = {}
    for old, new in pairs:
        outcomes = axis_outcomes(new)
        for axis, was in axis_outcomes(old).items():
            if was == outcomes[axis]:
                continue
            direction: Direction = "gone" if was else "new"
            entry = by_axis.setdefault(
                axis, {"gone": 0, "new": 0, "categories": {}, "examples": []}
            )
            entry[direction] += 1
            flips = entry["categories"].setdefault(old.category or old.suite, {"gone": 0, "new": 0})
            flips[direction] += 1
            if entry[direction] <= _EXAMPLES:
                entry["examples"].append(_example(old, new, direction))
    return {axis: by_axis[axis] for axis in AXES if axis in by_axis}


def utility_average(suites: Mapping[str, SuiteSummary]) -> RateRecord | None:
    """The plain mean over the utility suites, as the paper's table has it; ``None`` below two.

    The axis "utility" pools all questions instead, so that a large suite counts for more.
    """
    rates = [
        Rate(*(suite[key] for key in Rate._fields))
        for suite in suites.values()
        if suite["axis"] == "utility"
    ]
    return mean_of_rates(rates).as_dict() if len(rates) > 1 else None


def _seeds(names: Sequence[str], summaries: dict[str, Summary]) -> dict[str, MeanRecord]:
    """Per axis the mean over seeds, with deviation, Student's interval and the single values."""
    axes = summaries[names[0]]["axes"]
    return {
        axis: mean_and_spread([summaries[name]["axes"][axis]["value"] for name in names])
        for axis in axes
    }


def _example(old: Completion, new: Completion, direction: Direction) -> Example:
    return {
        "direction": direction,
        "suite": old.suite,
        "category": old.category,
        "prompt": old.prompt,
        "before": old.judged_text,
        "after": new.judged_text,
        "judged": [old.refusal, new.refusal],
    }


def _fill_unfinished(summaries: dict[str, Summary]) -> None:
    """Give every model the rate of unfinished answers that only some have: theirs is 0."""
    if not any("unfinished_rate" in summary["axes"] for summary in summaries.values()):
        return
    for summary in summaries.values():
        axes = summary["axes"]
        if "degenerate_rate" in axes and "unfinished_rate" not in axes:
            axes["unfinished_rate"] = rate(0, axes["degenerate_rate"]["n"]).as_dict()


def _notes(summaries: Mapping[str, Summary]) -> list[str]:
    """The notes of all models; one that several share stands once, with their names."""
    names: dict[str, list[str]] = {}
    for name, summary in summaries.items():
        for line in notes_of(summary):
            names.setdefault(line, []).append(name)
    return [f"{', '.join(models)}: {line}" for line, models in names.items()]


def _read_search(path: Path) -> Mapping[str, Any]:
    search = read_json(path)
    trials = search.get("trials")
    wanted = {*FAULTS, "settings"}
    if not isinstance(trials, list) or not all(
        isinstance(trial, dict) and wanted <= trial.keys() for trial in trials
    ):
        raise UserError(f"{path}: needs trials with {', '.join(sorted(wanted))}")
    return search
