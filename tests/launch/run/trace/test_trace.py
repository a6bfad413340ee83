"""`launch trace`: numbers of a finished run lead back to bytes, and what has changed is told."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from launch.cli import parse
from launch.pipeline.pipeline import Pipeline
from launch.recipe import Recipe
from launch.run.trace.node import Node
from launch.run.trace.report import find_report, trace_report
from merge.common.errors import UserError
from merge.common.provenance import VERSION
from merge.io.fingerprint import backbone_fingerprint
from tests.support.tiny_run import make_run
from train.chat.example import Example
from train.data.examples import data_hash
from train.recipe import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A folder with backbone, data and a finished run, whose over-safety patch is deleted.

    ``over_safety.json`` holds the hashes that its files had.
    """
    folder = tmp_path_factory.mktemp("world")
    evaluation = {
        "suite": str(folder / "suite.yaml"),
        "single_patches": True,
        "decodings": {"self_cd": {"method": "self_cd"}},
    }
    file = make_run(folder, eval=evaluation, ablations={"all": {"method": "dense"}}, seed=5)
    for role in ("safety", "over_safety"):
        record = folder / "run" / role / "patch.json"
        made_from = {
            "backbone_fingerprint": backbone_fingerprint(folder / "backbone"),
            "data_hash": data_hash([Example("grond it", "blip it")]),
            "config": {"seed": 5, "data": {"path": str(folder / "pairs.jsonl")}},
            "steps": 7,
        }
        record.write_text(json.dumps(json.loads(record.read_text()) | made_from))
    hashes = {path.name: sha256(path) for path in (folder / "run/over_safety").iterdir()}
    (folder / "over_safety.json").write_text(json.dumps(hashes))
    Pipeline(load_recipe(file, [], Recipe)).run()
    return folder


@pytest.fixture
def run(world, tmp_path) -> Path:
    """A copy of the run folder, elsewhere than its records say."""
    return Path(shutil.copytree(world / "run", tmp_path / "moved"))


def trace(run: Path, verify: bool = False) -> Node:
    return trace_report(find_report(run), verify)


def of_model(node: Node, name: str) -> Node:
    return next(each for each in node.made_of if (each.what, each.name) == ("evaluation", name))


def find(node: Node, what: str) -> Node:
    return next(each for each in node.walk() if each.what == what)


def test_every_record_names_version_and_recipe(world):
    run = world / "run"
    records = [run / "patched/merge.json", run / "report/report.json"]
    records += [*run.glob("eval/*/summary.json")]
    assert len(records) == 2 + 6
    written = [json.loads(record.read_text())["written_by"] for record in records]
    assert all(each == written[0] for each in written)
    assert written[0]["version"] == VERSION and len(written[0]["recipe_sha256"]) == 64
    assert written[0]["recipe_sha256"] in (run / "report/report.html").read_text()


def test_a_number_of_the_report_leads_to_the_bytes_of_both_patches(world):
    root = trace(world / "run", verify=True)
    assert root.all_mismatches() == []
    evaluation = of_model(root, "safepatching")
    report = json.loads((world / "run/report/report.json").read_text())
    assert (
        evaluation.facts["harmful_rate"]
        == report["models"]["safepatching"]["harmful_rate"]["value"]
    )
    model = find(evaluation, "model")
    (merge,) = model.made_of
    assert merge.facts["method"] == "difference" and merge.facts["alpha"] == 1
    files = {each.path for each in root.walk() if each.path and "sha256" in each.recorded}
    for part in ("patched/model.safetensors", "safety/delta.safetensors", "safety/patch.json"):
        assert world / "run" / part in files
    assert {world / "backbone/model.safetensors", world / "harm.jsonl"} <= files
    for node in root.walk():
        if node.path is not None and node.path.is_file() and "sha256" in node.recorded:
            assert (node.recorded["sha256"], node.state) == (sha256(node.path), "unchanged")


def test_of_the_deleted_patch_its_hashes_data_seed_and_steps_are_still_known(world):
    root = trace(world / "run")
    assert not (world / "run/over_safety").exists()
    patch = find(of_model(root, "over_safety"), "over-safety patch")
    merged = find(of_model(root, "safepatching"), "over-safety patch")
    told = find(root, "over-safety patch")
    assert patch.state == merged.state == told.state == "gone"
    assert (told.facts["seed"], told.facts["steps"]) == (5, 7)
    assert find(told, "data").name == str(world / "pairs.jsonl")
    hashes = json.loads((world / "over_safety.json").read_text())
    gone = {
        node.path.name: node.recorded["sha256"]
        for node in merged.made_of
        if node.path is not None and node.state == "gone"
    }
    assert gone == hashes


def test_models_that_the_run_has_deleted_are_traced_to_their_settings_and_patches(world):
    root = trace(world / "run")
    for name, method in (("safety", "safety"), ("over_safety", "over_safety"), ("all", "dense")):
        model = find(of_model(root, name), "model")
        assert model.state == "gone" and model.made_of[0].facts["method"] == method
        assert {"safety patch", "over-safety patch", "backbone"} <= {
            node.what for node in model.walk()
        }
    decoding = of_model(root, "self_cd")
    assert decoding.facts["decoding"] == "self_cd"
    assert find(decoding, "model").path == world / "backbone"


def test_a_changed_byte_of_the_patched_model_is_found_by_verify(run, capsys):
    file = run / "patched/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    assert trace(run).all_mismatches() == []
    options = parse(["trace", str(run), "--verify"])
    with pytest.raises(SystemExit) as ending:
        options.command(options)
    assert ending.value.code == 1
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("not as recorded")]
    assert str(file) in line and sha256(file) in line
    assert "CHANGED" in printed.out and "1 changed" in printed.out


def edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        text = (run / path).read_text()
        assert old in text
        (run / path).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit("eval/all/completions.jsonl", '"completion": "', '"completion": "x'), "completions"),
        (edit("eval/all/summary.json", '"harmful_rate"', '"harmful_rates"'), "eval/all/summary"),
        (edit("eval/all/summary.json", "{", ""), "eval/all/summary.json"),
        (edit("report/report.json", '"value": 1.0', '"value": 0.25'), "is not the report's"),
        (edit("recipe.yaml", "seed: 5", "seed: 6"), "is another recipe"),
        (edit("recipe.yaml", "seed: 5", "seed: ["), "recipe.yaml"),
        (edit("patched/merge.json", '"identity": "', '"identity": "0'), "holds another merge"),
        (edit("patched/merge.json", '"outputs": {', '"outputs": {"a.safetensors": "",'), "weights"),
        (edit("safety/patch.json", '"steps": 7', '"steps": 8'), "safety/patch.json"),
        (lambda run: (run / "patched/model.safetensors").write_bytes(b"x"), "has 1 bytes"),
    ],
)  # fmt: skip
def test_what_is_not_as_recorded_is_told(run, change, told):
    change(run)
    (first, *_) = trace(run).all_mismatches()
    assert any(told in line for line in trace(run).all_mismatches()), first


def test_changed_prompts_pairs_and_backbone_are_told(world):
    """They lie outside the run folder, and none but their records know what they were."""
    for name in ("harm.jsonl", "pairs.jsonl", "suite.yaml", "backbone/config.json"):
        file = world / name
        before = file.read_bytes()
        file.write_bytes(before + b"\n \n")
        try:
            assert any(str(file) in line for line in trace(world / "run").all_mismatches()), name
        finally:
            file.write_bytes(before)
    assert trace(world / "run").all_mismatches() == []


def test_where_and_how_the_run_goes_on_is_no_other_recipe(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe |= {"keep_intermediates": True, "cluster": {"partition": "gpu"}, "output": str(run)}
    recipe["written_by"] = {"version": "9"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert trace(run).all_mismatches() == []


def test_a_run_of_a_version_that_recorded_less_is_traced_as_far_as_it_goes(run):
    for file in (run / "report/report.json", *run.glob("eval/*/summary.json")):
        record = json.loads(file.read_text())
        del record["written_by"], record["made_of"]
        file.write_text(json.dumps(record))
    file = run / "patched/merge.json"
    record = json.loads(file.read_text())
    del record["written_by"], record["output_bytes"]
    for name in record["inputs"]:
        record["inputs"][name].pop("record", None)
        del record["inputs"][name]["bytes"]
    file.write_text(json.dumps(record))
    root = trace(run, verify=True)
    assert root.all_mismatches() == []
    assert find(root, "recipe").state == "not recorded"
    assert any("not recorded" in note for note in root.notes)
    evaluation = of_model(root, "safepatching")
    assert evaluation.state == "there"
    states = {node.path: node.state for node in evaluation.walk()}
    assert states[run / "patched/model.safetensors"] == "unchanged"
    assert states[run / "safety/delta.safetensors"] == "unchanged"
    patch = find(evaluation, "over-safety patch")
    assert patch.state == "gone" and any("not recorded" in note for note in patch.notes)
    assert find(of_model(root, "all"), "model").state == "not recorded"


def test_the_report_may_be_named_in_four_ways_and_is_told_as_json(run, capsys):
    wanted = run / "report/report.json"
    for path in (run, run / "report", wanted, run / "report/report.html"):
        assert find_report(path) == wanted
    options = parse(["trace", str(run), "--json"])
    options.command(options)
    printed = json.loads(capsys.readouterr().out)
    assert printed["mismatches"] == [] and printed["verified"] is False
    assert printed["trace"]["path"] == str(wanted)
    with pytest.raises(UserError, match=r"give a run folder"):
        find_report(run / "patched")
    (run / "report/report.json").write_text('{"models": {}}')
    with pytest.raises(UserError, match="no report"):
        trace(run)
