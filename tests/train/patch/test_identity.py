"""A patch is known by what differs from the defaults, so that a newer version knows it too."""

import json
from pathlib import Path
from typing import Any

import pytest

from merge.common.errors import UserError
from train.patch.identity import identity_of, is_finished
from train.settings import SafetyTraining

TRAINING = SafetyTraining(learning_rate=3e-5)


def record(**training: Any) -> dict[str, Any]:
    """What patch.json says of a patch, as far as it determines one."""
    values = {**TRAINING.model_dump(mode="json"), **training}
    return {
        "role": "safety",
        "backbone_fingerprint": "b",
        "data_hash": "d",
        "harmless_hash": None,
        "config": {
            "seed": 1,
            "backbone": {"path": "m"},
            "data": {"path": "p"},
            "harmless": None,
            "training": values,
            "importance": {"samples": 128},
        },
    }


def test_a_key_that_came_later_changes_no_identity() -> None:
    """Recorded with its value, recorded without it as it was not known, and left out."""
    whole = record()
    older = record()
    del older["config"]["training"]["liger"]
    short = record()
    short["config"]["training"] = {"learning_rate": 3e-5}
    assert identity_of(whole) == identity_of(older) == identity_of(short)
    other = [record(learning_rate=1e-5), record(liger=True), record(guards={"window": 3})]
    assert len({identity_of(each) for each in (whole, *other)}) == 4


def test_every_part_that_determines_a_patch_is_in_its_identity() -> None:
    plain = identity_of(record())
    for key in ("role", "backbone_fingerprint", "data_hash", "harmless_hash"):
        assert identity_of({**record(), key: "over_safety"}) != plain
    for key in ("chat", "measured_hash", "openings", "refusals_hash"):
        assert identity_of({**record(), key: "x"}) != plain
    assert identity_of({**record(), "steps": 7, "written_by": {"version": "0"}}) == plain


def test_a_patch_with_keys_that_nobody_knows_is_another(tmp_path: Path) -> None:
    content = {**record(), "identity": "as another version hashed it"}
    file = tmp_path / "patch.json"
    file.write_text(json.dumps(content))
    assert is_finished(tmp_path, identity_of(record()))
    content["config"]["training"]["momentum"] = 0.5
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="other settings"):
        is_finished(tmp_path, identity_of(record()))
    file.write_text('{"format": 1, "role": "safety"}')  # made by hand
    with pytest.raises(UserError, match="other settings"):
        is_finished(tmp_path, identity_of(record()))
