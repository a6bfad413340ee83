"""Method by_set: which set of either patch takes what scale, and what it shares with others."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from merge.common.errors import UserError
from merge.common.files import read_json
from merge.common.settings import parse_settings
from merge.settings import MergeSettings
from merge.verify import verify
from tests.merge.engine.test_exact import INCLUDE, SETTINGS, expected, make_case, run_build
from tests.support.merge_models import write_tensors

BY_SET: dict[str, Any] = {**SETTINGS, "method": "by_set"}
EQUAL = {"alpha_shared": 1.3, "alpha_rest": 1.3, "beta_shared": 0.6, "beta_rest": 0.6}
SHARED_ALONE = {"alpha": 0.0, "alpha_shared": 1.3, "beta": 0.0, "beta_shared": 0.6}


@pytest.mark.parametrize("scope", ["tensor", "model"])
@pytest.mark.parametrize(
    ("method", "scales"), [("difference", {}), ("intersection", SHARED_ALONE), ("dense", EQUAL)]
)
def test_holds_other_methods(
    tmp_path: Path, method: str, scales: dict[str, float], scope: str
) -> None:
    """Bits and counts of the method that takes the same sets."""
    make_case(tmp_path)
    by_set = run_build(tmp_path, "by_set", **{**BY_SET, "scope": scope, **scales})
    assert by_set == run_build(tmp_path, "other", **{**SETTINGS, "method": method, "scope": scope})
    ours, theirs = (
        read_json(tmp_path / out / "merge.json")["tensors"] for out in ("by_set", "other")
    )
    # Dense ranks nothing, so it counts no top sets.
    left_out = {"top_S", "top_O", "overlap"} if method == "dense" else set()
    assert sum(report["kept_S"] for report in ours.values()) > 0
    for name, report in ours.items():
        assert {key: value for key, value in report.items() if key not in left_out} == {
            key: value for key, value in theirs[name].items() if key not in left_out
        }


def test_counts_say_what_was_taken(tmp_path: Path) -> None:
    """kept_S and kept_O are entries of the sets that have a scale, here against the difference."""
    make_case(tmp_path)
    run_build(tmp_path, "rest", **{**BY_SET, "retention": 1.0, "alpha": 0.0, "alpha_rest": 0.5})
    run_build(tmp_path, "own", **{**SETTINGS, "retention": 1.0})
    tensors, own = (read_json(tmp_path / out / "merge.json")["tensors"] for out in ("rest", "own"))
    for name, report in tensors.items():
        assert report["kept_S"] == report["elements"] - report["top_S"]
        assert report["kept_O"] == report["top_O"] - report["overlap"] == own[name]["kept_O"]
        assert report["top_S"] == own[name]["top_S"]


def test_a_set_of_scale_0_keeps_its_bits(tmp_path: Path) -> None:
    """Also a negative zero, which a sum with 0 would make positive."""
    make_case(tmp_path, torch.float32)
    write_tensors(tmp_path / "backbone", "model", {"w1": torch.full((90, 3), -0.0)})
    for role in ("safety", "over_safety"):
        for kind in ("delta", "importance"):
            tensors = load_file(tmp_path / role / f"{kind}.safetensors")
            write_tensors(tmp_path / role, kind, {"w1": tensors["w1"]})
    settings = {**BY_SET, "retention": 1.0, "alpha": 0.0, "beta": 0.0, "beta_shared": 2.0}
    merged = np.frombuffer(run_build(tmp_path, **settings)["w1"], np.uint32)
    report = read_json(tmp_path / "out/merge.json")["tensors"]["w1"]
    assert 0 < report["overlap"] == report["kept_O"] and report["kept_S"] == 0
    assert (merged == 0x80000000).sum() >= 270 - report["overlap"]


def test_rescaling_and_rules(tmp_path: Path) -> None:
    """A rule changes the scales that it names; kept entries are divided by the retention."""
    case = make_case(tmp_path)
    chosen = {**BY_SET, "rescale": True, "alpha_rest": 0.25, "beta_shared": -2.0}
    rules = [{"pattern": "w1*", "alpha_rest": -1.0, "beta_shared": 0.0}]
    merged = run_build(tmp_path, **chosen, scales=rules)
    everywhere = expected(case, True, **chosen)
    ruled = expected(case, True, **{**chosen, "alpha_rest": -1.0, "beta_shared": 0.0})
    assert merged == {n: ruled[n] if n.startswith("w1") else everywhere[n] for n in everywhere}


@pytest.mark.parametrize("method", ["difference", "dense", "ties"])
def test_another_method_has_no_scales_by_set(method: str) -> None:
    for values in ({"beta_rest": 0.5}, {"scales": [{"pattern": "*", "beta_rest": 0.0}]}):
        with pytest.raises(UserError, match=f"^recipe: beta_rest is .* {method}: set method to by"):
            parse_settings(MergeSettings, {"method": method, **values}, "recipe")


def test_older_dumps_are_unchanged() -> None:
    """An identity is made of the dump: settings without the new keys must have the old one."""
    settings = MergeSettings.model_validate({"scales": [{"pattern": "*.0.*", "alpha": 2.0}]})
    dump = settings.model_dump()
    assert not any("shared" in key or "rest" in key for key in dump)
    assert dump["scales"] == ({"pattern": "*.0.*", "alpha": 2.0, "beta": None},)
    again = MergeSettings(method="by_set", alpha_rest=-1.0)
    assert again.model_dump()["alpha_rest"] == -1.0
    assert MergeSettings.model_validate(again.model_dump()) == again


def test_the_command_line_takes_the_scales(tmp_path: Path) -> None:
    case = make_case(tmp_path)
    scales = {"alpha_shared": 0.5, "alpha_rest": -0.25, "beta_shared": -1.5, "beta_rest": 0.125}
    folders = ("backbone", "safety", "over_safety", "out")
    flags = [f"--{name.replace('_', '-')}={tmp_path / name}" for name in folders]
    chosen = {**BY_SET, **scales}
    flags += [f"--{key.replace('_', '-')}={value}" for key, value in chosen.items()]
    done = subprocess.run(
        [sys.executable, "-m", "merge", "build", *flags, "--include", *INCLUDE],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    verify(tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    wanted = expected(case, True, **chosen)
    for name, tensor in merged.items():
        assert tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() == wanted[name]
