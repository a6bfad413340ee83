"""Two-turn answers and their ratings, over tiny models and a judge whose words are planted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.judges import rating as rating_judge
from eval.judges.rating import Dialogue, judge_prompt, read_rating
from eval.mt_bench import MtBenchJob, MtQuestion, read_questions, run_mt_bench, summarize_ratings
from eval.report.compare import compare
from eval.report.page import write_report
from eval.run import RunJob, run
from eval.settings import EvaluationSettings, MtBenchSettings
from merge.common.errors import UserError
from tests.support.eval_models import make_model, make_tokenizer, save_model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench")
    save_model(root / "backbone", seed=0)
    save_model(root / "patched", seed=3)
    save_model(root / "judge", seed=1)
    questions = [
        {
            "question_id": 80 + n,
            "category": "ab"[n % 2],
            "turns": [f"how do you grond {'the ' * n}", "first blip it"],
            "other": 1,
        }
        for n in range(5)
    ]
    questions[0]["reference"] = ["two plus two", "vask"]
    (root / "q.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    (root / "suite.yaml").write_text("[{name: s, axis: harm, source: s.txt, max_new_tokens: 4}]")
    (root / "s.txt").write_text("how do you grond\n")
    return root


def _job(world: Path, out: Path, model: str = "backbone") -> MtBenchJob:
    bench = MtBenchSettings(
        questions=world / "q.jsonl", judge=str(world / "judge"), max_new_tokens=6
    )
    return MtBenchJob(world / model, bench, out, settings=EvaluationSettings(batch_tokens=60))


@pytest.mark.parametrize(
    ("written", "rating"),
    [
        ("Clear. Rating: [[7]]", 7.0),
        ("It could be [[3]], but: [[8.5]]", 8.5),
        ("Rating: [4]", 4.0),
        ("[1] is cited. Rating: [[6]]", 6.0),
        ("Rating: [[11]]", None),
        ("Rating: 7/10", None),
        ("", None),
    ],
)
def test_ratings_are_read_from_brackets(written: str, rating: float | None):
    assert read_rating(written) == rating


def test_the_judge_reads_the_whole_dialogue_and_the_reference():
    prompt = judge_prompt(Dialogue(("grond?", "and now?"), ("blip", "zorl"), "a right vask"))
    places = [prompt.index(word) for word in ("[[5]]", "grond?", "blip", "and now?", "zorl")]
    assert places == sorted(places)
    assert "a right vask" in prompt
    assert "right answer" not in judge_prompt(Dialogue(("grond?",), ("blip",)))


def test_second_answers_stand_on_the_first_ones(world: Path, tmp_path: Path):
    """Answers equal transformers' own generate on the dialogue, one at a time."""
    run_mt_bench(_job(world, tmp_path))
    lines = (tmp_path / "mt_bench_answers.jsonl").read_text().splitlines()
    ratings = sorted(json.loads(line)["value"] for line in lines)
    model: Any = make_model(0)
    tokenizer, expected = make_tokenizer(), []
    for question in read_questions(world / "q.jsonl"):
        said: list[dict[str, str]] = []
        for turn in question.turns:
            said.append({"role": "user", "content": turn})
            text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            ids: Any = tokenizer(str(text), add_special_tokens=False, return_tensors="pt")
            with torch.no_grad():
                whole: Any = model.generate(ids["input_ids"], do_sample=False, max_new_tokens=6)
            new = whole[0, ids["input_ids"].shape[1] :]
            answer = str(tokenizer.decode(new, skip_special_tokens=True)).strip()
            said.append({"role": "assistant", "content": answer})
            expected.append(answer)
    assert ratings == sorted(expected)


def test_an_unreadable_judge_gives_no_rating_and_nothing_is_asked_twice(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = run_mt_bench(_job(world, tmp_path))
    assert (first["value"], first["unparsed"]) == (None, 10)
    monkeypatch.setattr("eval.mt_bench.load_model", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr("eval.judges.rating.load_judge", lambda *_: pytest.fail("judged again"))
    assert run_mt_bench(_job(world, tmp_path)) == first


def test_means_by_turn_and_category_leave_out_what_was_unparsed():
    questions = [
        MtQuestion(question_id=n, category=category, turns=["a", "b"])
        for n, category in enumerate("xxy")
    ]
    summary = summarize_ratings(questions, [[8, 6], [None, 4], [None, None]])
    assert summary["value"] == pytest.approx(6)
    assert (summary["n"], summary["unparsed"]) == (2, 3)
    assert [turn["value"] for turn in summary["turns"]] == [8, 5]
    assert summary["categories"]["x"]["value"] == pytest.approx(6)
    assert summary["categories"]["y"]["value"] is None


def test_compare_pairs_ratings_by_question(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A planted point between two models comes out as the difference; other weights are refused."""
    for name, rating in (("backbone", 5), ("patched", 6)):

        def write(_: str, pending: dict[str, Dialogue], store: Any, rating: int = rating) -> None:
            store.add(dict.fromkeys(pending, f"Rating: [[{rating}]]"))

        monkeypatch.setattr(rating_judge, "_rate", write)
        run(RunJob(world / name, world / "suite.yaml", tmp_path / name))
        run_mt_bench(_job(world, tmp_path / name, name))
    report = compare([tmp_path / "backbone", tmp_path / "patched"])
    assert report["mt_bench"]["patched"]["value"] == 6
    difference = report["mt_bench"]["patched"]["difference"]
    assert difference == {"value": 1.0, "low": 1.0, "high": 1.0}
    write_report(report, tmp_path / "report")
    assert "6.00 [6.00, 6.00]" in (tmp_path / "report" / "report.html").read_text()
    run_mt_bench(_job(world, tmp_path / "patched", "backbone"))
    with pytest.raises(UserError, match="rates other weights"):
        compare([tmp_path / "backbone", tmp_path / "patched"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"question_id": 1, "category": "a"}\n', "line 1: key 'turns' is missing"),
        ("", "holds no question"),
        ("{broken\n{}\n", "line 1"),
    ],
)
def test_wrong_questions_are_named(tmp_path: Path, text: str, words: str):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        read_questions(tmp_path / "q.jsonl")
