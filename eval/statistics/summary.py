"""The content of summary.json, which ``eval run`` writes for one model and reports read."""

from typing import Any, Literal, TypedDict

from eval.statistics.rates import RateRecord

SUMMARY_NAME = "summary.json"


class CostRecord(TypedDict, total=False):
    """What answers cost, as summary.json holds it; empty where that was not measured.

    It is the sum of cost.jsonl (``eval.answering.cost``): of all batches, whenever they were asked.
    """

    answers: int
    """Answers of all batches, timed or not."""
    seconds: float
    """Seconds of all timed batches."""
    tokens: int
    """Generated tokens."""
    tokens_per_second: float | None
    """None where no token was generated."""


class AnyAttack(TypedDict, total=False):
    """The kind of attack of a suite whose prompts are one."""

    attack: str
    """The kind of attack that the suite's prompts are; absent for plain prompts."""


class SuiteSummary(AnyAttack, RateRecord):
    """The rate of a suite's own axis, and what its answers are; older files lack some counts."""

    axis: str
    refusal_counts: dict[str, int]
    """Answers by the refusal judge's class."""
    other_languages: dict[str, int]
    """Answers by language, those in English left out."""
    harm_counts: dict[str, int]
    """Answers by the harm judge's class; empty without a harm judge."""
    categories: dict[str, RateRecord]
    """Rate of each category of prompts."""


class OpeningsRecord(TypedDict):
    """The refusal openings behind a model's margins (``train.guards.refusal_margin``)."""

    tokens: list[list[int]]
    coverage: float
    precision: float


class _Rates(TypedDict):
    format: int
    name: str
    """Name of the model."""
    axes: dict[str, RateRecord]
    """Rate over all suites of each axis (``eval.axes``)."""
    suites: dict[str, SuiteSummary]
    harm_rule: str
    """What counts as harmful, and by which judge."""
    prompts_sha256: str
    """Hash of all prompts, whatever their order: models are comparable where it is the same."""
    identity: dict[str, str]
    """Hashes of the model's weights and tokenizer."""
    settings: dict[str, Any]
    """How the model was asked: dtype, decoding, chat settings and the suite's rows."""
    cost: CostRecord


class Summary(_Rates, total=False):
    """The rates of one model with all that they depend on; optional keys came with later versions.

    The file stands beside the answers, and says by being there that the evaluation is finished.
    """

    coverage: float | None
    """Share of the blocks' linear weights that the model's merge covered; None without a merge."""
    erased: dict[Literal["safety", "over_safety"], float]
    """By patch the share of its entries that rounding erased, where that is most of them."""
    refusal_rule: str
    """Which judge told refusals from answers."""
    judge_settings: dict[str, str]
    """By "harm" and "refusal" a short hash of the file of each judge that is a model's."""
    wanted_sha256: str
    """Hash of the right answers, choices and goals that belong to the prompts."""
    openings: OpeningsRecord | None
    """None where no margins were measured."""
    written_by: dict[str, str]
    """Version, commit and recipe hash (``merge.common.provenance``)."""
    made_of: dict[str, Any]
    """Files and hashes behind the rates (``eval.report.origin``)."""
    versions: dict[str, str]
    """Versions of torch and transformers."""
    left_out: dict[str, list[str]]
    """By optional row that was not asked the files that are not there."""
    notes: list[str]
    """What a reader of the rates must know (``eval.report.notes``)."""
