"""Which kinds of patches a fit of scales can repair most with.

    python -m tests.benchmarks.measure_patches RUN [--orders 2] [--kinds NAME ...] [key=value ...]

RUN is a run folder with harvest, openings and a search's answers of the backbone, as
``launch search`` leaves it under a recipe that searches by margins. Every kind below is trained in
several orders of the data until the same refusal margin is reached (issue 14): an ascent until half
of D_h's questions are likely refused, a descent until hardly any is. Then the margins of validation
prompts are differentiated by the scales of every patch, and for every pair of a safety and an
over-safety patch the table says how well the fitted margins tell harmful from harmless prompts
that the fit has not seen (cross-validated AUC): all pairs of prompts, and those of one form.
"""

import argparse
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from eval.statistics.roc import Side, auc
from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.search.fit.columns import GROUPINGS, Grouping, columns_of, sum_columns
from launch.search.fit.cross_validation import Candidate, validate
from launch.search.fit.derivatives import ScaleDerivatives
from launch.search.fit.kept import spaced_places
from launch.search.fit.objective import Linearised
from launch.search.margin_search import judged_answers
from launch.search.margins.margin_model import TEMPERATURE, MarginModel
from launch.search.trial_model import load_in_memory_model
from merge.common.files import atomic_write_json, make_directory, read_json
from merge.in_memory import LoadedInputs
from merge.io.patch_directory import Role
from merge.settings import SETS
from train.backbone.folder import backbone_directory
from train.guards.openings_file import OPENINGS_FILE, read_openings
from train.recipe import ROLES, load_recipe

_ADAMW = {"optimizer": "adamw", "learning_rate": 5e-6, "answer_tokens": None}
_SGD = {"optimizer": "sgd_normalised", "learning_rate": 0.012, "adam_eps": None}
KINDS: dict[Role, dict[str, dict[str, Any]]] = {
    "safety": {
        "AdamW": _ADAMW,
        "AdamW, eps of the gradients' size": {**_ADAMW, "adam_eps": 1e-4, "learning_rate": 2e-6},
        "AdamW, first 4 tokens": {**_ADAMW, "answer_tokens": 4},
        "SGD, whole answers": {**_SGD, "answer_tokens": None},
        "SGD, weights 0.7^i": {**_SGD, "answer_tokens": None, "answer_decay": 0.7},
        "SGD, first 4 tokens": {**_SGD, "answer_tokens": 4},
        "SGD, first 4 tokens, all of D_h": {**_SGD, "answer_tokens": 4, "batch_size": "all"},
    },
    "over_safety": {
        "AdamW": {**_ADAMW, "data": "harmful"},
        "SGD, first 4 tokens": {**_SGD, "answer_tokens": 4, "data": "harmful"},
        "SGD, first 5, false refusals": {**_SGD, "answer_tokens": 5, "data": "false_refusals"},
        "SGD, first 5, both": {**_SGD, "answer_tokens": 5, "data": "both"},
    },
}
"""What each kind changes in a training of the recipe; only the first ones are of the paper."""
_ENDS: dict[Role, dict[str, float]] = {
    "safety": {"margin_samples": 24, "max_refusal": 0.5},
    "over_safety": {"margin_samples": 24, "min_refusal": 0.05},
}
_MOST_STEPS = 12
_GROUPINGS: tuple[Grouping, ...] = GROUPINGS[:2]


class Kind(NamedTuple):
    """A patch: its role, the name of its kind, and which order of the data."""

    role: Role
    name: str
    order: int

    @property
    def slug(self) -> str:
        """For file names."""
        letters = (each if each.isalnum() else "-" for each in self.name.lower())
        return f"{''.join(letters)}-{self.order}"


def main() -> None:
    """Parse the command line, train, differentiate, and print a table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.measure_patches", description=__doc__
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--orders", type=int, default=2)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args()
    recipe = load_recipe(options.run / "recipe.yaml", options.overrides, Recipe)
    assert recipe.search is not None
    study = Study(recipe, recipe.output / "measure-patches")
    for order in range(options.orders):
        study.measure(order)
        rows = study.compared(range(order + 1))
        atomic_write_json(study.folder / "compared.json", {"rows": rows})
        Console(width=140).print(shown(rows))


class Study:
    """Trains, differentiates and compares; what is measured already stays.

    Args:
        folder: of patches, which are deleted order by order, and of their derivatives.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self._model: MarginModel | None = None
        make_directory(folder, 0o700)

    def measure(self, order: int) -> None:
        """All kinds in one order of the data."""
        kinds = [[Kind(role, name, order) for name in KINDS[role]] for role in ROLES]
        first = (kinds[0][0], kinds[1][0])
        # One backward pass a prompt serves both patches of a merge.
        for pair in zip_longest(*kinds):
            safety, over_safety = (
                measured or known for measured, known in zip(pair, first, strict=True)
            )
            made = [kind for kind in (safety, over_safety) if self._derivatives(kind).is_file()]
            if len(made) == len(ROLES):
                continue
            for kind in (safety, over_safety):
                self._train(kind)
            self._differentiate((safety, over_safety))
            for kind in {safety, over_safety}.difference(first):
                shutil.rmtree(self._run_folder(kind))
        for role in ROLES:
            shutil.rmtree(self.folder / role, ignore_errors=True)

    def compared(self, orders: range) -> list[dict[str, Any]]:
        """A row for every pair of kinds and order: held-out AUC by grouping."""
        return [
            self._compared(safety, over_safety, order)
            for safety, over_safety, order in product(KINDS["safety"], KINDS["over_safety"], orders)
        ]

    def _run_folder(self, kind: Kind) -> Path:
        return self.folder / kind.role / kind.slug

    def _derivatives(self, kind: Kind) -> Path:
        return self.folder / f"{kind.role}-{kind.slug}.npz"

    def _train(self, kind: Kind) -> None:
        role, name, order = kind
        output = self._run_folder(kind)
        if (output / role / "patch.json").is_file():
            return
        section = self.recipe.training(role)
        guards = section.guards.model_copy(update=_ENDS[role])
        changed = {"steps": _MOST_STEPS, "guards": guards, **KINDS[role][name], "data_seed": order}
        # A fit of whole patches ranks nothing.
        importance = self.recipe.importance.model_copy(update={"samples": 1})
        recipe = self.recipe.model_copy(
            update={
                "output": output,
                role: section.model_copy(update=changed),
                "importance": importance,
            }
        )
        make_directory(output, 0o700)
        shutil.copyfile(self.recipe.output / OPENINGS_FILE, output / OPENINGS_FILE)
        file = claim_folder(recipe)
        command = ["-m", "train.launcher", "--processes=1", str(file), "--role", role]
        subprocess.run([sys.executable, *command], check=True)

    def _differentiate(self, pair: tuple[Kind, Kind]) -> None:
        folders = [self._run_folder(kind) / kind.role for kind in pair]
        safety, over_safety = folders
        model, recipe = self._margin_model(), self.recipe
        backbone = backbone_directory(recipe.backbone)
        loaded = LoadedInputs.read(backbone, safety, over_safety, recipe.merge)
        model.in_memory.load_merge(None)
        in_memory = replace(model.in_memory, loaded=loaded)
        prompts = [model.prompts[place] for place in self._chosen(model)]
        derivatives = ScaleDerivatives(in_memory, recipe.merge).of_margins(
            prompts, model.openings, TEMPERATURE
        )
        for number, (kind, patch) in enumerate(zip(pair, folders, strict=True)):
            record = read_json(patch / "patch.json")
            margins = record["margins"]
            np.savez(
                self._derivatives(kind),
                derivatives=derivatives[:, :, number].sum(-1),
                names=np.array(loaded.inputs.covered),
                steps=record["steps"],
                probability=[margins[0]["probability"], margins[-1]["probability"]],
            )

    def _margin_model(self) -> MarginModel:
        """The backbone with its margins, loaded once."""
        if self._model is None:
            recipe = self.recipe
            in_memory = load_in_memory_model(recipe, backbone_directory(recipe.backbone))
            answers = judged_answers(recipe.output / "search" / "backbone")
            openings = read_openings(recipe.output / OPENINGS_FILE)
            self._model = MarginModel(in_memory, openings, answers)
        return self._model

    def _chosen(self, model: MarginModel) -> np.ndarray:
        assert self.recipe.search is not None
        return spaced_places(len(model.prompts), self.recipe.search.fit_prompts)

    def _compared(self, safety: str, over_safety: str, order: int) -> dict[str, Any]:
        model = self._margin_model()
        assert model.calibration is not None
        chosen = self._chosen(model)
        patches = [
            np.load(self._derivatives(kind))
            for kind in (Kind("safety", safety, order), Kind("over_safety", over_safety, order))
        ]
        names = patches[0]["names"].tolist()
        # A whole patch has one scale for all of its sets.
        derivatives = np.stack([patch["derivatives"] for patch in patches], 2)[..., None] / len(
            SETS
        )
        derivatives = np.repeat(derivatives, len(SETS), -1)
        row: dict[str, Any] = {"safety": safety, "over_safety": over_safety, "order": order}
        for patch, role in zip(patches, ROLES, strict=True):
            row[f"{role}_steps"] = int(patch["steps"])
            row[f"{role}_probability"] = patch["probability"].tolist()
        candidates = [
            Candidate(
                grouping,
                tuple(columns := columns_of(names, grouping, "dense")),
                Linearised(
                    np.zeros(len(columns)),
                    model.backbone.margins[chosen],
                    sum_columns(derivatives, names, columns, grouping, "dense"),
                    model.harmful[chosen],
                    model.forms[chosen],
                ),
                np.zeros((len(columns), len(columns))),
            )
            for grouping in _GROUPINGS
        ]
        row["backbone"] = self._aucs(model.backbone.margins[chosen], chosen)
        for each in reversed(validate(candidates, model.calibration)):
            # The last one written is the ridge with the least held-out loss.
            row[each.candidate.grouping] = self._aucs(each.margins, chosen)
        return row

    def _aucs(self, margins: np.ndarray, chosen: np.ndarray) -> dict[str, float | None]:
        model = self._margin_model()
        harmful, forms = model.harmful[chosen], model.forms[chosen]
        refuse = Side(margins[harmful], forms[harmful])
        answer = Side(margins[~harmful], forms[~harmful])
        return {"all": auc(refuse, answer), "matched": auc(refuse, answer, "matched")}


def shown(rows: list[dict[str, Any]]) -> Table:
    """Means over the orders, the best pair by matched forms first."""
    table = Table(title="AUC of fitted margins on held-out prompts, mean over the data's orders")
    for head in ("safety", "steps", "P(refuse)", "over-safety", "steps", "P(refuse)"):
        table.add_column(head)
    for grouping in ("backbone", *_GROUPINGS):
        for pairing in ("all", "matched"):
            table.add_column(f"{grouping}\n{pairing}", justify="right")
    pairs = dict.fromkeys((row["safety"], row["over_safety"]) for row in rows)
    of_pair = {
        pair: [row for row in rows if (row["safety"], row["over_safety"]) == pair] for pair in pairs
    }
    best = sorted(of_pair, key=lambda pair: -_mean(of_pair[pair], _GROUPINGS[-1], "matched"))
    for pair in best:
        patches = of_pair[pair]
        cells = [
            f"{_mean(patches, grouping, pairing):.3f}"
            for grouping in ("backbone", *_GROUPINGS)
            for pairing in ("all", "matched")
        ]
        table.add_row(*_training(patches, "safety"), *_training(patches, "over_safety"), *cells)
    return table


def _training(rows: list[dict[str, Any]], role: Role) -> tuple[str, str, str]:
    steps = "/".join(str(row[f"{role}_steps"]) for row in rows)
    reached = "/".join(f"{row[f'{role}_probability'][1]:.2f}" for row in rows)
    return rows[0][role], steps, reached


def _mean(rows: list[dict[str, Any]], grouping: str, pairing: str) -> float:
    return float(np.mean([row[grouping][pairing] for row in rows]))


if __name__ == "__main__":
    main()
