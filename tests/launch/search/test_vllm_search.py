"""A search whose trials one vLLM engine answers, against the same search by transformers; vLLM is
a stand-in (see ``tests/support/vllm_stand_in``)."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from eval.suites.prompts import Prompt, PromptSet, load_prompts
from eval.suites.suite import TaskRow, load_suite
from launch.in_memory.vllm_model import VllmModel, refuse_experts
from launch.prepare.text_check import check_data
from launch.recipe import Recipe
from launch.search.search import search
from launch.search.trial_model import TrialModel
from launch.search.workers import try_apart
from merge.build import build
from merge.common.errors import UserError
from merge.engine.resources import MergeResources
from merge.settings import MergeSettings
from tests.support.eval_models import WORDS
from tests.support.tiny_run import make_run
from tests.support.vllm_installed import install_vllm
from train.recipe import load_recipe

MERGES = (
    MergeSettings(alpha=3, top_safety=0.6, retention=0.5, seed=4),
    MergeSettings(method="dense", alpha=0.1 + 0.2, beta=1 / 3),
    None,
)


def make_recipe(folder: Path, backend: str, is_array: bool = False, **changes: Any) -> Recipe:
    """A run that is ready to be searched, and whose utility is multiple choice."""
    section = {"suite": str(folder / "suite.yaml"), "utility_margin": 1, "degenerate_margin": 1}
    asked = {"suite": str(folder / "suite.yaml"), "backend": backend}
    cluster = {"search_array": True} if is_array else None
    recipe = make_run(folder, search={**section, **changes}, eval=asked, cluster=cluster)
    rows = yaml.safe_load((folder / "suite.yaml").read_text())
    columns = {"answer": "answer", "choices": "choices"}
    rows[-1] = {**rows[-1], "scoring": "choice", "columns": columns}
    del rows[-1]["max_new_tokens"]
    (folder / "suite.yaml").write_text(yaml.safe_dump(rows))
    choices = [
        {"prompt": f"how {word}", "choices": [word, "red", "two plus"], "answer": "red"}
        for word in WORDS[:9]
        if word != "red"
    ]
    (folder / "utility.jsonl").write_text("\n".join(map(json.dumps, choices)))
    return load_recipe(recipe, [], Recipe)


@pytest.mark.slow
def test_a_search_by_vllm_equals_one_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same merges with the same rates, screened ones too, by one engine for all trials."""
    vllm = install_vllm(monkeypatch)
    records = []
    for backend in ("hf", "vllm"):
        recipe = make_recipe(
            tmp_path, backend, trials=4, methods=["difference", "dense"], screen=0.5
        )
        assert len(vllm.LLM.started) == 0
        search(recipe, tmp_path / "backbone", tmp_path / backend)
        records.append(json.loads((tmp_path / backend / "search.json").read_text()))
    assert len(vllm.LLM.started) == 1
    by_hf, by_vllm = records
    assert by_vllm["trials"] == by_hf["trials"] and by_vllm["backbone"] == by_hf["backbone"]
    assert by_vllm["chosen"] == by_hf["chosen"]
    rates = {(trial["harmful_rate"], trial["utility"]) for trial in by_hf["trials"]}
    assert len(rates) > 3, "the merges differ"


@pytest.mark.slow
def test_each_job_of_an_array_has_an_engine_and_one_process_ends_what_they_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here too one engine does it, although the recipe has several workers."""
    vllm = install_vllm(monkeypatch)
    recipe = make_recipe(tmp_path, "vllm", is_array=True, workers=3, trials=3)
    assert recipe.search is not None
    folder, backbone = tmp_path / "search", tmp_path / "backbone"
    fewer = recipe.search.model_copy(update={"trials": 2})
    try_apart(recipe.model_copy(update={"search": fewer}), backbone, folder, worker=1)
    search(recipe, backbone, folder)
    assert len(vllm.LLM.started) == 2
    trials = json.loads((folder / "search.json").read_text())["trials"]
    assert len(trials) == 3 and len({json.dumps(each["settings"]) for each in trials}) == 3
    assert multiprocessing.active_children() == []


def test_every_worker_has_the_weights_of_the_merged_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a merge, after another, and with the backbone again; on two GPUs both workers."""
    vllm = install_vllm(monkeypatch)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    recipe = make_recipe(tmp_path, "vllm")
    model = TrialModel.load(recipe, tmp_path / "backbone").model
    assert isinstance(model, VllmModel)
    (engine,) = vllm.LLM.started
    assert len(engine.workers) == 2
    run, seen = tmp_path / "run", []
    for number, merge in enumerate(MERGES):
        model.load_merge(merge)
        folder = tmp_path / "backbone"
        if merge is not None:
            folder = tmp_path / str(number)
            patches = (run / "safety", run / "over_safety")
            build(tmp_path / "backbone", *patches, folder, merge, MergeResources())
        expected = load_file(folder / "model.safetensors")
        for worker in engine.workers:
            weights = worker.model_runner.model.checkpoint()
            assert weights.keys() == expected.keys()
            assert all(torch.equal(weights[name], expected[name]) for name in expected)
        seen.append(model.answers(model.prompt_sets))
    assert seen[0] != seen[1] != seen[2] != seen[0], "no answers of other weights were cached"


def test_what_vllm_cannot_do_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm = install_vllm(monkeypatch)
    recipe = make_recipe(tmp_path, "vllm")
    task = PromptSet(TaskRow(name="Sums", task="sums"), (Prompt("sums/0", None, "1 + 1"),))
    with pytest.raises(UserError, match=r"^search.suite: 'Sums' is a task of lm-eval, .* to hf"):
        VllmModel.load(recipe, tmp_path / "backbone", [task])
    rows = load_prompts(load_suite(tmp_path / "suite.yaml"))
    monkeypatch.setattr("launch.prepare.text_check.load_prompts", lambda suite: [*rows, task])
    with pytest.raises(UserError, match=r"^search\.suite: 'Sums' is a task"):
        check_data(recipe)
    with pytest.raises(UserError, match="backend to hf"):
        refuse_experts(["model.layers.0.mlp.experts.1.up_proj.weight"])
    assert not vllm.LLM.started
    with pytest.raises(UserError, match=r"search\.workers: one engine of vLLM"):
        make_recipe(tmp_path, "vllm", workers=2)


@pytest.mark.parametrize("fault", ["values", "names", "nothing"])
def test_a_fault_in_a_worker_is_one_line(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch with a wrong value; a model that knows no such names, or takes none of them."""
    vllm = install_vllm(monkeypatch)
    recipe = make_recipe(tmp_path, "vllm")
    message = "set eval.backend to hf"
    if fault == "values":
        file = tmp_path / "run" / "safety" / "delta.safetensors"
        delta = load_file(file)
        for value in delta.values():
            value.view(-1)[3] = torch.nan
        save_file(delta, file)
        message = "delta.safetensors: tensor '.*' holds"
    elif fault == "names":
        monkeypatch.setattr(vllm.FusedLlama, "load_weights", lambda self, weights: {}["q_proj"])
    else:
        monkeypatch.setattr(vllm.FusedLlama, "load_weights", lambda self, weights: set())
    with pytest.raises(UserError, match=message) as caught:
        TrialModel.load(recipe, tmp_path / "backbone")
    assert "\n" not in str(caught.value)


def test_margins_stay_with_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the answers that such a search asks for after all."""
    vllm = install_vllm(monkeypatch)
    recipe = make_recipe(tmp_path, "vllm", by="margins")
    before = TrialModel.load(recipe, tmp_path / "backbone").before
    assert not vllm.LLM.started
    by_answers = make_recipe(tmp_path, "vllm")
    assert TrialModel.load(by_answers, tmp_path / "backbone").before == before
    assert len(vllm.LLM.started) == 1
