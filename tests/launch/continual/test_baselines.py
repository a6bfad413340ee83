"""The baselines of continual alignment: what they know of the backbone that they train."""

import json
from pathlib import Path

import pytest
import yaml

from launch.continual.baselines import run_baseline
from launch.continual.stage_recipes import baseline_stages, patch_stages, write_search_suite
from merge.common.files import read_json
from tests.launch.prepare.test_openings import make_recipe
from tests.support.refusing_models import QUESTIONS


@pytest.mark.slow
def test_a_baseline_learns_openings_where_no_question_of_d_h_is_refused(tmp_path: Path) -> None:
    """As in a harvested D_h. Its margin guard would be refused, after all of SafePatching's stages;
    so the validation prompts of the stage beside it are asked too."""
    stages = [{"name": "one", "categories": ["x"]}]
    suite = tmp_path / "suite.yaml"
    recipe = make_recipe(tmp_path, eval={"suite": suite}, continual={"stages": stages})
    rows = [
        json.dumps({"question": question, "answer": "blip", "category": "x"})
        for number, question in enumerate(QUESTIONS[:20])
        if number % 3  # of every three the first is refused
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    (patched,), (baseline,) = patch_stages(recipe), baseline_stages(recipe, "npo")
    harm = [json.dumps({"prompt": prompt, "category": "x"}) for prompt in QUESTIONS[20:26]]
    (tmp_path / "harm.jsonl").write_text("\n".join(harm))
    with_categories = yaml.safe_load(suite.read_text())
    with_categories[0]["columns"] = {"category": "category"}
    suite.write_text(yaml.safe_dump(with_categories))
    write_search_suite(patched, suite, None)
    run_baseline(baseline, "npo", "openings")
    record = read_json(baseline.recipe.output / "openings.json")
    assert (record["answers"], record["refusals"]) == (13 + 6 + 9, 2 + 3)
    assert sorted(record["texts"]) == ["i", "sorry"]
