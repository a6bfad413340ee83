"""What rounding erased of the patches: counted right by every method, and said where it is most."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from merge.build import build
from merge.common.files import atomic_write_json, read_json
from merge.engine.resources import MergeResources
from merge.pictures.density_curves import density_rows
from merge.record.merge_json import totals
from merge.settings import MergeSettings
from tests.merge.engine.test_exact import INCLUDE, SETTINGS, Case, run_build
from tests.support.merge_models import write_patch, write_tensors
from tests.support.merge_reference import Tensors, reference_erased

SHAPES = {"w.embed": (120, 90), "w.layers.0.up_proj.weight": (41, 33)}
"""The first is longer than a chunk of the compiled loops, and no multiple of one."""
BY_SET = {"alpha_shared": -0.4, "beta_rest": 0.7}


def make_erasable_case(folder: Path, dtype: torch.dtype) -> Case:
    """Deltas of which some are 0, some too small for bf16, and some the other patch's negatives."""
    generator = torch.Generator().manual_seed(4)

    def normal(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    backbone = {name: normal(shape).to(dtype) for name, shape in SHAPES.items()}
    deltas: dict[str, Tensors] = {"safety": {}, "over_safety": {}}
    importances: dict[str, Tensors] = {"safety": {}, "over_safety": {}}
    for role in deltas:
        for name, shape in SHAPES.items():
            delta = normal(shape) * 10 ** (normal(shape) - 2.5)
            delta[: int(0.4 * shape[0])] = 0
            if role == "over_safety":
                delta[-9:] = -deltas["safety"][name][-9:]
                delta[3:6] = 0.01
            deltas[role][name] = delta
            importances[role][name] = normal(shape).abs()
        write_patch(folder / role, role, deltas[role], importances[role], score="gradient")
    write_tensors(folder / "backbone", "model", backbone)
    return backbone, deltas, importances


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_counts_equal_the_reference(tmp_path: Path, dtype: torch.dtype) -> None:
    """Zeros, patches that cancel, elected signs and a scale of 0 are nothing that rounding does."""
    case = make_erasable_case(tmp_path, dtype)
    same = {"alpha": 1.0, "beta": 1.0}
    rows: list[tuple[str, dict[str, Any]]] = [
        ("difference", {}), ("difference", {"beta": 0.0}), ("intersection", same), ("dense", same),
        ("by_set", BY_SET), ("safety", {}), ("task_arithmetic", same), ("dare", same),
        ("ties", same), ("linear", {"alpha": 0.5, "beta": 0.5}),
    ]  # fmt: skip
    for number, (method, changes) in enumerate(rows):
        settings = {**SETTINGS, "method": method, **changes}
        run_build(tmp_path, f"out{number}", **settings)
        merged = load_file(tmp_path / f"out{number}/model.safetensors")
        wanted = reference_erased(*case, list(SHAPES), True, merged, **settings)
        record = read_json(tmp_path / f"out{number}/merge.json")
        for name, counts in wanted.items():
            reported = {key: record["tensors"][name][key] for key in counts}
            assert reported == pytest.approx(counts, rel=1e-12), (method, name)
        keys = ("kept_S", "nonzero_S", "erased_count_S")
        kept, nonzero, erased = (sum(counts[key] for counts in wanted.values()) for key in keys)
        assert record["totals"]["erased_S"] == pytest.approx(erased / nonzero)
        # Ties takes the largest deltas, none of which is 0.
        assert nonzero > 0 and (nonzero < kept or method == "ties")
        if method == "dense":
            assert (erased > 0.1 * nonzero) is (dtype != torch.float32)


def test_zeros_of_the_delta_are_not_erased(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An fp32 merge of a whole patch, two fifths of it zeros, has lost nothing, and says so."""
    case = make_erasable_case(tmp_path, torch.float32)
    for name in SHAPES:
        # So that no delta is below the backbone's last bit.
        case[1]["safety"][name][case[1]["safety"][name] != 0] = 0.25
    write_patch(tmp_path / "safety", "safety", case[1]["safety"], case[2]["safety"])
    with caplog.at_level(logging.INFO):
        run_build(tmp_path, method="safety", retention=1.0)
    record = read_json(tmp_path / "out/merge.json")["totals"]
    assert record["changed_S"] == record["nonzero_S"] < 0.65 * record["kept_S"]
    assert record["erased_S"] == 0 and record["kept_O"] == 0
    assert "rounding erased 0.00 % and 0.00 % of its nonzero entries" in caplog.text
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
    card = (tmp_path / "out/README.md").read_text()
    assert "| safety | 100.0000 % | 0.00 % |" in card


def test_a_patch_of_which_most_is_erased_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named with its share and what helps; the other patch, of which most is left, is not."""
    case = make_erasable_case(tmp_path, torch.bfloat16)
    tiny = {name: delta * 1e-4 for name, delta in case[1]["over_safety"].items()}
    write_patch(tmp_path / "over_safety", "over_safety", tiny, case[2]["over_safety"])
    with caplog.at_level(logging.WARNING):
        run_build(tmp_path, **{**SETTINGS, "alpha": 30.0})
    share = read_json(tmp_path / "out/merge.json")["totals"]["erased_O"]
    assert share > 0.9
    (line,) = (line.message for line in caplog.records)
    assert (
        f"rounding to BF16 erased {100 * share:.1f} % of the nonzero entries kept of the over-s"
        in line
    )
    for fix in (
        "rounding: stochastic",
        "raise beta",
        "train it further",
        "score: magnitude",
        "saved as float32",
    ):
        assert fix in line
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        run_build(tmp_path, "alone", **{**SETTINGS, "method": "over_safety"})
    # A method without top sets has none to select by another score.
    assert "raise beta" in caplog.text and "score" not in caplog.text


def test_stochastic_rounding_is_counted_and_needs_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most entries keep their bits, by the reference's count; the sum of the patch is not lost."""
    case = make_erasable_case(tmp_path, torch.bfloat16)
    settings = {**SETTINGS, "rounding": "stochastic", "alpha": 0.01, "beta": 0.01}
    with caplog.at_level(logging.WARNING):
        run_build(tmp_path, **settings)
    assert not caplog.records
    merged = load_file(tmp_path / "out/model.safetensors")
    wanted = reference_erased(*case, list(SHAPES), True, merged, **settings)
    record = read_json(tmp_path / "out/merge.json")
    for name, counts in wanted.items():
        reported = {key: record["tensors"][name][key] for key in counts}
        assert reported == pytest.approx(counts, rel=1e-12), name
    assert record["totals"]["erased_S"] > 0.5
    assert "moved by as much more" in (tmp_path / "out/README.md").read_text()


def test_what_an_older_version_has_not_counted_is_unknown() -> None:
    """A merge that goes on after an update has tensors of both kinds."""
    older = {"elements": 8, "kept_S": 4, "kept_O": 4, "changed_S": 1, "norm_S": 3.0, "overlap": 2}
    older |= {"norm_O": 1.0}
    newer = {**older, "norm_S": 4.0}
    for patch in "SO":
        newer |= {f"nonzero_{patch}": 4, f"erased_count_{patch}": 1}
    assert totals([newer, newer])["erased_S"] == 0.25
    mixed = totals([newer, older])
    assert mixed["kept_S"] == 8 and mixed["norm_S"] == 5
    assert not any("erased" in key or "nonzero" in key for key in mixed)
    tags = [tag for tag, _, _ in density_rows({"m.layers.1.up_proj.weight": older})]
    assert "kept_safety/up_proj(fraction)" in tags and not any("erased" in tag for tag in tags)


def test_an_older_merge_is_still_read(tmp_path: Path) -> None:
    """After a finished merge TensorBoard's events can still be made."""
    make_erasable_case(tmp_path, torch.bfloat16)
    run_build(tmp_path, **SETTINGS)
    record = read_json(tmp_path / "out/merge.json")
    for report in record["tensors"].values():
        for key in [key for key in report if "nonzero" in key or "erased" in key]:
            del report[key]
    atomic_write_json(tmp_path / "out/merge.json", record)
    settings = MergeSettings(include=INCLUDE, **SETTINGS)
    folders = [tmp_path / name for name in ("backbone", "safety", "over_safety", "out")]
    events = tmp_path / "events"
    build(folders[0], folders[1], folders[2], folders[3], settings, MergeResources(), None, events)
    assert list(events.glob("events.out.*"))
