"""`python -m launch plan`: what the trainings of a recipe need, before a GPU is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from launch.prepare.preflight import patch_bytes
from launch.recipe import Recipe
from launch.sizing.chain_times import chain_table
from launch.sizing.gpus import GPU_GIGABYTES
from launch.sizing.plan_checks import Checks, planned_checks
from launch.sizing.stage_times import answering_needs, fitting_sizes, memory_table, time_table
from launch.sizing.training_needs import (
    Memory,
    Model,
    checkpoint_bytes,
    host_bytes,
    rank_memory,
)
from merge.common.errors import UserError
from merge.io.patch_directory import Role
from train.backbone.folder import read_config
from train.backbone.skeleton import build_skeleton
from train.recipe import ROLES, TrainRecipe
from train.settings import TrainingSettings
from train.zero.ds_config import CONFIG_FOLDER, ds_config
from train.zero.ranks import World

GPU_COUNTS = (1, 2, 4, 8, 16)
_GPU_CONFIGS = ("zero3_gpu", "zero3_offload")
"""The fastest first."""
_GB = 1e9


@dataclass(frozen=True)
class Need:
    """Memory of one DeepSpeed configuration on some GPUs."""

    config: str
    gpu: Memory
    host: float
    """Bytes of one host."""

    def fits(self, gigabytes: int) -> bool:
        """Whether GPUs of so much memory suffice."""
        return self.gpu.total <= gigabytes * _GB


def plan(recipe: Recipe, nodes: int, gpus_per_node: int) -> tuple[RenderableType, list[str]]:
    """The tables of one recipe on the GPUs that a person has, and what a run would refuse.

    Raises:
        UserError: the backbone's configuration or the data cannot be read.
    """
    for flag, count in (("--nodes", nodes), ("--gpus-per-node", gpus_per_node)):
        if count < 1:
            raise UserError(f"{flag} {count}: must be at least 1")
    skeleton = _skeleton(recipe)
    model = Model.of(skeleton)
    checks = planned_checks(recipe, skeleton)
    asking, jobs = memory_table(model, recipe), chain_table(recipe)
    shown = Group(
        f"{recipe.backbone.path}: {model.shape.parameters / _GB:.2f} billion parameters",
        *(f"{role}: {_micro_batches(recipe.training(role))}" for role in ROLES),
        _needs_table(model, recipe, nodes, gpus_per_node),
        *([asking] if asking is not None else []),
        _disk_table(model, recipe),
        time_table(model, recipe, nodes * gpus_per_node),
        *([jobs] if jobs is not None else []),
        _checks_table(checks),
    )
    return shown, checks.faults


def plan_table(recipes: Sequence[Recipe]) -> tuple[RenderableType, list[str]]:
    """Which ds_config of which recipe fits which GPUs, and how many; and what runs would refuse.

    Raises:
        UserError: a backbone's configuration cannot be read.
    """
    table = Table(title="Memory in GB, and whether it fits GPUs of")
    for name in ("recipe", "GPUs", "ds_config"):
        table.add_column(name, no_wrap=True)
    for name in ("a GPU", "a host", *(f"{size} GB" for size in GPU_GIGABYTES)):
        table.add_column(name, justify="right", no_wrap=True)
    lines: list[str] = []
    faults: list[str] = []
    for recipe in recipes:
        skeleton = _skeleton(recipe)
        model, checks = Model.of(skeleton), planned_checks(recipe, skeleton)
        lines += [f"{recipe.name}, {what}: {fact}" for what, fact in checks.facts]
        lines += [
            f"{recipe.name}: {stage} needs {need.total / _GB:.1f} GB on one GPU; fits GPUs of "
            f"{fitting_sizes(need.total)} GB"
            for stage, need in answering_needs(model, recipe).items()
        ]
        faults += checks.faults
        counted: set[Role] = set()
        for count in GPU_COUNTS:
            nodes, gpus = (1, count) if count <= 8 else (count // 8, 8)
            for name in _GPU_CONFIGS:
                needs = _different_needs(model, recipe, name, nodes, gpus)
                role, need = max(needs.items(), key=lambda each: each[1].gpu.total)
                if len(needs) > 1:
                    counted.add(role)
                table.add_row(
                    recipe.name,
                    f"{count}" if nodes == 1 else f"{count} ({nodes} nodes)",
                    name,
                    f"{need.gpu.total / _GB:.1f}",
                    f"{max(each.host for each in needs.values()) / _GB:.0f}",
                    *("yes" if need.fits(size) else "no" for size in GPU_GIGABYTES),
                )
        if counted:
            larger = " or ".join(sorted(counted))
            lines.append(f"{recipe.name}: memory of the larger training, which is {larger}")
        table.add_section()
    return Group(table, *lines), faults


def _skeleton(recipe: Recipe) -> Any:
    settings = recipe.backbone
    path = Path(settings.path)
    if path.is_relative_to(recipe.output) and not path.exists():
        raise UserError(
            f"backbone {path}: the run makes it, and has not yet; plan when it is there, or name a "
            "model of its size with backbone.path=FOLDER"
        )
    return build_skeleton(read_config(settings), settings.trust_remote_code, settings.path)


def gpu_need(
    model: Model, training: TrainingSettings, name: str, nodes: int, gpus_per_node: int
) -> Need:
    """What one of ds_configs/ needs, in bf16."""
    ranks = nodes * gpus_per_node
    file = training.model_copy(update={"ds_config": str(CONFIG_FOLDER / f"{name}.json")})
    config = ds_config(file, "bfloat16", World(0, ranks, 0, gpus_per_node))
    return Need(
        config=name,
        gpu=rank_memory(model, config, training, 2, ranks, on_gpu=True),
        host=host_bytes(model, config, training, 2, ranks, gpus_per_node),
    )


def _different_needs(
    model: Model, recipe: TrainRecipe, name: str, nodes: int, gpus: int
) -> dict[Role, Need]:
    """What each training needs by one of ds_configs/; one entry where both need the same."""
    needs: dict[Role, Need] = {}
    for role in ROLES:
        need = gpu_need(model, recipe.training(role), name, nodes, gpus)
        if need not in needs.values():
            needs[role] = need
    return needs


def _micro_batches(training: TrainingSettings) -> str:
    return (
        f"micro-batches of {training.micro_batch_size} x {training.max_length} tokens, gradient "
        f"checkpointing {'on' if training.gradient_checkpointing else 'off'}"
    )


def _needs_table(model: Model, recipe: TrainRecipe, nodes: int, gpus: int) -> Table:
    table = Table(title=f"Memory in GB, {nodes} nodes of {gpus} GPUs")
    table.add_column("one GPU")
    needs = []
    for name in _GPU_CONFIGS:
        by_role = _different_needs(model, recipe, name, nodes, gpus)
        for role, need in by_role.items():
            table.add_column(f"{name}, {role}" if len(by_role) > 1 else name, justify="right")
            needs.append(need)
    for part in needs[0].gpu.parts():
        table.add_row(part, *(f"{need.gpu.parts()[part] / _GB:.1f}" for need in needs))
    table.add_row("sum", *(f"{need.gpu.total / _GB:.1f}" for need in needs), style="bold")
    table.add_row("fits GPUs of (GB)", *(fitting_sizes(need.gpu.total) for need in needs))
    table.add_row("one host", *(f"{need.host / _GB:.0f}" for need in needs), style="bold")
    return table


def _disk_table(model: Model, recipe: TrainRecipe) -> Table:
    table = Table(title="Disk in GB")
    table.add_column("what")
    table.add_column("GB", justify="right")
    for role in ROLES:
        training = recipe.training(role)
        kept = training.checkpoints_kept
        # The one being written, and those that stay meanwhile.
        checkpoints = (kept + 1) * checkpoint_bytes(model, training, 2)
        table.add_row(f"{role}: {kept} checkpoints and one more", f"{checkpoints / _GB:.0f}")
        table.add_row(f"{role}: patch", f"{patch_bytes(model.shape) / _GB:.0f}")
    table.add_row("patched model, in bf16", f"{2 * model.shape.parameters / _GB:.0f}")
    return table


def _checks_table(checks: Checks) -> Table:
    table = Table(title="Checked before the first training", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for what, fact in checks.facts:
        table.add_row(what, fact)
    return table
