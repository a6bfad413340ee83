"""What a patch was made from: the record that makes a rerun continue, skip, or refuse."""

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from merge.common.errors import UserError
from merge.common.files import read_json, sha256_json
from merge.common.settings import Settings, parse_settings
from merge.io.fingerprint import backbone_fingerprint
from merge.io.patch_directory import Role
from train.chat.example import Example
from train.chat.prompts import ChatPrompts
from train.data.examples import data_hash
from train.guards.refusal_margin import RefusalOpenings
from train.recipe import BackboneSettings, DataSettings, TrainRecipe
from train.settings import ImportanceSettings, OverSafetyTraining, SafetyTraining

IDENTITY_FORMAT = 2
"""Version of the hash. Version 1, whose records do not name it, hashed every key."""
_DETERMINING = (
    "role", "backbone_fingerprint", "data_hash", "harmless_hash", "config", "chat",
    "measured_hash", "openings", "refusals_hash",
)  # fmt: skip
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
    refusals: Sequence[Example] = (),
) -> dict[str, Any]:
    """All that determines a patch, as JSON values for patch.json, with its hash as "identity".

    The prompts have a part of their own, "chat", only where settings, or more than the template's
    generation prompt, make them. The configuration is recorded whole; the hash is of what differs
    from the defaults, so that a key that comes later changes no identity (``identity_of``).

    Args:
        measured: pairs of the importance, where they are not those of the training.
        openings: of the backbone's refusals, where the training watches its margin.
        refusals: of harmful questions, where the objective learns them.
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
        digest = _prompts_hash(prompts, [*examples, *harmless, *refusals])
        inputs["chat"] = {**prompts.recorded, "prompts_sha256": digest}
    if measured:
        inputs["measured_hash"] = data_hash(measured)
    if openings is not None:
        inputs["openings"] = [list(tokens) for tokens in openings.tokens]
    if refusals:
        inputs["refusals_hash"] = data_hash(refusals)
    return {**inputs, "identity_format": IDENTITY_FORMAT, "identity": identity_of(inputs)}


def identity_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hexadecimal) of all that determines a patch, without keys at their defaults.

    Args:
        inputs: of ``patch_inputs``, or all of a patch.json, also of an older version.

    Raises:
        UserError: the configuration has keys or values that this version does not know.
    """
    known = {key: inputs[key] for key in _DETERMINING if key in inputs}
    known["config"] = _differing(known["config"], known["role"])
    return sha256_json([IDENTITY_FORMAT, known], sort_keys=True)


def first_format_identity(inputs: Mapping[str, Any]) -> str:
    """The hash that versions before ``IDENTITY_FORMAT`` 2 gave these inputs."""
    known = {key: inputs[key] for key in _DETERMINING if key in inputs}
    return sha256_json(known, sort_keys=True)


def _differing(config: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """The recorded configuration without what is at its default."""
    models: dict[str, type[Settings]] = {
        "backbone": BackboneSettings,
        "data": DataSettings,
        "harmless": DataSettings,
        "training": SafetyTraining if role == "safety" else OverSafetyTraining,
        "importance": ImportanceSettings,
    }
    return {
        key: parse_settings(models[key], value, f"patch, {key}").model_dump(
            mode="json", exclude_defaults=True
        )
        if key in models and value is not None
        else value
        for key, value in config.items()
    }


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
    content = read_json(record)
    if identity not in (content.get("identity"), _identity_today(content)):
        raise UserError(
            f"{directory}: holds a patch of other settings, data or backbone; delete it, or "
            "choose another output"
        )
    return True


def _identity_today(record: Mapping[str, Any]) -> str | None:
    """The identity that a patch of another version would have now, where its record tells it."""
    try:
        return identity_of(record)
    except (KeyError, TypeError, AttributeError, UserError):
        return None


def software_versions() -> dict[str, str]:
    """The versions that a patch depends on."""
    versions = {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
    return {"python": platform.python_version(), **versions}
