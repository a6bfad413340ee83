"""What a patch was made from: the record that makes a rerun continue, skip, or refuse."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from merge.errors import UserError
from merge.files import read_json
from merge.fingerprint import backbone_fingerprint
from merge.patch_directory import Role
from train.data import Example, data_hash
from train.prompts import ChatPrompts
from train.recipe import TrainRecipe
from train.refusal_margin import RefusalOpenings

_RECORDED_PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")


def patch_inputs(
    recipe: TrainRecipe,
    role: Role,
    backbone: Path,
    examples: Sequence[Example],
    harmless: Sequence[Example],
    prompts: ChatPrompts,
    measured: Sequence[Example] = (),
    openings: RefusalOpenings | None = None,
) -> dict[str, Any]:
    """All that determines a patch, as JSON values for patch.json, with its hash as "identity".

    The prompts have a part of their own, "chat", only where settings, or more than the template's
    generation prompt, make them: so the identities of older patches hold.

    Args:
        measured: pairs of the importance, where they are not those of the training.
        openings: of the backbone's refusals, where the training watches its margin.
    """
    inputs = {
        "role": role,
        "backbone_fingerprint": backbone_fingerprint(backbone),
        "data_hash": data_hash(examples),
        "harmless_hash": data_hash(harmless) if harmless else None,
        "config": {
            "seed": recipe.seed,
            "backbone": recipe.backbone.model_dump(mode="json"),
            "data": recipe.data.model_dump(mode="json"),
            "harmless": recipe.harmless and recipe.harmless.model_dump(mode="json"),
            "training": recipe.training(role).model_dump(mode="json"),
            "importance": recipe.importance.model_dump(mode="json"),
        },
    }
    if not prompts.follow_the_template:
        digest = _prompts_hash(prompts, [*examples, *harmless])
        inputs["chat"] = {**prompts.recorded, "prompts_sha256": digest}
    if measured:
        inputs["measured_hash"] = data_hash(measured)
    if openings is not None:
        inputs["openings"] = [list(tokens) for tokens in openings.tokens]
    text = json.dumps(inputs, sort_keys=True)
    return {**inputs, "identity": hashlib.sha256(text.encode()).hexdigest()}


def _prompts_hash(prompts: ChatPrompts, examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        encoded = prompts.example(example.question, example.answer)
        digest.update(json.dumps(encoded).encode())
    return digest.hexdigest()


def is_finished(directory: Path, identity: str) -> bool:
    """Whether the patch directory already holds this very patch.

    Raises:
        UserError: it holds a finished patch of something else.
    """
    record = directory / "patch.json"
    if not record.is_file():
        return False
    if read_json(record).get("identity") != identity:
        raise UserError(
            f"{directory}: holds a patch of other settings, data or backbone; delete it, or "
            "choose another output"
        )
    return True


def software_versions() -> dict[str, str]:
    """The versions that a patch depends on."""
    versions = {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
    return {"python": platform.python_version(), **versions}
