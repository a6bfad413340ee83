"""How refusals open, learned from a tiny model's own answers, and checked on their words."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cli import parse
from launch.prepare.harvest import harvest
from launch.prepare.openings import write_run_openings
from launch.recipe import Recipe
from merge.common.files import read_json
from tests.support.refusing_models import QUESTIONS, refusing, save_trained
from train.guards.openings_file import read_openings


def make_recipe(folder: Path, **sections: Any) -> Recipe:
    """D_h of 20 pairs, a search suite of three axes, and a backbone that refuses a third."""
    save_trained(folder / "model", refusing(QUESTIONS, 3))
    pairs = [json.dumps({"question": question, "answer": "blip"}) for question in QUESTIONS[:20]]
    (folder / "pairs.jsonl").write_text("\n".join(pairs))
    suite: list[dict[str, Any]] = []
    for axis, start, stop in (("harm", 20, 26), ("refusal", 30, 39)):
        rows = [json.dumps({"prompt": prompt}) for prompt in QUESTIONS[start:stop]]
        (folder / f"{axis}.jsonl").write_text("\n".join(rows))
        suite.append({"name": axis, "axis": axis, "source": f"{axis}.jsonl"})
    utility = {"name": "u", "axis": "utility", "source": "harm.jsonl", "scoring": "exact"}
    suite.append({**utility, "columns": {"answer": "prompt"}})
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    values = {
        "name": "own",
        "output": folder / "run",
        "backbone": {"path": str(folder / "model")},
        "data": {"path": str(folder / "pairs.jsonl")},
        "search": {"suite": folder / "suite.yaml"},
    }
    return Recipe.model_validate({**values, **sections})


@pytest.mark.slow
def test_d_h_and_the_validation_prompts_are_asked(tmp_path: Path) -> None:
    """Not the utility prompts; the answers are private, and go unless they are to stay."""
    kept = make_recipe(tmp_path, keep_intermediates=True)
    kept.output.mkdir()
    first = read_json(write_run_openings(kept))
    assert (first["answers"], first["refusals"]) == (20 + 6 + 9, 7 + 2 + 3)
    assert (first["coverage"], first["precision"]) == (1, 1)
    assert sorted(first["texts"]) == ["i", "sorry"]
    # The first two words of the vocabulary, after five special tokens.
    assert sorted(first["openings"]) == [[5], [6]]
    assert (kept.output / "openings.work").stat().st_mode & 0o777 == 0o700
    again = kept.model_copy(update={"keep_intermediates": False})
    assert read_json(write_run_openings(again)) == first
    assert not (again.output / "openings.work").exists()


@pytest.mark.slow
def test_what_the_harvest_has_asked_is_not_asked_again(tmp_path: Path) -> None:
    row = {"source": str(tmp_path / "q.jsonl"), "max_new_tokens": 12}
    recipe = make_recipe(tmp_path, harvest={"questions": row}, search=None)
    rows = [json.dumps({"prompt": prompt}) for prompt in QUESTIONS[:30]]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    harvest(recipe)
    shown = recipe.model_copy(update={"keep_intermediates": True})
    record = read_json(write_run_openings(shown))
    assert not (recipe.output / "openings.work").exists()
    assert (record["answers"], record["refusals"], record["coverage"]) == (30, 10, 1)


@pytest.mark.slow
def test_the_command_writes_them_once_and_shows_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(tmp_path, search=None)
    values = recipe.model_dump(mode="json", exclude_none=True)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(values))
    shown, files = [], []
    for _ in range(2):
        options = parse(["openings", str(tmp_path / "r.yaml")])
        options.command(options)
        shown.append(capsys.readouterr().out)
        files.append((recipe.output / "openings.json").stat().st_mtime_ns)
    assert "'sorry'" in shown[0] and "coverage 1.00, precision 1.00" in shown[0]
    assert shown[0] == shown[1] and files[0] == files[1]


@pytest.mark.slow
def test_a_backbone_without_a_common_opening_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One refusal shows no opening: it alone may be chance."""
    recipe = make_recipe(tmp_path, search=None)
    recipe.output.mkdir()
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"question": QUESTIONS[0], "answer": "blip"}))
    with caplog.at_level(logging.WARNING):
        file = write_run_openings(recipe)
    assert read_openings(file).tokens == ()
    assert "1 of 1 answers are refusals" in caplog.text
    assert "refusal margins cannot be measured" in caplog.text
