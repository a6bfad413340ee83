"""The picture of a merge: right numbers in every cell, and well-formed for any counts."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from merge.__main__ import main
from merge.pictures import density as picture
from merge.settings import MergeSettings

SVG = "{http://www.w3.org/2000/svg}"


def _report(kept_s: int, kept_o: int, overlap: int = 0, size: int = 1000) -> dict[str, float]:
    return {
        "elements": size, "kept_S": kept_s, "kept_O": kept_o, "overlap": overlap,
        "nonzero_S": kept_s, "nonzero_O": kept_o, "erased_count_S": kept_s // 2,
        "erased_count_O": 0, "norm_S": 3.0, "norm_O": 4.0,
    }  # fmt: skip


def test_cells_show_the_counts() -> None:
    """Four grids of two layers, each cell with its own share; safety early, over-safety late."""
    tensors = {
        "model.layers.0.self_attn.q_proj.weight": _report(300, 100, overlap=20),
        "model.layers.1.self_attn.q_proj.weight": _report(0, 250, overlap=10),
        "model.embed_tokens.weight": _report(1, 1),
    }
    drawn = picture.draw("a $<model>$", MergeSettings(), tensors)
    assert drawn is not None
    root = ElementTree.fromstring(drawn)
    assert root.find(f"{SVG}title").text == "Patches of a $<model>$ by layer and module"  # type: ignore[union-attr]
    cells = [title.text or "" for title in root.findall(f".//{SVG}g/{SVG}title")]
    shares = [float(re.findall(r"([-\d.]+) %", cell)[0]) for cell in cells]
    assert shares == [30, 0, 10, 25, 50, -100, 2, 1]
    assert "Where the patches of a $<model>$ live" in drawn.replace("&lt;", "<").replace(
        "&gt;", ">"
    )
    words = " ".join(element.text or "" for element in root.iter(f"{SVG}text"))
    assert "30 %" in words and "2 %" in words and "q_proj" in words


def test_curves_show_the_counts_of_a_layer() -> None:
    """All modules of a layer together, by hand: shares of the sums, norms over all entries."""
    place = {(0, "q_proj"): _report(300, 100), (0, "up_proj"): _report(100, 300, size=3000)}
    curves = picture.curves_by_layer(place | {(4, "q_proj"): _report(0, 250)})
    assert list(curves.values()) == [
        {"safety": {0: 0.1, 4: 0.0}, "over_safety": {0: 0.1, 4: 0.25}},
        {"safety": {0: pytest.approx(18**0.5), 4: 3.0}, "over_safety": {0: 32**0.5, 4: 4.0}},
        {"safety": {0: 0.5, 4: 0.0}, "over_safety": {0: 0.0, 4: 0.0}},
    ]


def test_the_command_draws_into_the_models_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From merge.json alone; a folder without one is refused in one line, and gets no file."""
    record = {
        "settings": MergeSettings(alpha=0.25).model_dump(mode="json"),
        "inputs": {"backbone": {"path": str(tmp_path / "a backbone")}},
        "tensors": {"layers.3.up.weight": _report(300, 100)},
    }
    monkeypatch.setattr(sys, "argv", ["merge", "picture", str(tmp_path)])
    assert main() == 2
    assert capsys.readouterr().err.endswith("so no finished merge; run merge build again\n")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "merge.json").write_text(json.dumps(record))
    assert main() == 0
    drawn = (tmp_path / "density.svg").read_text()
    ElementTree.fromstring(drawn)
    assert "Patches of a backbone by layer and module" in drawn and "alpha 0.25" in drawn


def test_nothing_to_show() -> None:
    """Nothing kept is a pale picture, no numbered layer none at all."""
    assert picture.draw("m", MergeSettings(), {"w": _report(1, 1), "v": _report(0, 0)}) is None
    drawn = picture.draw("m", MergeSettings(), {"layers.3.up.weight": _report(0, 0)})
    assert drawn is not None and "nan" not in drawn
    ElementTree.fromstring(drawn)
