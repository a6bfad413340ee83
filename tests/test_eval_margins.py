"""Refusal margins in an evaluation: of a tiny model that refuses, kept, resumed, and compared."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from eval.margin_file import answer_start
from eval.models import load_model, load_tokenizer
from eval.refusal_margins import refusal_margins
from eval.run import RunJob, run
from merge.errors import UserError
from merge.files import read_json
from tests.eval_models import save_model
from tests.refusing_models import QUESTIONS, refusing, save_trained
from train.openings_file import write_openings
from train.prompts import ChatPrompts
from train.refusal_margin import RefusalOpenings

SORRY, ME, CANNOT = 5, 6, 7
"""The tokens by which the tiny models' refusals open."""


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
    values = {"openings": world / "openings.json", "batch_tokens": 200, **changes}
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

    monkeypatch.setattr("eval.margin_file.refusal_margins", count)
    assert run(_job(world, tmp_path)) == whole
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
    start = answer_start(chat, question)
    ids, labels = chat.example(question, "sorry")
    assert ids[: len(start)] == start and labels[len(start)] == SORRY
    assert start[: len(chat.question_ids(question))] == chat.question_ids(question)
    assert str(tokenizer.decode(start)).endswith("first blip")
