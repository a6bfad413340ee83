"""The ablation table: its rows against models merged by hand, its averages, reruns and privacy."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy import stats

from eval.answering.loading import load_model, load_tokenizer
from eval.rates import evaluate
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from launch.ablation.patches import AblationPatches
from launch.ablation.record import summarise
from launch.pipeline.repeat import ablate
from launch.recipe import Recipe
from launch.run.variant import WholePatch
from merge.common.errors import UserError
from merge.common.json_lines import LineStore
from merge.engine.coverage import linear_weights
from merge.settings import MergeSettings
from tests.support.merge_reference import reference_merge
from tests.support.tiny_run import make_run
from train.guards.openings_file import read_openings, write_openings
from train.guards.refusal_margin import RefusalOpenings
from train.recipe import load_recipe

SCALE: dict[str, Any] = {
    "alpha": 1.5,
    "beta": 0.75,
    "retention": 0.7,
    "top_safety": 0.3,
    "top_over_safety": 0.4,
}


@pytest.fixture
def run(tmp_path) -> Path:
    """A recipe whose backbone and patches are there already; both patches change the answers."""
    return make_run(
        tmp_path,
        merge=SCALE,
        eval={"suite": str(tmp_path / "suite.yaml"), "single_patches": False},
        ablate={"baselines": {"gradient_ascent": {"objective": "ascent"}}},
    )


def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((folder / "ablation.json").read_text())
    return {row["name"]: row for row in record["variants"]}


def test_a_patch_that_is_trained_again_has_the_runs_openings(run, monkeypatch):
    """Else the guard of the refusal margin would refuse to train it."""
    recipe = load_recipe(run, [], Recipe)
    openings = RefusalOpenings(((3, 4),), 1.0, 1.0)
    write_openings(recipe.output / "openings.json", openings)
    seen = []

    def train(recipe_file: Path, role: str) -> None:
        seen.append(read_openings(recipe_file.parent / "openings.json"))

    monkeypatch.setattr("launch.ablation.patches.train_patch", train)
    patches = AblationPatches(recipe)
    patches.directory(WholePatch("gradient_ascent", "safety", recipe.safety, None, "nearest"))
    assert seen == [openings]


@pytest.mark.slow
def test_rows_equal_models_merged_by_a_reference(run):
    """Every row's rates are those of the model that plain numpy makes of the same settings."""
    recipe = load_recipe(run, ["keep_intermediates=true"], Recipe)
    rows = by_name(ablate(recipe))
    assert recipe.eval is not None
    backbone, patches = run.parent / "backbone", run.parent / "run"
    weights = load_file(backbone / "model.safetensors")
    deltas, gradients = (
        {role: load_file(patches / role / f"{stem}.safetensors") for role in SIDES}
        for stem in ("delta", "importance")
    )
    linear = [name for name in weights if "_proj" in name]
    assert linear_weights({name: value.shape for name, value in weights.items()}) == linear
    whole = {"alpha": 1, "beta": 1, "retention": 1}
    expected: dict[str, dict[str, Any]] = {
        "full": {},
        "no_retention": {"retention": 1},
        "no_importance": {"method": "dense"},
        "score_weight": {},
        "score_delta": {"score": "delta"},
        "score_magnitude": {"score": "magnitude"},
        "intersection": {"method": "intersection"},
        "safety": {"method": "safety", **whole},
        "over_safety": {"method": "over_safety", **whole},
        "task_arithmetic": {"method": "task_arithmetic"},
        "ties": {"method": "ties", "beta": SCALE["alpha"]},
        "dare": {"method": "dare"},
        "linear": {"method": "linear"},
        "gradient_ascent": {"method": "safety", **whole},
    }
    assert list(rows) == ["backbone", *expected]
    prompt_sets = load_prompts(load_suite(recipe.eval.suite, None))
    model, tokenizer = load_model(backbone, "float32"), load_tokenizer(backbone)
    seen = set()
    for name, changes in expected.items():
        settings = {**MergeSettings().model_dump(), **SCALE, **changes}
        covered = list(weights) if changes.get("alpha") == 1 else linear
        merged = reference_merge(weights, deltas, gradients, covered, True, **settings)
        model.load_state_dict(merged)
        axes = evaluate(model, tokenizer, prompt_sets).axes
        assert rows[name]["axes"] == {axis: rate.as_dict() for axis, rate in axes.items()}, name
        seen.add(json.dumps(rows[name]["axes"]))
    assert len(seen) > 3, "the models of this test must differ in what they answer"
    assert (patches / "ablation/work").stat().st_mode & 0o777 == 0o700


SIDES = ("safety", "over_safety")


@pytest.mark.slow
def test_the_spread_is_that_of_the_seeds_and_nothing_private_is_left(run):
    recipe = load_recipe(run, ["ablate.retention_seeds=3"], Recipe)
    folder = ablate(recipe)
    record = json.loads((folder / "ablation.json").read_text())
    assert not (folder / "work").exists() and not (recipe.output / "over_safety").exists()
    assert (recipe.output / "patched/merge.json").is_file()
    (spread,) = record["retention_seeds"]
    assert spread["seeds"] == [0, 1, 2]
    for axis, rates in spread["axes"].items():
        assert rates["deviation"] == pytest.approx(np.std(rates["values"], ddof=1))
        assert rates["values"][0] == by_name(folder)["full"]["axes"][axis]["value"]
    chosen = by_name(folder)["full"]["axes"]
    for key in ("top_safety", "top_over_safety", "alpha", "beta"):
        middle = next(p for p in record["curves"][key] if p["position"] == 1)
        assert middle["values"] == [SCALE[key]] and middle["axes"] == chosen
    assert (folder / "sensitivity.svg").read_text().startswith("<svg")
    # A second time everything is known: the patches, which are gone, are not asked for.
    before = (folder / "ablation.json").read_bytes(), (folder / "outcomes.jsonl").read_bytes()
    ablate(recipe)
    after = (folder / "ablation.json").read_bytes(), (folder / "outcomes.jsonl").read_bytes()
    assert after == before


@pytest.mark.slow
def test_a_killed_ablation_goes_on_without_repeating(run):
    outcomes = run.parent / "run/ablation/outcomes.jsonl"
    command = [sys.executable, "-m", "launch", "ablate", str(run)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and (
            not outcomes.is_file() or outcomes.read_bytes().count(b"\n") < 4
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    killed = outcomes.read_bytes()
    assert killed.count(b"\n") >= 4 and not (outcomes.parent / "ablation.json").exists()
    ablate(load_recipe(run, [], Recipe))
    lines = outcomes.read_bytes()
    assert lines.startswith(killed[: killed.rfind(b"\n") + 1])
    keys = [json.dumps(json.loads(line)["key"]) for line in lines.splitlines()]
    assert len(keys) == len(set(keys))


def test_half_a_line_in_the_journal_is_forgotten(tmp_path):
    file = tmp_path / "outcomes.jsonl"
    LineStore(file).add({"one merge": {"axes": {}}})
    with file.open("a") as stream:
        stream.write('{"key": "another')
    LineStore(file).add({"another": {"axes": {"utility": 1}}})
    outcomes = LineStore(file).values
    assert outcomes == {"one merge": {"axes": {}}, "another": {"axes": {"utility": 1}}}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ablate.baseline={}", "unknown key 'ablate.baseline'"),
        ("ablate.baselines={npo: {objectiv: npo}}", "unknown key 'objectiv'"),
        ("ablate.retention_seeds=1", "ablate.retention_seeds"),
    ],
)
def test_a_wrong_key_is_named(run, override, words):
    with pytest.raises(UserError, match=words):
        load_recipe(run, [override], Recipe)


def test_means_and_intervals_over_runs_equal_scipy():
    values = [0.1, 0.25, 0.15, 0.4]

    def record(seed: int, value: float) -> Any:
        axes = {"utility": {"value": value, "low": 0, "high": 1, "n": 9}}
        return {
            "name": "x",
            "suite": "s",
            "seeds": [seed],
            "chosen": [{}],
            "retention_seeds": [{}],
            "curves": {"alpha": [{"position": 1.0, "values": [value], "axes": axes}]},
            "variants": [
                {"name": "a", "title": "A", "how": "as chosen" if seed else "x", "axes": axes}
            ],
        }

    summary = summarise([record(seed, value) for seed, value in enumerate(values)])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    for row in (summary["variants"][0], summary["curves"]["alpha"][0]):
        rates = row["axes"]["utility"]
        assert (rates["value"], rates["low"], rates["high"]) == pytest.approx(
            (np.mean(values), low, high)
        )
    assert summary["variants"][0]["how"] == "x (as chosen in 3 of 4)"
    assert summary["seeds"] == [0, 1, 2, 3] and summary["curves"]["alpha"][0]["values"] == values
    assert summarise([record(0, 0.5)]) == record(0, 0.5), "one run has no spread over seeds"


TINY = [
    "world.nouns=8", "world.verbs=3", "world.hidden_size=32", "world.layers=2", "world.steps=60",
    "world.prompts=12", "world.harmful_pairs=60", "safety.steps=4", "over_safety.steps=4",
    "safety.guards.max_forget_loss=20", "importance.samples=9", "search.trials=2",
    "search.methods=[difference]", "ablations={}", "eval.single_patches=false",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_a_tiny_world_before_and_after_the_patches_are_deleted(tmp_path):
    """Baselines train by themselves; a finished run's patch is trained again, to the same rates."""

    def launch(*overrides: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-m", "launch", "ablate", "launch/recipes/demo.yaml",
            f"output={folder}", *TINY, *overrides,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True)

    folder = tmp_path / "run"
    done = launch()
    assert done.returncode == 0, done.stderr
    assert "SafePatching" in done.stdout
    rows = by_name(folder / "ablation")
    # Equal to the safety training, so it is no training of its own.
    assert rows["gradient_ascent"]["axes"] == rows["safety"]["axes"]
    for baseline in ("ascent_mismatch_kl", "npo", "derta"):
        assert rows[baseline]["training"]["steps"] == 4
        assert f"trains {baseline}" in done.stderr
    for name in ("over_safety", "ablation/work"):
        assert not (folder / name).exists()
    report = json.loads((folder / "report/report.json").read_text())["models"]
    for name, of_run in (("full", "safepatching"), ("backbone", "backbone")):
        for axis, rate in report[of_run].items():
            assert rows[name]["axes"][axis] == rate
    before = (folder / "ablation/ablation.json").read_bytes()
    (folder / "ablation/outcomes.jsonl").unlink()
    again = launch("ablate.baselines={}", "keep_intermediates=true")
    assert again.returncode == 0, again.stderr
    assert "trains over_safety" in again.stderr and "trains npo" not in again.stderr
    kept = by_name(folder / "ablation")
    assert "npo" not in kept
    for name, row in kept.items():
        assert row["axes"] == rows[name]["axes"], name
    assert (
        json.loads(before)["curves"]
        == json.loads((folder / "ablation/ablation.json").read_text())["curves"]
    )
    for name in ("work", "work/over_safety/over_safety"):
        assert (folder / "ablation" / name).stat().st_mode & 0o777 == 0o700
