"""What of a run folder was made from which sections of its recipe (issue 15).

One table says it; so a change of the recipe is refused only where something that depends on it is
there, and the refusal names what must go.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.recipe import Recipe
from launch.search.settings import SearchSettings
from merge.io.patch_directory import Role
from train.recipe import ROLES
from train.settings import OBJECTIVES

_GROWING = {"trials", "answered", "workers"}
"""Keys of a search that leave its trials as they are."""
_ANSWERED = tuple(
    f"eval.{key}"
    for key in ("dtype", "backend", "reasoning", "date", "harm_judge", "refusal_judge")
)
"""What answers and their verdicts depend on, besides the model and the prompts."""
_ASKED = ("eval.suite", "eval.mt_bench", *_ANSWERED)
"""What the evaluation of a comparison depends on, besides its model."""
_ROUNDING = "merge.rounding"
"""How whole patches are put into the backbone."""
_BASELINE = (
    "ablate.baselines",
    "ablate.harmless",
    "backbone",
    "data",
    "harmless",
    "refusals",
    "safety",
    "seed",
)
"""What a baseline of the report is trained by; its patch belongs to the product ``ablation``."""


@dataclass(frozen=True)
class Product:
    """Something that a stage leaves in a run folder.

    Attributes:
        reads: the sections, or dotted keys of two parts, that it was made from.
        of: other products that it was made from, by their paths.
        marks: what shows that it is there, as patterns; by default its own path.
        remade: it costs little beside what it is made of, and is deleted without asking.
        by_patches: it needs both patches, so it is not made again once these are deleted.
    """

    reads: tuple[str, ...]
    of: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    remade: bool = False
    by_patches: bool = False

    def is_there(self, folder: Path, path: str) -> bool:
        """Whether a run folder holds it, or a beginning of it that another recipe cannot use."""
        return any(any(folder.glob(mark)) for mark in self.marks or (path,))


def products_of(recipe: Recipe) -> dict[str, Product]:
    """The products of a recipe by their paths in its run folder, in the order of the stages.

    Sections that no product reads may change at any time: ``cluster``, ``keep_intermediates``,
    ``continual``, the name, and where the folder is.
    """
    base = ("world", "alignment/backbone")
    harvest = (*base, "harvest/pairs.jsonl")
    searched = tuple(f"search.{key}" for key in SearchSettings.model_fields if key not in _GROWING)
    openings = ("openings.json",) if recipe.search and recipe.search.by == "margins" else ()
    alone = recipe.search.methods[1:] if recipe.search else ()
    return {
        "world": Product(("world", "seed"), marks=("world/world.json",)),
        "alignment/backbone": Product(("alignment", "seed"), ("world",)),
        "harvest/pairs.jsonl": Product(
            ("backbone", "harvest.questions", "harvest.harm_judge"), base
        ),
        "openings.json": Product(("backbone", "data", "search.suite"), harvest),
        "over_safety.first": Product(
            ("backbone", "data", "harmless", "over_safety", "harvest.over_safety", "seed"),
            (*harvest, "openings.json"),
            ("over_safety.first/over_safety/patch.json", "over_safety.first/*.work/step-*"),
        ),
        "harvest/false_refusals.jsonl": Product(
            ("backbone", "harvest.harmless", _ROUNDING), (*base, "over_safety.first")
        ),
        **_patch(recipe, "safety", harvest),
        **_patch(recipe, "over_safety", harvest),
        "search": Product(
            (*searched, "backbone", "merge", "seed", *_ANSWERED),
            ("safety", "over_safety", *openings),
            ("search/*",),
        ),
        "search/search.json": Product(
            ("search.trials", "search.answered"), ("search",), remade=True
        ),
        **{_summary(role): _compared((_ROUNDING,), (role,)) for role in ROLES},
        **{_summary(method): _compared((), ("search/search.json",)) for method in alone},
        **{
            _summary(name): _compared(("merge", f"ablations.{name}"), ("search/search.json",))
            for name in recipe.ablations
        },
        **{
            _summary(name): Product((*_ASKED, "eval.decodings", "backbone"), remade=True)
            for name in (recipe.eval.decodings if recipe.eval else ())
        },
        **{
            _summary(name): _compared((*_BASELINE, _ROUNDING))
            for name in (recipe.ablate_settings().baselines if _has_baselines(recipe) else ())
        },
        "ablation": Product(
            ("backbone", "data", "harmless", "refusals", "importance", "seed"),
            ("safety", "over_safety"),
            ("ablation/outcomes.jsonl", "ablation/work"),
        ),
        "ablation/ablation.json": Product(
            (*_ASKED, "ablate", "ablations", "merge"),
            ("ablation", "search/search.json"),
            remade=True,
        ),
        "patched": Product(
            ("merge",),
            ("safety", "over_safety", "search/search.json"),
            ("patched/merge.json", "patched/.merge-journal.jsonl"),
        ),
        "report/report.json": Product(
            ("eval", "ablations"), ("search/search.json", "patched"), remade=True
        ),
    }


def _patch(recipe: Recipe, role: Role, harvest: tuple[str, ...]) -> dict[str, Product]:
    """The patch of one role, and its unfinished training."""
    reads = ("seed", "backbone", "data", "harmless", role, "importance")
    made_of = harvest
    if recipe.training(role).guards.margin_samples:
        made_of += ("openings.json",)
    if OBJECTIVES[recipe.training(role).objective].needs_refusals:
        reads += ("refusals",)
    learned = recipe.over_safety.data if role == "over_safety" else "harmful"
    if {learned, recipe.importance.data.of(role)} & {"false_refusals", "both"}:
        reads += ("false_refusals",)
        made_of += ("harvest/false_refusals.jsonl",)
    return {
        role: Product(reads, made_of, (f"{role}/patch.json",)),
        f"{role}.work": Product(reads, made_of, (f"{role}.work/step-*/complete.json",)),
    }


def _compared(reads: tuple[str, ...], of: tuple[str, ...] = ()) -> Product:
    """The evaluation of a model that is built for comparison, and then deleted."""
    return Product((*_ASKED, *reads), of, remade=True, by_patches=True)


def _has_baselines(recipe: Recipe) -> bool:
    return recipe.eval is not None and recipe.eval.baselines


def _summary(name: str) -> str:
    """Where the evaluation of a comparison ends; its answers beside it are known by their model."""
    return f"eval/{name}/summary.json"


def stale_products(
    products: Mapping[str, Product], changed: Iterable[str], folder: Path
) -> dict[str, Product]:
    """The products in a run folder that changed sections, or what changes with these, have made.

    Args:
        changed: dotted keys of two parts, or a section's name where it has no keys.
    """
    keys = {part for key in changed for part in (key, key.partition(".")[0])}
    stale: set[str] = set()
    for path, product in products.items():  # what it is made of stands before it
        if keys.intersection(product.reads) or stale.intersection(product.of):
            stale.add(path)
    return {
        path: product
        for path, product in products.items()
        if path in stale and product.is_there(folder, path)
    }
