"""All texts that a run will give to its models, read before any training (issue 13)."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.answering.decoding import anchors
from eval.decoding_settings import Steering, Switch, parse_decoding
from eval.suites.prompts import PromptSet, attack_of, load_prompts
from eval.suites.suite import load_suite
from launch.in_memory.vllm_model import answers_by_vllm, refuse_tasks
from launch.prepare.data_check import describe_pairs
from launch.prepare.overlap import Kind, Place, pairs_at, prompts_at, refuse_overlaps
from launch.prepare.own_answers import question_suite
from launch.recipe import Recipe
from launch.run.variant_list import trained_baselines
from merge.common.errors import UserError
from train.chat.example import Example
from train.data.examples import read_examples
from train.data.tables import is_file
from train.recipe import DataSettings

logger = logging.getLogger(__name__)

_SEARCHED_AXES = ("harm", "refusal", "utility")
"""A search weighs harm and refusals, and keeps utility."""


@dataclass(frozen=True)
class Texts:
    """All texts of a run."""

    examples: Sequence[Example]
    """D_h."""
    harmless: Sequence[Example]
    refusals: Sequence[Example]
    prompt_sets: Sequence[PromptSet]
    baselines: Sequence[Example]
    """The harmless pairs that the report's baselines learn and the patches do not."""


def check_data(recipe: Recipe) -> Texts:
    """Read the data, every suite and every judge's settings.

    Raises:
        UserError: one is missing or malformed, the search's suite lacks an axis, or a question
            stands in two places that must not meet (``launch.prepare.overlap``).
    """
    _check_judges(recipe)
    examples = read_examples(recipe.data)
    harmless = read_examples(recipe.harmless) if recipe.harmless else []
    refusals = read_examples(recipe.refusals) if recipe.refusals else []
    describe_pairs(examples)
    learned = [
        pairs_at("data", "harmful", examples),
        pairs_at("harmless", "harmless", harmless),
        pairs_at("refusals", "harmful", refusals),
    ]
    false_refusals: list[Example] = []
    if recipe.false_refusals is not None and not _harvests_harmless(recipe):
        false_refusals = read_examples(recipe.false_refusals)
        describe_pairs(false_refusals, "false_refusals")
        learned.append(pairs_at("false_refusals", "harmless", false_refusals))
    baselines = [pair for data in _baseline_data(recipe) for pair in read_examples(data)]
    learned.append(pairs_at("ablate.harmless", "harmless", baselines))
    prompts, asked = _prompts(recipe), _harvest_questions(recipe)
    refuse_overlaps([*prompts, *learned, *asked, *_anchors(recipe)])
    prompt_sets = [each for place in (*prompts, *asked) for each in place.prompt_sets]
    return Texts(examples, [*harmless, *false_refusals], refusals, prompt_sets, baselines)


def _baseline_data(recipe: Recipe) -> list[DataSettings]:
    """What the report's baselines learn besides the patches' data, each source once."""
    sources: list[DataSettings] = []
    for patch in trained_baselines(recipe):
        if patch.harmless not in (None, recipe.harmless, *sources):
            sources.append(patch.harmless)
    return sources


def _check_judges(recipe: Recipe) -> None:
    """Read what the recipe names of judges, and the published numbers that stand beside theirs.

    The weights of judges are loaded when they are asked.

    Raises:
        UserError: a file is missing or malformed, or the agreement is of another judge.
    """
    from eval.judges.by_model.settings import HarmJudgeSettings, load_judge_file
    from eval.judges.judges import load_judges
    from eval.mt_bench import read_questions
    from eval.report.judge_errors import read_agreement

    settings = recipe.evaluation
    judges = load_judges(settings)
    if settings.agreement is not None:
        read_agreement(settings.agreement, judges.refusal_rule, judges.settings.get("refusal"))
    if settings.mt_bench is not None:
        read_questions(settings.mt_bench.questions)
    if recipe.eval is not None and recipe.eval.paper_table is not None:
        recipe.eval.paper_table.numbers()
    if recipe.harvest is not None and recipe.harvest.harm_judge is not None:
        load_judge_file(recipe.harvest.harm_judge, HarmJudgeSettings)


def check_questions(recipe: Recipe) -> None:
    """See that the questions of a harvest stand nowhere else, before any is asked.

    Raises:
        UserError: as ``check_data``, as far as the data need not be there.
    """
    refuse_overlaps([*_prompts(recipe), *_harvest_questions(recipe), *_anchors(recipe)])


def _prompts(recipe: Recipe) -> list[Place]:
    """What is asked to choose settings, and to judge the result."""
    data_dir = recipe.evaluation.data_dir
    places = []
    if recipe.search is not None:
        validation = load_prompts(load_suite(recipe.search.suite, data_dir))
        _refuse_attacks(validation, recipe.search.suite)
        _refuse_missing_axes(validation, recipe.search.suite)
        if answers_by_vllm(recipe):
            refuse_tasks(validation)
        places.append(prompts_at("search.suite", "validation", validation))
    if recipe.eval is not None:
        test = load_prompts(load_suite(recipe.eval.suite, data_dir))
        _warn_of_missing_axes(test, recipe.eval.suite)
        places.append(prompts_at("eval.suite", "test", test))
    return places


def _harvests_harmless(recipe: Recipe) -> bool:
    return recipe.harvest is not None and recipe.harvest.harmless is not None


def _harvest_questions(recipe: Recipe) -> list[Place]:
    """What a harvest asks, of which D_h and the false refusals are made."""
    harvest = recipe.harvest
    if harvest is None:
        return []
    rows: dict[str, tuple[Kind, tuple[dict[str, Any], ...]]] = {
        "harvest.questions": ("harmful", (harvest.questions,) if harvest.questions else ()),
        "harvest.harmless": ("harmless", harvest.harmless or ()),
    }
    return [
        prompts_at(section, kind, load_prompts(question_suite(recipe, section, *sources)))
        for section, (kind, sources) in rows.items()
        if sources
    ]


def _anchors(recipe: Recipe) -> list[Place]:
    """What decodings learn from: the authors of SCANS took test prompts."""
    places = []
    for name, values in (recipe.eval.decodings if recipe.eval else {}).items():
        settings = parse_decoding(values, f"eval.decodings.{name}")
        if isinstance(settings, Steering | Switch):
            harmful, harmless = anchors(settings)
            section = f"eval.decodings.{name}"
            places.append(prompts_at(f"{section}.harmful", "harmful", [harmful]))
            places.append(prompts_at(f"{section}.harmless", "harmless", [harmless]))
    return places


def texts_are_local(recipe: Recipe) -> bool:
    """Whether data and suites can be read without the hub."""
    data_dir = recipe.evaluation.data_dir
    sections = [section for section in (recipe.search, recipe.eval) if section is not None]
    suites = [load_suite(section.suite, data_dir) for section in sections]
    sources = [row.source for suite in suites for row in suite.rows]
    pairs = (recipe.data, recipe.harmless, recipe.false_refusals, recipe.refusals)
    sources += [data.path for data in (*pairs, *_baseline_data(recipe)) if data is not None]
    sources += [str(row.get("source", "")) for row in _question_rows(recipe)]
    return all(map(is_file, sources)) and not any(suite.tasks for suite in suites)


def _question_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of suites that stand in the recipe itself."""
    harvest = recipe.harvest
    rows = [] if harvest is None else [harvest.questions or {}, *(harvest.harmless or ())]
    for name, values in (recipe.eval.decodings if recipe.eval else {}).items():
        settings = parse_decoding(values, f"eval.decodings.{name}")
        rows += (
            [settings.harmful, settings.harmless] if isinstance(settings, Steering | Switch) else []
        )
    return [row for row in rows if row]


def _missing_axes(prompt_sets: Iterable[PromptSet]) -> list[str]:
    axes = {each.row.axis for each in prompt_sets if attack_of(each) is None}
    return [axis for axis in _SEARCHED_AXES if axis not in axes]


def _refuse_attacks(prompt_sets: Iterable[PromptSet], suite: Path) -> None:
    """A search's margins are of plain prompts, at the beginning of their answers."""
    attacks = [each.row.name for each in prompt_sets if attack_of(each) is not None]
    if attacks:
        raise UserError(
            f"search.suite {suite}: '{attacks[0]}' is an attack, and a search weighs plain "
            "prompts; move the row to eval.suite"
        )


def _warn_of_missing_axes(prompt_sets: Iterable[PromptSet], suite: Path) -> None:
    missing = _missing_axes(prompt_sets)
    if missing:
        logger.warning(
            "eval.suite %s: has no row of axis %s: the report cannot say what the patch does there",
            suite,
            " or ".join(missing),
        )


def _refuse_missing_axes(prompt_sets: Iterable[PromptSet], suite: Path) -> None:
    missing = _missing_axes(prompt_sets)
    if missing:
        raise UserError(
            f"search.suite {suite}: has no row of axis {' or '.join(missing)}; a search weighs "
            f"{', '.join(_SEARCHED_AXES)}: add a row of each"
        )
