"""What a stage of a run is: a row of the tables that all commands read (issue 16).

The tables are ``launch.pipeline.stages`` of a run, ``launch.continual.baselines`` and
``launch.continual.continual`` of a continual alignment.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from launch.recipe import Recipe
from merge.io.patch_directory import Role

Resources = Literal["training", "merge", "evaluation"]
"""What a stage's job asks SLURM for: the keys of ``cluster`` itself, those of ``cluster.merge``, or
those of ``cluster.evaluation``."""


@dataclass(frozen=True)
class Training:
    """One training of a run: processes of this machine, or ranks of a job.

    Attributes:
        recipe: its file, in the run folder.
        results: in the run folder; any of them says that it is done: a patch that is merged, or
            has served, may be gone.
        prepare: makes ``recipe`` where that is not the run's own, before the training begins.
    """

    recipe: str
    role: Role
    results: tuple[str, ...]
    prepare: Callable[[Recipe], object] | None = None


def _none(recipe: Recipe) -> Sequence["Stage"]:
    return ()


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: of the stage, its job, and its files in the run folder.
        needs: stages that must be done before it, where the recipe has them.
        is_wanted: whether a recipe has it.
        is_done: whether it has left all its files, or what was made of them is there.
        run: its work, from where an earlier attempt has left it.
        resources: of its job.
        prepares: it makes the backbone or the data, which are checked when they are there.
        on_request: a recipe that has it does it only where a command asks for it.
        repeats: it costs little when it is done, and is then done again.
        parts: stages that are jobs of their own on a cluster; ``run`` does them here.
        workers: stages that may share its work as an array of jobs; ``run`` does what they leave.
    """

    name: str
    needs: tuple[str, ...] | Callable[[Recipe], tuple[str, ...]]
    is_wanted: Callable[[Recipe], bool]
    is_done: Callable[[Recipe], bool]
    run: Training | Callable[[Recipe], object]
    resources: Resources
    prepares: bool = False
    on_request: bool = False
    repeats: bool = False
    parts: Callable[[Recipe], Sequence["Stage"]] = _none
    workers: Callable[[Recipe], Sequence["Stage"]] = _none

    def needs_of(self, recipe: Recipe) -> tuple[str, ...]:
        """The stages that must be done before it, where the recipe has them."""
        return self.needs(recipe) if callable(self.needs) else self.needs


StageTable = Mapping[str, Stage]
"""Stages by name, each after those that it needs."""


def stage_table(*stages: Stage) -> StageTable:
    """The table of these stages."""
    return {stage.name: stage for stage in stages}


def without_unasked(table: StageTable, asked: Collection[str] = ()) -> StageTable:
    """The table without the stages on request, but for those that are asked for."""
    return {name: stage for name, stage in table.items() if not stage.on_request or name in asked}


def find_stage(table: StageTable, name: str, recipe: Recipe) -> Stage | None:
    """A stage by its name, or a part or worker of one as ``search.0``; None where there is none."""
    if name in table:
        return table[name]
    whole = table.get(name.partition(".")[0])
    smaller = [] if whole is None else [*whole.parts(recipe), *whole.workers(recipe)]
    return next((stage for stage in smaller if stage.name == name), None)


def always(recipe: Recipe) -> bool:
    """Every recipe has it."""
    return True


def left(*files: str) -> Callable[[Recipe], bool]:
    """Whether any of these is in the run folder: what a stage leaves, or what it became."""
    return lambda recipe: any((recipe.output / file).exists() for file in files)


def training_stage(
    name: str,
    needs: tuple[str, ...] | Callable[[Recipe], tuple[str, ...]],
    training: Training,
    is_wanted: Callable[[Recipe], bool] = always,
) -> Stage:
    """The stage of a training, which is done when any of its results is there."""
    return Stage(name, needs, is_wanted, left(*training.results), training, "training")
