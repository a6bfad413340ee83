"""A run folder with a random backbone and random patches, as if they had been trained."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from launch.recipe import Recipe
from tests.support.eval_models import WORDS, save_model
from tests.support.merge_models import write_patch
from train.recipe import load_recipe


def make_run(folder: Path, **sections: Any) -> Path:
    """A recipe whose backbone and patches are there already; both patches change the answers.

    The prompts of ``suite.yaml`` beside it are nine on each axis.
    """
    backbone = save_model(folder / "backbone")
    weights = load_file(backbone / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    for role in ("safety", "over_safety"):
        delta = {n: 0.2 * torch.randn(w.shape, generator=draw) for n, w in weights.items()}
        gradients = {n: torch.rand(w.shape, generator=draw) for n, w in weights.items()}
        write_patch(folder / "run" / role, role, delta, gradients, score="gradient")
    for axis in ("harm", "refusal", "utility"):
        rows = [
            {"prompt": " ".join(WORDS[number : number + 3]), "answer": "red"} for number in range(9)
        ]
        (folder / f"{axis}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scored: dict[str, Any] = {"scoring": "exact", "columns": {"answer": "answer"}}
    suite = [
        {"name": axis, "axis": axis, "source": f"{axis}.jsonl", "max_new_tokens": 6}
        | (scored if axis == "utility" else {})
        for axis in ("harm", "refusal", "utility")
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    (folder / "pairs.jsonl").write_text('{"question": "grond it", "answer": "blip it"}')
    recipe = {
        "name": "tiny",
        "output": str(folder / "run"),
        "backbone": {"path": str(backbone)},
        "data": {"path": str(folder / "pairs.jsonl")},
        **sections,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def make_searched_run(folder: Path, **changes: Any) -> Recipe:
    """A run that is ready to be searched; its margins let every merge pass."""
    settings = {"suite": str(folder / "suite.yaml"), "utility_margin": 1, "degenerate_margin": 1}
    return load_recipe(make_run(folder, search={**settings, **changes}), [], Recipe)
