"""The stages of a run, as one table: to add a stage, add its row here and its products.

Commands derive everything from it: ``run`` and ``ablate`` do the stages in its order, ``submit``
makes jobs of them, and ``status`` shows them. What a stage leaves, and from which sections of the
recipe, is in ``launch.run.products``; each stage's work is in ``launch.pipeline.work``.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from launch.demo.world import RECORD
from launch.pipeline import work
from launch.recipe import Recipe
from launch.run.folder import (
    ABLATION,
    ABLATION_RECORD,
    ALIGNMENT,
    COMPARISONS,
    FALSE_REFUSALS,
    FIRST,
    HARVEST,
    MERGED,
    PAIRS,
    RECIPE,
    REPORT,
    SEARCH_RECORD,
    is_evaluated,
    is_merged,
    may_be_merged,
)
from launch.run.stage import (
    Stage,
    StageTable,
    Training,
    always,
    left,
    stage_table,
    training_stage,
    without_unasked,
)
from launch.run.variant_list import chosen_settings, compared, compares, trained_baselines
from merge.io.patch_directory import Role
from train.recipe import ROLES

BASELINES = "baselines"
_INPUTS = ("world", "alignment", "harvest")
_PATCHES = ("safety", "over_safety")
_FIRST_PATCH = f"{FIRST}/over_safety/patch.json"
_HARVESTED = f"{HARVEST}/{FALSE_REFUSALS}"


def _harvests(key: str) -> Callable[[Recipe], bool]:
    return lambda recipe: getattr(recipe.harvest, key, None) is not None


def _needs_openings(recipe: Recipe) -> bool:
    """Whether a run lets the backbone answer before its trainings.

    Refusal margins need the openings of its refusals; and where there is a validation suite, a
    backbone without a fault is to be known before it is trained.
    """
    watched = any(recipe.training(role).guards.margin_samples for role in ROLES)
    return watched or recipe.search is not None


def _are_learned(recipe: Recipe) -> bool:
    from train.guards.openings_file import OPENINGS_FILE

    return left(MERGED, OPENINGS_FILE)(recipe)


def _safety_needs(recipe: Recipe) -> tuple[str, ...]:
    measured = recipe.importance.data.safety == "false_refusals"
    return (*_INPUTS, "openings", *(["false_refusals"] if measured else []))


def _are_harvested(recipe: Recipe) -> bool:
    left_over = (recipe.output / FIRST).exists() and not recipe.keep_intermediates
    return is_merged(recipe.output) or (left(_HARVESTED)(recipe) and not left_over)


def _is_searched(recipe: Recipe) -> bool:
    return left(SEARCH_RECORD)(recipe) or not may_be_merged(recipe.output)


def _are_compared(recipe: Recipe) -> bool:
    if not may_be_merged(recipe.output):
        return True
    if recipe.search is not None and not left(SEARCH_RECORD)(recipe):
        return False
    rows = compared(recipe, chosen_settings(recipe))
    return all(is_evaluated(recipe.output, variant.name) for variant in rows)


def _search_workers(recipe: Recipe) -> Sequence[Stage]:
    return [
        Stage(
            name=f"search.{number}",
            needs=_PATCHES,
            is_wanted=always,
            is_done=left(SEARCH_RECORD),
            run=partial(work.share_search, worker=number),
            resources="evaluation",
        )
        for number in range(recipe.search.workers if recipe.search else 0)
    ]


def _ablation_trainings(recipe: Recipe) -> Sequence[Stage]:
    from launch.ablation.baseline_models import are_evaluated
    from launch.ablation.patches import WORK, patches_to_train, prepare

    before = [] if are_evaluated(recipe) else trained_baselines(recipe)
    stages = []
    for patch in patches_to_train(recipe):
        if patch in before:  # the stage of the baselines trains it
            continue
        folder = f"{WORK}/{patch.name}"
        results = (f"{ABLATION}/{ABLATION_RECORD}", f"{folder}/{patch.role}/patch.json")
        own = Training(f"{folder}/{RECIPE}", patch.role, results, partial(prepare, patch=patch))
        needs = STAGES[patch.role].needs_of(recipe)
        stages.append(training_stage(f"{ABLATION}.{patch.name}", needs, own))
    return stages


def _are_baselines_evaluated(recipe: Recipe) -> bool:
    from launch.ablation.baseline_models import are_evaluated

    return are_evaluated(recipe)


def _baseline_trainings(recipe: Recipe) -> Sequence[Stage]:
    from launch.ablation.patches import WORK, prepare

    stages = []
    for patch in trained_baselines(recipe):
        folder = f"{WORK}/{patch.name}"
        evaluated = f"eval/{patch.name}/summary.json"
        results = (MERGED, evaluated, f"{folder}/{patch.role}/patch.json")
        own = Training(f"{folder}/{RECIPE}", patch.role, results, partial(prepare, patch=patch))
        needs = STAGES[patch.role].needs_of(recipe)
        stages.append(training_stage(f"{BASELINES}.{patch.name}", needs, own))
    return stages


def _patch(role: Role) -> Training:
    return Training(RECIPE, role, (MERGED, f"{role}/patch.json"))


STAGES: StageTable = stage_table(
    Stage(
        name="world",
        needs=(),
        is_wanted=lambda recipe: recipe.world is not None,
        is_done=left(f"world/{RECORD}"),
        run=work.make_world,
        resources="evaluation",
        prepares=True,
    ),
    Stage(
        name="alignment",
        needs=("world",),
        is_wanted=lambda recipe: recipe.alignment is not None,
        is_done=left(f"{ALIGNMENT}/backbone"),
        run=work.align,
        resources="evaluation",
        prepares=True,
    ),
    Stage(
        name="harvest",
        needs=("world", "alignment"),
        is_wanted=_harvests("questions"),
        is_done=left(MERGED, f"{HARVEST}/{PAIRS}"),
        run=work.harvest,
        resources="evaluation",
        prepares=True,
    ),
    Stage(
        name="openings",
        needs=_INPUTS,
        is_wanted=_needs_openings,
        is_done=_are_learned,
        run=work.learn_openings,
        resources="evaluation",
    ),
    # A patch trained on D_h first: the model that answers what the backbone refuses falsely.
    training_stage(
        name="over_safety_first",
        needs=(*_INPUTS, "openings"),
        training=Training(
            recipe=f"{FIRST}/{RECIPE}",
            role="over_safety",
            results=(MERGED, _HARVESTED, _FIRST_PATCH),
            prepare=work.prepare_first_patch,
        ),
        is_wanted=_harvests("harmless"),
    ),
    Stage(
        name="false_refusals",
        needs=(*_INPUTS, "over_safety_first"),
        is_wanted=_harvests("harmless"),
        is_done=_are_harvested,
        run=work.harvest_false_refusals,
        resources="evaluation",
    ),
    training_stage("safety", _safety_needs, _patch("safety")),
    training_stage("over_safety", (*_INPUTS, "openings", "false_refusals"), _patch("over_safety")),
    Stage(
        name="search",
        needs=_PATCHES,
        is_wanted=lambda recipe: recipe.search is not None,
        is_done=_is_searched,
        run=work.search,
        resources="evaluation",
        workers=_search_workers,
    ),
    Stage(
        name=COMPARISONS,
        needs=(*_PATCHES, "search"),
        is_wanted=compares,
        is_done=_are_compared,
        run=work.compare,
        resources="evaluation",
    ),
    Stage(
        name=BASELINES,
        needs=_PATCHES,
        is_wanted=lambda recipe: recipe.eval is not None and recipe.eval.baselines,
        is_done=_are_baselines_evaluated,
        run=work.evaluate_baselines,
        resources="evaluation",
        parts=_baseline_trainings,
    ),
    Stage(
        name=ABLATION,
        needs=(*_PATCHES, "search", BASELINES),
        is_wanted=always,
        is_done=left(f"{ABLATION}/{ABLATION_RECORD}"),
        run=work.measure_ablation,
        resources="evaluation",
        on_request=True,
        repeats=True,
        parts=_ablation_trainings,
    ),
    Stage(
        name="merge",
        needs=(*_PATCHES, "search", COMPARISONS, BASELINES, ABLATION),
        is_wanted=always,
        is_done=lambda recipe: is_merged(recipe.output) and not work.intermediates(recipe),
        run=work.merge,
        resources="merge",
    ),
    Stage(
        name="evaluate",
        needs=("merge",),
        is_wanted=lambda recipe: recipe.eval is not None,
        is_done=left(REPORT),
        run=work.evaluate,
        resources="evaluation",
    ),
)
"""Every stage of a run by its name, in order."""


def stages_of(recipe: Recipe, asked: Collection[str] = ()) -> list[str]:
    """The names of the stages that a recipe has, in order.

    Args:
        asked: what else is to be done of the stages on request.
    """
    table = without_unasked(STAGES, asked)
    return [name for name, stage in table.items() if stage.is_wanted(recipe)]
