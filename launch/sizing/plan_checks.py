"""What `launch run` checks before the first training, as `launch plan` shows it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval.suites.suite import load_suite
from launch.ablation.baseline_models import check_experts
from launch.prepare.preflight import (
    backbone_facts,
    check_answering,
    check_trainings,
    disk_bytes,
    readable,
)
from launch.prepare.text_check import check_data, texts_are_local
from launch.prepare.token_check import check_prompts
from launch.recipe import Recipe
from launch.sizing.training_needs import Model
from merge.common.errors import UserError
from merge.common.files import free_bytes
from train.backbone.tensors import BackboneTensors

_BF16_BYTES = 2


@dataclass
class Checks:
    """Facts by what they concern, and the faults among them."""

    facts: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str, error: UserError) -> None:
        """Note what `launch run` would refuse."""
        self.facts.append((what, f"fault: {error}"))
        self.faults.append(str(error))


def planned_checks(recipe: Recipe, skeleton: Any) -> Checks:
    """Everything that can be checked with what is here; nothing is fetched from the hub.

    Args:
        skeleton: the backbone's model without values.
    """
    checks = Checks()
    directory = Path(recipe.backbone.path)
    if any(directory.glob("*.safetensors")) or any(directory.glob("*.bin")):
        try:
            tensors = BackboneTensors(directory, skeleton)
            checks.facts += [("backbone", fact) for fact in backbone_facts(recipe, tensors)]
        except UserError as error:
            checks.fault("backbone", error)
    else:
        checks.facts.append(("backbone", f"not checked: no weights of {directory} are here"))
    try:
        check_answering(recipe)
    except UserError as error:
        checks.fault("answers", error)
    try:
        check_trainings(recipe)
        check_experts(recipe)
    except UserError as error:
        checks.fault("trainings", error)
    _check_texts(checks, recipe, directory, skeleton)
    model = Model.of(skeleton)
    needed = disk_bytes(recipe, model.shape, _BF16_BYTES * model.shape.parameters)
    free = free_bytes(recipe.output)
    short = "" if needed <= free else ": too few"
    words = f"{readable(needed)} without checkpoints, {readable(free)} free{short}"
    checks.facts.append(("disk", words))
    return checks


def _check_texts(checks: Checks, recipe: Recipe, directory: Path, skeleton: Any) -> None:
    try:
        if not texts_are_local(recipe):
            checks.facts.append(("texts", "not checked: some are on the hub, or not here"))
            absent = _absent_files(recipe)
            if absent:
                checks.facts.append(("texts", f"a run needs {', '.join(absent)}"))
            return
        if not Path(recipe.data.path).expanduser().is_file():
            checks.facts.append(("texts", f"not checked: {recipe.data.path} is not here"))
            return
        texts = check_data(recipe)
        checks.facts.append(("texts", f"{len(texts.examples)} pairs in D_h; suites, judges load"))
        if any(directory.glob("tokenizer*")):
            check_prompts(recipe, directory, skeleton, texts)
            checks.facts.append(("template", "gives the pairs back; every token can be read"))
    except UserError as error:
        checks.fault("texts", error)


def _absent_files(recipe: Recipe) -> list[str]:
    """The local files that suites and MT-Bench need and that are not here; optional rows' apart."""
    data_dir = recipe.evaluation.data_dir
    sections = [section for section in (recipe.search, recipe.eval) if section is not None]
    suites = [load_suite(section.suite, data_dir) for section in sections]
    absent = [file for suite in suites for row in suite.rows for file in row.absent_files]
    bench = recipe.evaluation.mt_bench
    return absent + ([] if bench is None or bench.questions.is_file() else [str(bench.questions)])
