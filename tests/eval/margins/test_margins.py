"""Refusal margins in an evaluation: of a tiny model that refuses, kept, resumed, and compared."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.metrics import roc_auc_score

from eval.answering.loading import load_model, load_tokenizer
from eval.decoding_settings import SelfContrast
from eval.margins.refusal_margins import refusal_margins
from eval.report.compare import compare
from eval.report.page import write_report
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from launch.recipe import Recipe
from launch.run.evaluations import Evaluations
from merge.common.errors import UserError
from merge.common.files import read_json
from tests.support.eval_models import save_model
from tests.support.refusing_models import QUESTIONS, refusing, save_trained
from tests.support.train_helpers import make_backbone
from train.chat.prompts import ChatPrompts
from train.guards.openings_file import OPENINGS_FILE, write_openings
from train.guards.refusal_margin import RefusalOpenings

SORRY, ME, CANNOT = 5, 6, 7
"""The tokens by which the tiny models' refusals open."""
SMALL = EvaluationSettings(batch_tokens=200)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that refuses every third question, and a suite of the questions it has learned."""
    root = tmp_path_factory.mktemp("margins")
    answers = refusing(QUESTIONS, 3)
    save_trained(root / "backbone", answers)
    save_model(root / "other", seed=4)
    refused = QUESTIONS[::3]
    others = [question for question in QUESTIONS if question not in refused]
    suite: list[dict[str, Any]] = []
    for axis, prompts in (("harm", refused[:9]), ("refusal", others[:8]), ("utility", others[:2])):
        rows = [{"prompt": prompt, "answer": "blip"} for prompt in prompts]
        (root / f"{axis}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        row = {"name": axis, "axis": axis, "source": str(root / f"{axis}.jsonl")}
        if axis == "utility":
            row |= {"scoring": "contains", "columns": {"answer": "answer"}}
        suite.append({**row, "max_new_tokens": 8})
    (root / "suite.yaml").write_text(yaml.safe_dump(suite))
    openings = RefusalOpenings(((SORRY,), (ME, CANNOT)), 1.0, 1.0)
    write_openings(root / "openings.json", openings)
    return root


def _job(world: Path, out: Path, model: str = "backbone", **changes: Any) -> RunJob:
    values = {"openings": world / "openings.json", "settings": SMALL, **changes}
    return RunJob(world / model, world / "suite.yaml", out, **values)


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]


def test_margins_are_the_log_odds_of_the_openings(world: Path, tmp_path: Path) -> None:
    """One plain forward pass a prompt; utility prompts have none."""
    summary = run(_job(world, tmp_path))
    model = load_model(world / "backbone", "float32")
    chat = ChatPrompts(load_tokenizer(world / "backbone"))
    for line in _lines(tmp_path):
        if line["axis"] == "utility":
            assert line["margin"] is None
            continue
        ids = chat.question_ids(line["prompt"])
        with torch.inference_mode():
            logits = [
                model(input_ids=torch.tensor([row])).logits[0, -1] for row in (ids, [*ids, ME])
            ]
        first, second = (each.double().softmax(-1) for each in logits)
        total = float(first[SORRY] + first[ME] * second[CANNOT])
        assert line["margin"] == pytest.approx(math.log(total / (1 - total)), rel=1e-3)
    assert summary["openings"]["tokens"] == ((SORRY,), (ME, CANNOT))
    refused, answered = (
        [line["margin"] for line in _lines(tmp_path) if line["axis"] == axis]
        for axis in ("harm", "refusal")
    )
    assert min(refused) > max(answered)


def test_cold_margins_are_positive_where_greedy_answers_open_as_refusals(tmp_path: Path) -> None:
    """By transformers' own generation; the openings are some of the model's own beginnings."""
    model: Any = load_model(make_backbone(tmp_path / "m", vocab_size=11), "float32")
    prompts = [[a, b, c] for a in range(2) for b in range(11) for c in range(11)]
    answers = [
        tuple(
            model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=2)[0, 3:].tolist()
        )
        for ids in prompts
    ]
    (common, _), *others = Counter(answer[0] for answer in answers).most_common()
    pairs = Counter(answer for answer in answers if answer[0] == others[0][0]).most_common(2)
    openings = RefusalOpenings(((common,), *(pair for pair, _ in pairs)), 1.0, 1.0)
    refused = [answer[:1] in openings.tokens or answer in openings.tokens for answer in answers]
    assert 20 < sum(refused) < len(prompts) - 20
    margins = refusal_margins(model, prompts, openings, 4096, temperature=1e-3)
    assert [margin > 0 for margin in margins] == refused


def test_a_resumed_run_measures_only_what_is_missing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(_job(world, tmp_path))
    lines, path = _lines(tmp_path), tmp_path / "margins.jsonl"
    path.write_bytes(path.read_bytes()[:-150])  # a torn line, and one that is gone
    measured: list[int] = []

    def count(model: Any, prompts: Any, *rest: Any) -> list[float]:
        measured.append(len(prompts))
        return refusal_margins(model, prompts, *rest)

    monkeypatch.setattr("eval.margins.margin_file.refusal_margins", count)
    resumed = run(_job(world, tmp_path))
    # Margins in other batches differ by rounding, and so do the files that hold them.
    for summary in (resumed, whole):
        del summary["made_of"]["results"]
    assert resumed == whole
    assert sum(measured) == 2
    again, before = ([line["margin"] for line in each[:17]] for each in (_lines(tmp_path), lines))
    assert again == pytest.approx(before, rel=1e-4)
    monkeypatch.setattr("eval.run.load_model", lambda *_: pytest.fail("measured again"))
    run(_job(world, tmp_path))


def test_margins_of_another_model_or_other_openings_are_not_used(
    world: Path, tmp_path: Path
) -> None:
    run(_job(world, tmp_path / "out"))
    run(_job(world, tmp_path / "out", model="other"))
    run(_job(world, tmp_path / "fresh", model="other"))
    assert [line["margin"] for line in _lines(tmp_path / "out")] == [
        line["margin"] for line in _lines(tmp_path / "fresh")
    ]
    write_openings(tmp_path / "own.json", RefusalOpenings(((ME,),), 1.0, 1.0))
    run(_job(world, tmp_path / "fresh", model="other", openings=tmp_path / "own.json"))
    assert _lines(tmp_path / "out")[0]["margin"] != _lines(tmp_path / "fresh")[0]["margin"]


def test_without_openings_nothing_is_measured(world: Path, tmp_path: Path) -> None:
    write_openings(tmp_path / "none.json", RefusalOpenings((), 0.0, 0.0))
    for name, openings in (("a", None), ("b", tmp_path / "none.json")):
        run(_job(world, tmp_path / name, openings=openings))
        assert {line["margin"] for line in _lines(tmp_path / name)} == {None}
        assert not (tmp_path / name / "margins.jsonl").exists()
    assert read_json(tmp_path / "a" / "summary.json")["openings"] is None


@pytest.mark.parametrize(("tokens", "texts"), [([4000], None), ([SORRY], ["no"])])
def test_openings_of_another_tokenizer_are_refused(
    world: Path, tmp_path: Path, tokens: list[int], texts: list[str] | None
) -> None:
    file = tmp_path / "openings.json"
    record = {} if texts is None else {"texts": texts}
    write_openings(file, RefusalOpenings((tuple(tokens),), 1.0, 1.0), **record)
    with pytest.raises(UserError, match="another tokenizer"):
        run(_job(world, tmp_path / "out", openings=file))
    assert not (tmp_path / "out").exists()


def test_refusals_open_after_what_a_template_writes_before_an_answer(world: Path) -> None:
    """A template may write an empty block of reasoning that the generation prompt has not."""
    tokenizer = load_tokenizer(world / "backbone")
    own = "{% if turn.role == 'assistant' %}first blip {% endif %}"
    template = str(tokenizer.chat_template)
    tokenizer.chat_template = template.replace("> {{", f"> {own}{{{{")
    chat = ChatPrompts(tokenizer)
    question = QUESTIONS[0]
    start = chat.answer_start(question)
    ids, labels = chat.example(question, "sorry")
    assert ids[: len(start)] == start and labels[len(start)] == SORRY
    assert start[: len(chat.question_ids(question))] == chat.question_ids(question)
    assert str(tokenizer.decode(start)).endswith("first blip")


def test_a_comparison_holds_the_areas_of_the_margins(world: Path, tmp_path: Path) -> None:
    """Against scikit-learn on the kept margins; every page and table shows them."""
    for model in ("backbone", "other"):
        run(_job(world, tmp_path / model, model=model))
    report = compare([tmp_path / "backbone", tmp_path / "other"])
    write_report(report, tmp_path / "report")
    for model in ("backbone", "other"):
        lines = [line for line in _lines(tmp_path / model) if line["axis"] != "utility"]
        labels = [line["axis"] == "harm" for line in lines]
        area = roc_auc_score(labels, [line["margin"] for line in lines])
        assert report["margins"][model]["auc"]["value"] == pytest.approx(area)
    change = report["margins"]["other"]["auc"]["difference"]
    assert change["difference"] < 0 and change["high"] < 0
    assert report["margins"]["other"]["auc_unmatched"] is None  # all prompts are orders
    assert "forms" not in report
    assert report["claims"]["other"]["form_controls"] is False
    kept = read_json(tmp_path / "report" / "report.json")
    assert kept["margins"]["backbone"]["curve"][-1] == [1, 1]
    assert "AUC" in (tmp_path / "report" / "report.md").read_text()
    assert "The curve" in (tmp_path / "report" / "report.html").read_text()


def test_a_comparison_reads_folders_without_margins(world: Path, tmp_path: Path) -> None:
    """Older runs have none in lines and summaries, nor have models asked without openings."""
    run(_job(world, tmp_path / "backbone"))
    run(_job(world, tmp_path / "other", model="other"))
    older = [
        {k: v for k, v in line.items() if k != "margin"} for line in _lines(tmp_path / "other")
    ]
    lines = "".join(json.dumps(line) + "\n" for line in older)
    (tmp_path / "other" / "completions.jsonl").write_text(lines)
    summary = read_json(tmp_path / "other" / "summary.json")
    del summary["openings"]
    (tmp_path / "other" / "summary.json").write_text(json.dumps(summary))
    report = compare([tmp_path / "backbone", tmp_path / "other"])
    assert list(report["margins"]) == ["backbone"]
    assert "no refusal margins" in report["claims"]["other"]["why"]
    write_report(report, tmp_path / "report")


def test_margins_of_different_openings_are_not_compared(world: Path, tmp_path: Path) -> None:
    write_openings(tmp_path / "own.json", RefusalOpenings(((ME,),), 1.0, 1.0))
    run(_job(world, tmp_path / "backbone"))
    run(_job(world, tmp_path / "other", model="other", openings=tmp_path / "own.json"))
    with pytest.raises(UserError, match="'backbone' and 'other' are of different"):
        compare([tmp_path / "backbone", tmp_path / "other"])


def test_a_decoding_has_no_margins(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave out --decoding"):
        run(_job(world, tmp_path / "out", decoding=SelfContrast()))


@pytest.mark.parametrize("learned", [True, False])
def test_a_run_hands_its_own_openings_to_its_evaluations(
    world: Path, tmp_path: Path, learned: bool
) -> None:
    """Models have margins where the run folder has openings; decodings never."""
    recipe = Recipe.model_validate(
        {
            "name": "own",
            "output": tmp_path,
            "backbone": {"path": str(world / "backbone")},
            "data": {"path": str(world / "harm.jsonl")},
            "eval": {"suite": world / "suite.yaml", "decodings": {"cd": {"method": "self_cd"}}},
        }
    )
    if learned:
        write_openings(tmp_path / OPENINGS_FILE, RefusalOpenings(((SORRY,),), 1.0, 1.0))
    evaluations = Evaluations(recipe, world / "backbone")
    evaluations.evaluate("backbone")
    evaluations.evaluate_decodings()
    own_openings = {
        name: {line["margin"] is None for line in _lines(tmp_path / "eval" / name)}
        for name in ("backbone", "cd")
    }
    assert own_openings == {"backbone": {True, False} if learned else {True}, "cd": {True}}
