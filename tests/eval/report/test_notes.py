"""What stands beside the rates: the share of a merge, and notes that models have in common."""

import json
from pathlib import Path
from typing import Any

from eval.report.compare import compare
from eval.report.notes import coverage_of, erased_of


def evaluated(folder: Path, share: float | None, **more: Any) -> Path:
    """A finished evaluation of one answer, of a model that a merge made or not."""
    folder.mkdir()
    rate = {"value": 0.0, "low": 0.0, "high": 0.8, "n": 1}
    record: dict[str, Any] = {
        "id": "1", "suite": "s", "axis": "refusal", "category": None, "prompt": "p",
        "completion": "Fold it twice.", "refusal": "none", "correct": None, "tokens": 3,
        "harm": None, "answer": None,
    }  # fmt: skip
    (folder / "completions.jsonl").write_text(json.dumps(record) + "\n")
    suite = {"axis": "refusal", **rate, "refusal_counts": {"none": 1}, "categories": {}}
    summary = {
        "name": folder.name, "axes": {"refusal_rate": rate}, "suites": {"s": suite}, "cost": {},
        "prompts_sha256": "x", "harm_rule": "r", "coverage": share,
        "identity": {"weights_sha256": folder.name, "template_sha256": "t"}, "settings": {},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary | more))
    return folder


def test_a_note_of_several_models_stands_once_with_their_names(tmp_path: Path) -> None:
    shares = {"backbone": None, "whole": 1.0, "other": 1.0, "part": 0.25}
    folders = [evaluated(tmp_path / name, share) for name, share in shares.items()]
    assert compare(folders)["notes"] == [
        "whole, other: the merge covers 100.0% of the linear weights inside the decoder blocks",
        "part: the merge covers 25.0% of the linear weights inside the decoder blocks",
    ]


def test_the_share_is_read_from_the_merge(tmp_path: Path) -> None:
    """A model of no merge, and one of an older version, have none."""
    assert coverage_of(tmp_path) is None
    (tmp_path / "merge.json").write_text('{"format": 1}')
    assert coverage_of(tmp_path) is None
    (tmp_path / "merge.json").write_text('{"coverage": {"share": 0.5}}')
    assert coverage_of(tmp_path) == 0.5


def test_a_patch_of_which_rounding_erased_most_is_noted(tmp_path: Path) -> None:
    """The note is of that model alone, by the merge's own counts."""
    tuned = evaluated(tmp_path / "tuned", None, erased={"over_safety": 0.9876})
    folders = [evaluated(tmp_path / "backbone", None), tuned]
    (line,) = compare(folders)["notes"]
    assert line.startswith("tuned: rounding erased 98.8% of the nonzero entries kept of the over-s")


def test_what_rounding_erased_is_read_from_the_merge(tmp_path: Path) -> None:
    """An older version counted zeros as erased: its shares say nothing."""
    assert erased_of(tmp_path) == {}
    totals = {"kept_S": 9, "changed_S": 1, "erased_S": 8 / 9}
    (tmp_path / "merge.json").write_text(json.dumps({"totals": totals}))
    assert erased_of(tmp_path) == {}
    totals |= {"nonzero_S": 8, "erased_count_S": 6, "nonzero_O": 8, "erased_count_O": 4}
    (tmp_path / "merge.json").write_text(json.dumps({"totals": totals}))
    assert erased_of(tmp_path) == {"safety": 0.75}
    drawn = {"totals": totals, "settings": {"rounding": "stochastic"}}
    (tmp_path / "merge.json").write_text(json.dumps(drawn))
    assert erased_of(tmp_path) == {}
