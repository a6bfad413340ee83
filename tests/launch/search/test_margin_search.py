"""A search by margins on a tiny model that has learned what to refuse."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from eval.answering.loading import load_tokenizer
from eval.report.page import render_html
from launch.recipe import Recipe
from launch.search.choice import violation
from launch.search.fit.fitting import Fit
from launch.search.fit.margin_fit import fit_merge
from launch.search.margin_search import judged_answers
from launch.search.margins.margin_model import MarginModel
from launch.search.opening_search import MERGED, OWN
from launch.search.search import search
from launch.search.storage import seconds_of_trials
from launch.search.trial_model import load_in_memory_model
from merge.common.errors import UserError
from merge.common.files import read_json
from merge.settings import MergeSettings
from tests.support.merge_models import write_patch
from tests.support.refusing_models import ANSWER, QUESTIONS, REFUSALS, save_trained
from train.guards.openings_file import OPENINGS_FILE, read_openings, write_openings
from train.guards.refusal_margin import RefusalOpenings
from train.recipe import load_recipe


def make_search(
    folder: Path, openings: list[str], every: int = 3, **search_settings: Any
) -> Recipe:
    """A run folder with random patches; every other question of either kind is refused.

    Args:
        every: one in so many refusals is the second kind.
    """
    questions = QUESTIONS[:32]
    answers = {
        question: REFUSALS[number % every // (every - 1)] if number % 2 else ANSWER
        for number, question in enumerate(questions)
    }
    backbone = save_trained(folder / "backbone", answers)
    weights = load_file(backbone / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    for role in ("safety", "over_safety"):
        delta = {n: 0.02 * torch.randn(w.shape, generator=draw) for n, w in weights.items()}
        gradients = {n: torch.rand(w.shape, generator=draw) for n, w in weights.items()}
        write_patch(folder / "run" / role, role, delta, gradients, score="gradient")
    rows: dict[str, list[dict[str, str]]] = {
        "harm": [{"prompt": question} for question in questions[:16]],
        "refusal": [{"prompt": question} for question in questions[16:]],
        "utility": [{"prompt": question, "answer": answers[question]} for question in questions],
    }
    suite = []
    for axis, prompts in rows.items():
        (folder / f"{axis}.jsonl").write_text("\n".join(map(json.dumps, prompts)))
        row: dict[str, Any] = {"name": axis, "axis": axis, "source": f"{axis}.jsonl"}
        scored = {"scoring": "exact", "columns": {"answer": "answer"}}
        suite.append({**row, "max_new_tokens": 8, **(scored if axis == "utility" else {})})
    (folder / "suite.yaml").write_text(yaml.safe_dump(suite))
    (folder / "pairs.jsonl").write_text('{"question": "grond it", "answer": "blip it"}')
    tokenizer = load_tokenizer(backbone)
    tokens = tuple(tuple(tokenizer.encode(text, add_special_tokens=False)) for text in openings)
    write_openings(folder / "run" / OPENINGS_FILE, RefusalOpenings(tokens, 1.0, 1.0))
    recipe = {
        "name": "tiny",
        "output": str(folder / "run"),
        "backbone": {"path": str(backbone)},
        "data": {"path": str(folder / "pairs.jsonl")},
        "search": {"suite": str(folder / "suite.yaml"), "trials": 4, **search_settings},
    }
    return Recipe(**recipe)


def run_search(recipe: Recipe) -> dict[str, Any]:
    folder = recipe.output / "search"
    search(recipe, Path(str(recipe.backbone.path)), folder)
    return read_json(folder / "search.json")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, dict[str, Any]]:
    """A whole search with fitted scales."""
    recipe = make_search(
        tmp_path_factory.mktemp("search"),
        ["sorry", "i"],
        by="margins",
        fit="tensors",
        answered=2,
        max_divergence=1.0,
        methods=["difference"],
    )
    return recipe, run_search(recipe)


def test_the_margin_stands_for_the_judged_answer(searched: tuple[Recipe, dict[str, Any]]) -> None:
    """Half of the questions is refused, and the margin says which."""
    _, record = searched
    assert record["calibration"]["auc"] == 1.0
    assert record["calibration"]["answers"] == 32
    # Too few prompts to tell whether first words tell them apart.
    assert record["first_words"] is None
    assert record["backbone"]["harmful_rate"] == record["backbone"]["refusal_rate"] == 0.5
    assert record["prediction"]["before"]["harmful_rate"] == pytest.approx(0.5, abs=0.05)


def test_the_best_few_are_asked_and_one_of_them_is_chosen(
    searched: tuple[Recipe, dict[str, Any]],
) -> None:
    """And the best trial before the fit, whose scales are by no pattern of tensors."""
    recipe, record = searched
    assert len(record["trials"]) == 2 + 1
    assert not record["trials"][0]["settings"].get("scales")
    assert [trial["chosen"] for trial in record["trials"]].count(True) == 1
    # Four trials, and what the fit has measured.
    assert len(record["estimated"]) > 4 + 4
    assert all("divergence" in trial for trial in record["estimated"])
    assert (recipe.output / "search" / "prediction.json").is_file()
    fit = record["fit"]["difference"]
    assert fit["held_out_auc"] == fit["cross_validation"][0]["auc"]
    losses = [each["loss"] for each in fit["cross_validation"]]
    assert losses == sorted(losses)


def test_a_merge_that_overflows_is_the_worst(searched: tuple[Recipe, dict[str, Any]]) -> None:
    """Its margins are no numbers, which no comparison would call a broken margin."""
    recipe, _ = searched
    backbone = Path(str(recipe.backbone.path))
    model = MarginModel(
        load_in_memory_model(recipe, backbone),
        read_openings(recipe.output / OPENINGS_FILE),
        judged_answers(recipe.output / "search" / "backbone"),
    )
    overflowed = MergeSettings(method="dense", alpha=1e38)
    assert np.isnan(model.measure(overflowed).margins).any()
    outcome = model.outcome(overflowed)
    assert recipe.search is not None
    assert (outcome.harmful_rate, outcome.refusal_rate, outcome.utility) == (1, 1, 0)
    assert violation(model.before, outcome, recipe.search) > 1
    assert model.outcome(MergeSettings(method="dense", alpha=0, beta=0)) == model.before


def test_the_report_says_what_was_asked_by_margins(
    searched: tuple[Recipe, dict[str, Any]],
) -> None:
    _, record = searched
    rates = {
        axis: {"value": value, "low": value, "high": value, "n": 16}
        for axis, value in record["backbone"].items()
    }
    report: Any = {
        "models": {"backbone": rates},
        "backbone": "backbone",
        "suites": {"backbone": {}},
        "changes": {},
        "details": {},
        "search": record,
    }
    page = " ".join(render_html(report).split())
    asked = f"{3 + len(record['estimated'])} merges tried on the validation split, "
    assert f"{asked}{len(record['estimated'])} of them by refusal margins alone" in page
    held_out = record["fit"]["difference"]["held_out_auc"]
    assert f"with an AUC of {held_out:.3f}." in page
    assert "both patches, the shared sets" in page
    most = record["fit"]["difference"]["learning_curve"][-1]
    assert f"{most['auc']:.3f} with {most['prompts']}; where this still rises" in page


def test_a_stopped_search_goes_on_from_what_it_has_measured(
    searched: tuple[Recipe, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials, derivatives, a fit's merges and answers are on disk: none is made a second time."""
    recipe, record = searched

    def fail(*arguments: object) -> None:
        raise AssertionError("was measured before")

    monkeypatch.setattr("launch.search.fit.derivatives.ScaleDerivatives.of_margins", fail)
    monkeypatch.setattr("launch.search.margins.margin_model.MarginModel.measure", fail)
    monkeypatch.setattr("launch.search.trial_model.TrialModel.evaluation", fail)
    assert run_search(recipe)["chosen"] == record["chosen"]


@pytest.mark.slow
def test_a_merge_that_refuses_in_other_ways_teaches_its_openings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some refusals open as none that is known: the search begins again by both."""
    monkeypatch.setattr("launch.search.margins.merged_openings._LEAST_COVERAGE", 1.0)
    recipe = make_search(tmp_path, ["sorry"], every=5, by="margins", answered=2, trials=3)
    record = run_search(recipe)
    known = read_openings(recipe.output / OPENINGS_FILE).tokens
    learned = read_openings(recipe.output / "search" / OPENINGS_FILE)
    assert learned.tokens[:1] == known and len(learned.tokens) == 2 and learned.coverage == 1.0
    assert record["openings"] == {"tokens": [list(t) for t in learned.tokens], "from_merge": True}
    # All that the first refusals could not tell from answers is told now.
    assert record["calibration"]["auc"] == 1.0
    assert len(record["trials"]) == 2
    times = seconds_of_trials(recipe.output / "search")
    kinds = ("answers", OWN, MERGED)
    assert [len(times[f"difference.{kind}"]) for kind in kinds] == [2, 3, 3]


@pytest.mark.slow
def test_no_scale_is_fitted_by_openings_that_miss_refusals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best trial answers before the fit, and shows it."""
    monkeypatch.setattr("launch.search.margins.merged_openings._LEAST_COVERAGE", 1.0)
    openings: list[int] = []

    def fit(model: MarginModel, *rest: Any) -> Fit:
        openings.append(len(model.openings.tokens))
        return fit_merge(model, *rest)

    monkeypatch.setattr("launch.search.opening_search.fit_merge", fit)
    settings = {"by": "margins", "answered": 1, "trials": 2, "fit": "layers", "fit_rounds": 1}
    record = run_search(make_search(tmp_path, ["sorry"], every=5, max_divergence=1.0, **settings))
    assert openings == [2] and record["openings"]["from_merge"]
    assert len(record["trials"]) == 2


@pytest.mark.slow
def test_margins_that_say_nothing_are_not_asked(tmp_path: Path) -> None:
    """Openings of another model: the search asks for answers, and says so."""
    recipe = make_search(tmp_path, ["vask", "red"], by="margins", trials=2)
    record = run_search(recipe)
    assert record["calibration"]["auc"] < 0.8
    assert len(record["trials"]) == 2 and record["estimated"] == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [({"fit": "layers"}, "set by to margins"), ({"by": "margins", "workers": 2}, "workers to 1")],
)
def test_settings_that_do_not_fit_are_refused(
    keys: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    search_section = {"suite": "suite.yaml", **keys}
    file.write_text(yaml.safe_dump({
        "name": "n", "backbone": {"path": "b"}, "data": {"path": "d"}, "search": search_section
    }))  # fmt: skip
    with pytest.raises(UserError, match=problem):
        load_recipe(file, [], Recipe)
