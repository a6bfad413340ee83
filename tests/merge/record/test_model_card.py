"""The card of a patched model: valid on the hub, true about its backbone, ready for its rates."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from launch.run.evaluated_card import write_evaluation
from merge.build import build
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.record.model_card import base_model, split_card
from merge.settings import MergeSettings
from merge.verify import verify
from tests.support.merge_models import write_patch, write_tensors

APACHE = "                                 Apache License\n                           Version 2.0, "


WINDOWS = "\ufeff---\r\nlicense: other\r\nlicense_name: m-1\r\n---\r\n# M\r\n"


def merged(folder: Path, texts: dict[str, str], backbone: str = "small-chat") -> Path:
    """A merge of random patches into a backbone with these files beside its weights."""
    draws = torch.Generator().manual_seed(3)
    weights = {f"w{n}": torch.randn(8, 6, generator=draws).bfloat16() for n in range(2)}
    write_tensors(folder / backbone, "model", weights)
    for name, text in texts.items():
        (folder / backbone / name).write_text(text)
    for role in ("safety", "over_safety"):
        delta = {name: torch.randn(8, 6, generator=draws) for name in weights}
        write_patch(folder / role, role, delta, {name: t.abs() for name, t in delta.items()})
    return merge_into(folder / backbone, folder / "out")


def merge_into(backbone: Path, out: Path) -> Path:
    safety, over_safety = (out.parent / role for role in ("safety", "over_safety"))
    settings = MergeSettings(include=("w*",))
    build(backbone, safety, over_safety, out, settings, MergeResources())
    return out


def card_of(folder: Path) -> Any:
    """As the hub's own library reads it; a card whose front matter is wrong raises."""
    return ModelCard.load(folder / "README.md")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"README.md": "---\nlicense: gemma\n---\n# G\n"}, {"license": "gemma"}),
        (
            {"README.md": WINDOWS, "LICENSE": "MIT License"},
            {"license": "other", "license_name": "m-1"},
        ),
        ({"LICENSE": APACHE}, {"license": "apache-2.0"}),
        ({"LICENCE.txt": "MIT License\n\nCopyright"}, {"license": "mit"}),
        (
            {"README.md": "no front matter", "LICENSE.md": "# Lab X Community Terms, v2.1\n..."},
            {
                "license": "other",
                "license_name": "lab-x-community-terms-v2.1",
                "license_link": "LICENSE.md",
            },
        ),
        ({"README.md": "---\nlicense: [a: b\n---\n"}, {}),
        ({"README.md": "---\n- license\n---\n"}, {}),
        ({"README.md": "---\nlicense: 3\n---\n"}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_the_card_is_valid_and_hands_on_the_licence(tmp_path, files, expected) -> None:
    out = merged(tmp_path, files)
    data = card_of(out).data.to_dict()
    assert {key: data[key] for key in data if key.startswith("license")} == expected
    assert data["base_model"] == "small-chat" and data["base_model_relation"] == "finetune"
    assert data["library_name"] == "transformers" and "safepatching" in data["tags"]
    text = card_of(out).text
    for words in ("## Intended use", "## What was changed", "merge apply --model", "no guarantee"):
        assert words in text
    counts = json.loads((out / "merge.json").read_text())["totals"]
    assert f"| {int(counts['changed_S']):,} |" in text and "No evaluation was made" in text


def test_a_backbone_of_the_hubs_cache_is_called_by_its_name_there(tmp_path) -> None:
    """Also of an owner with a dash, of a model without an owner, and of a patched model."""
    for cached, name in (
        ("models--big-lab--Chat-7b", "big-lab/Chat-7b"),
        ("models--small", "small"),
    ):
        folder = tmp_path / "hub" / cached / "snapshots" / "0a1b2c"
        folder.mkdir(parents=True)
        assert base_model(folder) == name
    out = merged(tmp_path, {}, backbone="hub/models--big-lab--Chat-7b/snapshots/0a1b2c")
    assert card_of(out).data.base_model == "big-lab/Chat-7b"
    again = merge_into(out, tmp_path / "again")
    assert card_of(again).data.base_model == "big-lab/Chat-7b"
    # A patched model's own card is no backbone's.
    assert not (again / "BACKBONE_README.md").exists()


def report(harm: float) -> Any:
    def rate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.05, "high": value + 0.06, "n": 100}

    def axes(value: float) -> Any:
        return {"harmful_rate": rate(value), "refusal_rate": rate(0.25), "utility": rate(0.5)}

    suites = {"bad": {"axis": "harm"}, "worse": {"axis": "harm"}, "odd": {"axis": "refusal"}}
    suites["school"] = {"axis": "utility"}
    return {
        "backbone": "backbone",
        "models": {
            "backbone": axes(0.6),
            "safety": axes(0.07),
            "safepatching": axes(harm),
        },
        "suites": {"backbone": suites, "safepatching": suites},
        "harm_rule": "answered and not refused",
    }


def test_an_evaluation_takes_the_place_of_the_one_before(tmp_path) -> None:
    """In the text and in the front matter; the folder is still what its record says."""
    out = merged(tmp_path, {"README.md": "---\nlicense: llama3\n---\n"})
    before = split_card((out / "README.md").read_text())[1]
    for harm in (0.4, 0.2):
        write_evaluation(out, tmp_path / "small-chat", report(harm))
        verify(out)
    card = card_of(out)
    assert "| safepatching | 20.0 % [15.0, 26.0] |" in card.text and "40.0 %" not in card.text
    assert "| backbone | 60.0 %" in card.text and "| safety | 7" not in card.text
    assert "No evaluation was made" not in card.text
    results = {each.metric_type: each for each in card.data.eval_results or []}
    assert {axis: each.metric_value for axis, each in results.items()} == {
        "harmful_rate": 20.0, "refusal_rate": 25.0, "utility": 50.0,
    }  # fmt: skip
    assert results["harmful_rate"].dataset_name == "bad, worse"
    assert "95 % interval 15.0 to 26.0" in (results["harmful_rate"].metric_name or "")
    assert card.data.license == "llama3" and card.data.model_name == "small-chat-patched"
    start, end = before.split("<!-- evaluation -->")[0], before.split("evaluation -->")[-1]
    after = split_card((out / "README.md").read_text())[1]
    assert after.startswith(start) and after.endswith(end)
    (out / "README.md").write_text("x")
    with pytest.raises(UserError, match=r"README.md: has changed"):
        verify(out)


@pytest.mark.parametrize("written", ["# My own words\n", f"{WINDOWS}by hand\n", None])
def test_a_card_that_someone_wrote_keeps_their_words(tmp_path, written) -> None:
    out = merged(tmp_path, {})
    if written is None:
        (out / "README.md").unlink()
    else:
        (out / "README.md").write_text(written)
    write_evaluation(out, tmp_path / "small-chat", report(0.2))
    once = (out / "README.md").read_bytes()
    write_evaluation(out, tmp_path / "small-chat", report(0.2))
    assert (out / "README.md").read_bytes() == once
    card = card_of(out)
    assert card.text.count("## Evaluation") == 1 and len(card.data.eval_results or []) == 3
    if written:
        assert written.splitlines()[-1] in card.text
    verify(out)
