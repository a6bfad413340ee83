"""The plan of search and evaluation: memory and times by hand, and from measured rates."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from transformers import LlamaConfig

from launch.recipe import Recipe
from launch.run.variant_list import report_names
from launch.search.opening_search import MERGED, OWN
from launch.search.settings import SearchSettings
from launch.search.storage import FILE, Trials
from launch.sizing.answering_needs import (
    Asked,
    Questions,
    answering_memory,
    answering_seconds,
    read_questions,
)
from launch.sizing.gpus import GPUS
from launch.sizing.measured_rates import read_rates
from launch.sizing.stage_times import readable_time, time_table
from launch.sizing.training_needs import Model
from merge.common.settings import parse_settings

PARAMETERS = 6_738_415_616


@pytest.fixture(scope="module")
def llama_7b() -> Model:
    config: dict[str, Any] = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008}
    return Model.from_config(LlamaConfig(**config, num_hidden_layers=32, num_attention_heads=32))


def test_memory_of_answers_by_hand(llama_7b: Model) -> None:
    """LLaMA-2-7B keeps 512 KiB of keys and values a token: 2 x 32 layers x 4096 x 2 bytes."""
    need = answering_memory(llama_7b, 16384)
    assert need.weights == 2 * PARAMETERS
    assert 1.0 < need.cache / (16384 * 512 * 1024) < 1.2
    fewer = answering_memory(llama_7b, 4096)
    assert fewer.cache * 4 == pytest.approx(need.cache)
    assert fewer.total < 24e9 < need.total < 40e9
    by_margins = SearchSettings(suite=Path("x"), by="margins", fit="layers")
    fitted = answering_memory(llama_7b, 4096, by_margins)
    assert fitted.activations > fewer.activations and fitted.weights == fewer.weights
    assert answering_memory(llama_7b, 4096, SearchSettings(suite=Path("x"))) == fewer


def test_time_of_answers_is_the_weights_read_once_a_token(llama_7b: Model) -> None:
    """64 answers of 128 tokens, half as many in one batch as in two: 128 or 256 steps."""
    gpu = next(gpu for gpu in GPUS if gpu.gigabytes == 40)
    asked = Questions([Asked(64, 0, 128, "harm")])
    once, twice = (answering_seconds(llama_7b, asked, tokens, gpu) for tokens in (8192, 4096))
    step = 2 * PARAMETERS / (gpu.bandwidth / 2)
    assert step > 32 * 8e-4 or once == pytest.approx(128 * 32 * 8e-4)
    assert once == pytest.approx(128 * max(step, 32 * 8e-4)) and twice == pytest.approx(2 * once)
    choices = Questions([Asked(64, 100, 0, "utility")])
    expected = 2 * PARAMETERS * 6400 / (0.4 * gpu.peak)
    assert answering_seconds(llama_7b, choices, 8192, gpu) == pytest.approx(expected)


def write_suite(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"prompt": "abcdef"}\n' * 7)
    rows: list[dict[str, Any]] = [
        {"name": "here", "axis": "harm", "source": "a.jsonl", "max_new_tokens": 32},
        {"name": "drawn", "axis": "refusal", "source": "hub/set", "limit": 20},
        {"name": "whole", "axis": "refusal", "source": "hub/other"},
        {"name": "gone", "axis": "refusal", "source": "gone.jsonl"},
    ]
    (folder / "suite.yaml").write_text(json.dumps(rows))
    return folder / "suite.yaml"


def test_prompts_are_counted_without_the_hub(tmp_path: Path) -> None:
    questions = read_questions(write_suite(tmp_path), None)
    assert [(row.count, row.new_tokens, row.axis) for row in questions.rows] == [
        (7, 32, "harm"), (20, 256, "refusal"),
    ]  # fmt: skip
    assert questions.uncounted == ["whole", "gone"] and questions.count == 27


def make_recipe(folder: Path, objective: str = "ascent") -> Recipe:
    suite = str(write_suite(folder))
    values: dict[str, Any] = {
        "name": "x",
        "output": str(folder / "run"),
        "backbone": {"path": "b"},
        "data": {"path": "d", "limit": 64},
        "search": {"suite": suite, "methods": ["difference", "dense"], "trials": 5},
        "eval": {"suite": suite, "decodings": {"cd": {"method": "self_cd"}}},
        "ablations": {"bare": {"method": "dense"}},
    }
    for role in ("safety", "over_safety"):
        values[role] = {"steps": 10, "batch_size": 8, "micro_batch_size": 4, "max_length": 100}
    values["safety"]["objective"] = objective
    for name, count in (("harmless", 90), ("refusals", 90), ("false_refusals", 30)):
        values[name] = {"path": name, "limit": count}
    return parse_settings(Recipe, values, "recipe")


def rows_of(model: Model, recipe: Recipe) -> dict[str, list[str]]:
    """The cells of the table by stage."""
    console = Console(width=160)
    with console.capture() as capture:
        console.print(time_table(model, recipe, 4))
    rows = [
        [cell.strip() for cell in line.strip("│\n").split("│")]
        for line in capture.get().splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in rows}


def test_times_come_from_measured_rates_where_the_run_has_them(
    tmp_path: Path, llama_7b: Model
) -> None:
    """Times of a training by tokens and processes, of answers by their number."""
    recipe, run = make_recipe(tmp_path), tmp_path / "run"
    names = ["backbone", "safety", "over_safety", "cd", "dense", "bare", "safepatching"]
    assert report_names(recipe) == names
    before = rows_of(llama_7b, recipe)
    assert not read_rates(run).any() and len(before["search"]) == 1 + len(GPUS)
    assert before["evaluation"][0] == "7 times 27 prompts, without whole, gone"
    for folder, record in {
        "safety/patch.json": {"tokens": 6000, "training_seconds": 30, "processes": 8},
        "over_safety/patch.json": {"tokens": 2000, "training_seconds": 10, "processes": 8},
        "eval/backbone/summary.json": {"cost": {"answers": 20, "seconds": 50}},
        "eval/safety/summary.json": {"cost": {"answers": 20, "seconds": 30}},
        "patched/merge.json": {"seconds": 240.0},
    }.items():
        (run / folder).parent.mkdir(parents=True, exist_ok=True)
        (run / folder).write_text(json.dumps(record))
    write_trials(run / "search", {"difference": [20, 40, 30], f"difference.{OWN}": [0.25, 0.75]})
    after = rows_of(llama_7b, recipe)
    # 320 process seconds for 8000 tokens; 10 x 8 x 100 tokens on four GPUs.
    assert after["safety"][-1] == after["over_safety"][-1] == readable_time(0.04 * 8000 / 4)
    # The backbone and 2 x 5 merges of 30 s each; seven models, two seconds an answer.
    assert after["search"][-1] == readable_time(30 * 11)
    assert after["evaluation"][-1] == readable_time(2 * 7 * 27)
    assert after["merge"][-1] == "4.0 min"
    assert after["search"][:-1] == before["search"], "estimates stay beside"
    assert recipe.search is not None
    by_margins = recipe.search.model_copy(update={"by": "margins", "answered": 3})
    quick = rows_of(llama_7b, recipe.model_copy(update={"search": by_margins}))
    assert quick["search"][-1] == readable_time(0.5 * 10 + 30 * 7)


@pytest.mark.parametrize(
    ("objective", "samples"),
    [("descent", 1), ("npo", 1), ("derta", 2), ("ascent_mismatch_kl", 3)],
)
def test_tokens_of_every_term_take_time(
    objective: str, samples: int, tmp_path: Path, llama_7b: Model
) -> None:
    """Harmless pairs are as many as those of D_h, as are its questions with other answers."""
    recipe = make_recipe(tmp_path, objective)
    row = rows_of(llama_7b, recipe)["safety"]
    assert row[0] == f"10 steps, {10 * 8 * samples * 100 / 1e6:.1f} M tokens"
    flops = llama_7b.shape.training_flops(100) * 10 * 8 * samples * 100
    assert row[1] == readable_time(flops / (4 * GPUS[0].flops))


def test_an_epoch_is_of_the_pairs_that_the_patch_learns(tmp_path: Path, llama_7b: Model) -> None:
    """64 pairs of D_h, 30 false refusals: of 8 pairs a step that is 8, 4, or 12 steps."""
    for data, steps in (("harmful", 8), ("false_refusals", 4), ("both", 12)):
        recipe = make_recipe(tmp_path)
        changes: dict[str, Any] = {"steps": None, "data": data, "max_length": 10_000}
        over_safety = recipe.over_safety.model_copy(update=changes)
        safety = recipe.safety.model_copy(update={"steps": None})
        recipe = recipe.model_copy(update={"over_safety": over_safety, "safety": safety})
        rows = rows_of(llama_7b, recipe)
        assert rows["over_safety"][0] == f"{steps} steps, {steps * 0.08:.1f} M tokens"
        assert rows["safety"][0].startswith("8 steps")
    whole = recipe.over_safety.model_copy(update={"batch_size": "all"})
    rows = rows_of(llama_7b, recipe.model_copy(update={"over_safety": whole}))
    assert rows["over_safety"][0] == "1 steps, 0.9 M tokens"


def test_data_that_does_not_decide_is_not_read(tmp_path: Path, llama_7b: Model) -> None:
    """A harvest makes it later, and the steps are given."""
    recipe = make_recipe(tmp_path)
    gone = recipe.data.model_copy(update={"path": "gone.jsonl", "limit": None})
    assert (
        rows_of(llama_7b, recipe.model_copy(update={"data": gone}))["safety"][0][:8] == "10 steps"
    )


def write_trials(search: Path, seconds: dict[str, Sequence[float]]) -> None:
    """A search's file with trials of each kind that took so long."""
    search.mkdir(parents=True, exist_ok=True)
    began = datetime.datetime(2026, 11, 26)
    for kind, times in seconds.items():
        Trials(search, kind, SearchSettings(suite=Path("suite.yaml")), 0)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(search / FILE)))
        study = optuna.load_study(study_name=kind, storage=storage)
        for each in times:
            trial = optuna.trial.create_trial(values=(0, 0))
            trial.datetime_start = began
            trial.datetime_complete = began + datetime.timedelta(seconds=each)
            study.add_trial(trial)


def test_a_search_tells_what_its_trials_take(tmp_path: Path) -> None:
    """Those by margins apart from those by answers."""
    times = {f"ties.{OWN}": (1.5,), f"ties.{MERGED}": (2.5,), "ties.answers": (8.0,), "dare": (4,)}
    write_trials(tmp_path / "search", times)
    rates = read_rates(tmp_path)
    assert (rates.trial, rates.margin_trial) == (6.0, 2.0)
    assert not read_rates(tmp_path / "none").any()


def test_times_are_read_in_fitting_units() -> None:
    times = (0.25, 119, 240, 3600, 90_000)
    assert [readable_time(time) for time in times] == [
        "0.2 s",
        "119.0 s",
        "4.0 min",
        "60 min",
        "25 h",
    ]
