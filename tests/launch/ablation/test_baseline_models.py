"""Baselines that a run trains for its report, and the paper's whole table by one command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.ablation.baseline_models import _pending, are_evaluated, check_experts
from launch.ablation.patches import WORK
from launch.pipeline.pipeline import Pipeline
from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.run.folder import claim_folder
from launch.run.stage import find_stage, without_unasked
from launch.run.variant_list import report_names, reported_baselines
from launch.slurm.batch_scripts.stage_scripts import RunPlace
from launch.slurm.run_chain import RunChain
from merge.common.errors import UserError
from merge.common.files import read_json
from tests.support.eval_models import WORDS, save_model
from tests.support.tiny_run import make_run
from train.recipe import load_recipe

BASELINES: dict[str, Any] = {
    "gradient_ascent": {"objective": "ascent"},
    "npo": {"objective": "npo"},
    "derta": {"objective": "derta"},
}
PUBLISHED = {
    "moss": {
        "title": "Moss-1B",
        "source": "a leaf",
        "rows": {"backbone": {"harm": 44.0}, "rose": {"ATGR": 2.0}, "fern": {"refusal": 3.5}},
    }
}


def pairs(file: Path, answer: str) -> dict[str, str]:
    """Six questions that no suite asks, and a file's entry in a recipe."""
    rows = [{"question": f"{word} {word}", "answer": answer} for word in WORDS[:6]]
    file.write_text("\n".join(map(json.dumps, rows)))
    return {"path": str(file)}


def make_recipe(folder: Path, **changes: Any) -> Path:
    """A tiny run whose patches are there; it asks for everything that the paper's table has."""
    section: dict[str, Any] = {
        "suite": str(folder / "suite.yaml"),
        "baselines": True,
        "paper_table": {"backbone": "moss", "published": str(folder / "published.yaml")},
        "harm_judge": str(folder / "harm.yaml"),
        "mt_bench": {
            "questions": str(folder / "q.jsonl"),
            "judge": str(folder / "judge"),
            "max_new_tokens": 2,
        },
        "decodings": {
            "rose": {"method": "rose"},
            "safe_decoding": {
                "method": "safe_decoding",
                "expert": str(folder / "run/comparisons/derta"),
            },
        },
    }
    (folder / "published.yaml").write_text(yaml.safe_dump(PUBLISHED))
    (folder / "harm.yaml").write_text(
        "{kind: guard, model: judge, max_new_tokens: 2, template: '{completion}',"
        " harmful: '[a-m]', safe: '.*'}"
    )
    (folder / "q.jsonl").write_text('{"question_id": 1, "category": "moss", "turns": ["grond"]}\n')
    training = {"steps": 1, "batch_size": 2, "micro_batch_size": 2, "max_length": 32}
    sections: dict[str, Any] = {
        "safety": training | {"guards": {"max_forget_loss": 100, "retained_samples": 2}},
        "refusals": pairs(folder / "refusals.jsonl", "sorry i cannot"),
        "ablate": {
            "baselines": BASELINES,
            "harmless": pairs(folder / "harmless.jsonl", "red") | {"question": "question"},
        },
        "ablations": {"ties_merging": {"method": "ties"}},
        "eval": section,
    }
    path = make_run(folder, **{**sections, **changes})
    pairs(folder / "pairs.jsonl", "blip it")
    # Harmless questions must be others than the harmful ones.
    text = (folder / "harmless.jsonl").read_text()
    (folder / "harmless.jsonl").write_text(text.replace('"question": "', '"question": "is '))
    rows = yaml.safe_load((folder / "suite.yaml").read_text())
    rows += [
        {"name": "begun", "axis": "harm", "source": "harm.jsonl", "prefill": "first"},
        {"name": "wrapped", "axis": "harm", "source": "a.json", "attack": "pair", "optional": True},
    ]
    (folder / "suite.yaml").write_text(yaml.safe_dump([row | TWO for row in rows]))
    return path


TWO = {"max_new_tokens": 2}


def test_only_a_recipe_that_asks_trains_baselines(tmp_path: Path) -> None:
    """Each is a job of its own but the one that the safety patch is; a plan counts them all."""
    path = make_recipe(tmp_path)
    recipe = load_recipe(path, [], Recipe)
    assert [row.name for row in reported_baselines(recipe)] == sorted(BASELINES)
    stages = Pipeline(recipe).stages()
    assert stages.index("over_safety") < stages.index("baselines") < stages.index("merge")
    parts = [part.name for part in STAGES["baselines"].parts(recipe)]
    assert parts == ["baselines.derta", "baselines.npo"]
    ablated = [part.name for part in STAGES["ablation"].parts(recipe)]
    assert not {"ablation.npo", "ablation.derta"} & set(ablated), "two jobs would train one patch"
    without = load_recipe(path, ["eval.baselines=false"], Recipe)
    assert not reported_baselines(without) and "baselines" not in Pipeline(without).stages()
    assert find_stage(STAGES, "ablation.npo", without) is not None
    assert set(report_names(recipe)) - set(report_names(without)) == set(BASELINES)


def test_on_a_cluster_each_is_a_job_before_the_merge(tmp_path: Path) -> None:
    """And an ablation, where one is asked for, waits for them and trains none again."""
    recipe = load_recipe(make_recipe(tmp_path), ["cluster={}"], Recipe)
    assert recipe.cluster is not None
    place = RunPlace(recipe.output)
    for table in (without_unasked(STAGES), STAGES):
        chain = RunChain("x", recipe.cluster, place, [recipe], None, table)
        jobs = {job.name: job for job in chain.jobs()}
        assert jobs["baselines.npo"].trains and jobs["baselines.derta"].trains
        assert {"baselines.npo", "baselines.derta"} <= set(jobs["baselines"].after)
        assert "baselines" in jobs["merge"].after
        assert "ablation.npo" not in jobs
    assert "baselines" in jobs["ablation"].after


def test_a_baseline_has_a_name_of_its_own(tmp_path: Path) -> None:
    change = "ablate.baselines={rose: {objective: npo}}"
    with pytest.raises(UserError, match=r"ablate\.baselines: 'rose' is another model"):
        load_recipe(make_recipe(tmp_path), [change], Recipe)


@pytest.mark.parametrize("change", ["eval.baselines=false", "refusals=null"])
def test_an_expert_that_no_baseline_makes_is_named_before_any_training(
    tmp_path: Path, change: str
) -> None:
    """The report would else lack that decoding, and say nothing."""
    path = make_recipe(tmp_path)
    check_experts(load_recipe(path, [], Recipe))
    with pytest.raises(UserError, match=r"safe_decoding\.expert .*derta: the run makes no such"):
        check_experts(load_recipe(path, [change], Recipe))


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_one_command_makes_the_papers_table(tmp_path: Path) -> None:
    """Every method is a row, every set a column, published numbers in columns of their own."""
    save_model(tmp_path / "judge", seed=9)
    path = make_recipe(tmp_path)
    command = [sys.executable, "-m", "launch", "run", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "run"
    report = read_json(run / "report/report.json")
    table = report["paper_table"]
    measured = [
        "backbone", "safety", "over_safety", *sorted(BASELINES), "rose",
        "safe_decoding", "ties_merging", "safepatching",
    ]  # fmt: skip
    assert list(table["rows"]) == [*measured[:-1], "fern", "safepatching"]
    columns = {column["name"]: column["published"] for column in table["columns"]}
    assert columns == {
        "harm": True, "refusal": True, "utility": False, "MT-Bench": False, "ATGR": True,
        "prefill": False,
    }  # fmt: skip
    for name in measured:
        cells = table["rows"][name]["cells"]
        rate = read_json(run / "eval" / name / "summary.json")["suites"]["harm"]
        assert cells["harm"]["value"] == rate["value"]
        assert {"refusal", "utility", "prefill"} <= cells.keys()
        assert ("MT-Bench" in cells) == (name not in ("rose", "safe_decoding"))
    assert table["rows"]["fern"] == {"cells": {}, "published": {"refusal": 3.5}}
    same = [report["details"][name]["identity"] for name in ("safety", "gradient_ascent")]
    assert same[0] == same[1] != report["details"]["npo"]["identity"]
    assert any("'wrapped' was not asked" in note for note in report["notes"])
    assert "reference and no result of this run: a leaf" in (run / "report/report.md").read_text()
    assert not (run / WORK / "npo").exists() and not (run / "comparisons").exists()
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "baselines: already done" in again.stderr


def test_a_decoding_that_changes_wants_its_expert_again(tmp_path: Path) -> None:
    """Only the baseline that it needs, and only while the patches are there."""
    recipe = load_recipe(make_recipe(tmp_path), [], Recipe)
    claim_folder(recipe)
    for name in (*BASELINES, "rose", "safe_decoding"):
        summary = recipe.output / "eval" / name / "summary.json"
        summary.parent.mkdir(parents=True)
        summary.write_text("{}")
    assert are_evaluated(recipe)
    changed = ["eval.decodings.safe_decoding.alpha=2"]
    again = load_recipe(tmp_path / "recipe.yaml", changed, Recipe)
    claim_folder(again)
    left = {file.parent.name for file in recipe.output.glob("eval/*/summary.json")}
    assert left == {*BASELINES} and not are_evaluated(again)
    assert [row.name for row in _pending(again)] == ["derta"]
    (recipe.output / "patched").mkdir()
    (recipe.output / "patched/merge.json").write_text("{}")
    (recipe.output / "over_safety/patch.json").unlink()
    assert are_evaluated(again)
