"""The content of report.json, which ``eval compare`` writes and tables and pictures show."""

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from eval.judges.agreement import Agreement
from eval.report.attacks import AttackEntry
from eval.report.curves import Claims, ModelMargins
from eval.report.form_changes import FormChange, FormRate
from eval.report.ratings import RatingEntry
from eval.report.verdict import Verdict
from eval.statistics.rates import Interval, MeanRecord, RateRecord
from eval.statistics.summary import SuiteSummary

ModelRates = dict[str, RateRecord]
"""Rates of one model by axis."""

Direction = Literal["gone", "new"]


class Example(TypedDict):
    """One answer that counts differently after the change."""

    direction: Direction
    suite: str
    category: str | None
    prompt: str
    before: str
    after: str
    judged: list[str | None]
    """Classes of the refusal judge, before and after."""


class Flips(TypedDict):
    """Answers that count on an axis before and not after ("gone"), or the other way ("new")."""

    gone: int
    new: int
    categories: dict[str, dict[Direction, int]]
    examples: list[Example]


class _Compared(TypedDict):
    models: dict[str, ModelRates]
    """Rates of each model by axis."""
    backbone: str
    """Name of the model that the others are compared with."""


class Report(_Compared, total=False):
    """Several models side by side. A table or a picture needs ``models`` and ``backbone`` alone.

    Keys are absent where nothing of the kind was measured, and in files of older versions.
    """

    format: int
    headline: dict[str, str]
    """By model what happened to it, in one line."""
    harm_rule: str
    refusal_rule: str
    notes: list[str]
    utility_average: dict[str, RateRecord | None]
    """By model the plain mean over the utility suites; None with fewer than two."""
    suites: dict[str, dict[str, SuiteSummary]]
    verdicts: dict[str, Verdict]
    """By model, the backbone left out; so are ``changes``, ``time_per_token`` and ``claims``."""
    changes: dict[str, dict[str, Flips]]
    time_per_token: dict[str, Interval | None]
    """Seconds per generated token as a multiple of the backbone's."""
    details: dict[str, dict[str, Any]]
    """Identity, settings, cost and versions from each model's summary.json."""
    written_by: dict[str, str]
    made_of: dict[str, Any]
    margins: dict[str, ModelMargins]
    forms: dict[str, dict[str, dict[str, FormRate]] | dict[str, dict[str, FormChange]]]
    """By model, axis and form of prompt; of the backbone rates, of the others also changes."""
    claims: dict[str, Claims]
    attacks: dict[str, dict[str, AttackEntry]]
    """By kind of attack and model."""
    mt_bench: dict[str, RatingEntry]
    seeds: dict[str, dict[str, MeanRecord]]
    """By model that was evaluated several times and by axis, over its seeds."""
    search: Mapping[str, Any]
    """The content of search.json, which ``launch.search`` writes."""
    judge_agreement: Agreement
    refusal_rate_corrected: dict[str, RateRecord | None]
    """By model the refusal rate corrected for the judge's errors."""
    paper_table: Mapping[str, Any]
    """See ``eval.report.paper_table.table.paper_table``."""
