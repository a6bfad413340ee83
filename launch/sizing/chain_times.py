"""What `launch plan` says of the chains of jobs, and of the time of what is more than one run."""

from collections.abc import Iterable, Iterator

from rich.table import Table

from launch.ablation.sensitivity import curves, retention_seeds
from launch.continual.stage_recipes import ContinualStage, baseline_stages, patch_stages
from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.stage import without_unasked
from launch.run.variant import WholePatch
from launch.run.variant_list import baselines, variants
from launch.slurm.batch_scripts.stage_scripts import RunPlace
from launch.slurm.chain import Chain
from launch.slurm.continual_chain import ContinualChain
from launch.slurm.run_chain import RunChain


def chain_table(recipe: Recipe) -> Table | None:
    """How many jobs there are still to submit, by what is submitted; None without a cluster part.

    Raises:
        UserError: the recipe does not hold for what has a section in it.
    """
    settings = recipe.cluster
    if settings is None:
        return None
    folder = recipe.output.resolve()
    place = RunPlace(folder)
    run = RunChain(recipe.name, settings, place, [recipe], None, without_unasked(STAGES))
    chains: dict[str, Chain] = {"launch submit": run}
    if recipe.eval is not None:
        ablated = RunChain(recipe.name, settings, place, [recipe], None, STAGES)
        chains["launch submit --ablate"] = ablated
    if recipe.continual is not None:
        chains["launch submit --continual"] = ContinualChain(recipe, settings, folder)
    nodes = "one node" if settings.nodes == 1 else f"{settings.nodes} nodes"
    table = Table(title="Jobs that are still to be done")
    table.add_column("command", no_wrap=True)
    for title in ("jobs", f"trainings, each on {nodes}", "others, each on one node"):
        table.add_column(title, justify="right")
    for command, chain in chains.items():
        jobs = chain.jobs()
        trainings = sum(len(job.tasks) for job in jobs if job.trains)
        total = sum(len(job.tasks) for job in jobs)
        table.add_row(command, f"{total}", f"{trainings}", f"{total - trainings}")
    return table


def ablation_trainings(recipe: Recipe) -> Iterator[WholePatch]:
    """What an ablation trains, where the recipe has a section for it."""
    if recipe.ablate is not None:
        for row in baselines(recipe):
            if isinstance(row.model, WholePatch) and row.model.name != row.model.role:
                yield row.model


def ablation_models(recipe: Recipe) -> int:
    """How many models an ablation asks: with the recipe's own settings of the merge."""
    full = recipe.merge
    points = [point.settings for line in curves(full).values() for point in line]
    seeds = retention_seeds(full, recipe.ablate_settings().retention_seeds)
    asked = [*(row.model for row in variants(recipe, {full.method: full})), *points, *seeds]
    return len(_different(asked))


def _different(models: Iterable[object]) -> list[object]:
    different: list[object] = []
    for model in models:
        if model not in different:
            different.append(model)
    return different


def continual_recipes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The stages of a continual alignment by their folders, as recipes whose time can be planned.

    A stage is counted with all prompts of the search, of which it asks those of its harm so far.
    """
    if recipe.continual is None or recipe.eval is None:
        return
    for stage in patch_stages(recipe):
        yield f"stages/{stage.settings.name}", _whole_search(stage, recipe)


def baseline_recipes(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """Times of the baselines; each trains the safety patch alone and evaluates one model."""
    if recipe.continual is None or recipe.eval is None:
        return
    for baseline in recipe.continual.baselines:
        for stage in baseline_stages(recipe, baseline):
            yield f"baselines/{baseline}/{stage.settings.name}", stage.recipe


def _whole_search(stage: ContinualStage, recipe: Recipe) -> Recipe:
    if stage.recipe.search is None or recipe.search is None:
        return stage.recipe
    search = stage.recipe.search.model_copy(update={"suite": recipe.search.suite})
    return stage.recipe.model_copy(update={"search": search, "cluster": recipe.cluster})
