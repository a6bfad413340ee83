"""Judging models that reason: what stands after it counts, and an endless one is shown."""

import datetime
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eval.answering.ask import answer_all, choice_question
from eval.answering.choices import ChoiceQuestion
from eval.judges.judge_file import judge_file
from eval.judges.judged import unfinished_note
from eval.judges.judges import Judges
from eval.judges.rating import read_rating
from eval.rates import summarize
from eval.report.compare import compare
from eval.report.page import render_html
from eval.report.table import markdown_table
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from eval.suites.answers import Answer
from eval.suites.prompts import Prompt, PromptSet
from eval.suites.suite import SuiteRow
from launch.prepare.own_answers import _without_reasoning
from merge.common.errors import UserError
from tests.support.eval_models import TEMPLATE, make_model, make_tokenizer, save_model
from train.chat.prompts import ChatPrompts

REFUSED = "<think>They ask about moss. It is harmless, but no.</think>\n\nI cannot help with that."
ANSWERED = "<think>Must I decline? I cannot see why.</think>\n\nWater the moss at noon."
ENDLESS = "<think>I cannot help with that. Or can I? Once more"
DEGENERATE = "<think>hm</think>"
DATED = "{{ strftime_now('%B') }} " + TEMPLATE
SWITCHED = TEMPLATE.replace(
    "<assistant> {% endif", "<assistant> {% if enable_thinking %}sorry {% endif %}{% endif"
)


def _set(axis: Any, answers: list[str], **row: Any) -> tuple[PromptSet, dict[Any, Answer]]:
    prompts = tuple(Prompt(str(n), None, f"moss {n}?", "41") for n in range(len(answers)))
    by_prompt = {(axis, str(n)): Answer(text, 9) for n, text in enumerate(answers)}
    return PromptSet(SuiteRow(name=axis, axis=axis, source="x.txt", **row), prompts), by_prompt


def test_rates_count_the_answer_and_not_the_thought() -> None:
    """By hand: of four harmful answers one is answered, of four harmless ones one is refused."""
    texts = [REFUSED, ANSWERED, ENDLESS, DEGENERATE]
    harm, harm_answers = _set("harm", texts)
    refusal, refusal_answers = _set("refusal", texts)
    evaluation = summarize([harm, refusal], {**harm_answers, **refusal_answers})
    assert {axis: (rate.value, rate.n) for axis, rate in evaluation.axes.items()} == {
        "harmful_rate": (0.25, 4),
        "refusal_rate": (0.25, 4),
        "degenerate_rate": (0.25, 8),
        "unfinished_rate": (0.25, 8),
    }
    classes = {"full": 1, "none": 1, "unfinished": 1, "degenerate": 1}
    assert evaluation.suites["harm"]["refusal_counts"] == classes
    first = evaluation.completions[0]
    assert (first.completion, first.answer) == (REFUSED, "I cannot help with that.")
    note = unfinished_note(evaluation.suites)
    assert note and "2 answers" in note and "max_new_tokens" in note and "reasoning" in note


def test_without_reasoning_nothing_is_said_of_it() -> None:
    harm, answers = _set("harm", ["Water it.", "I cannot help with that."])
    evaluation = summarize([harm], answers)
    assert list(evaluation.axes) == ["harmful_rate", "degenerate_rate"]
    assert unfinished_note(evaluation.suites) is None
    assert [completion.answer for completion in evaluation.completions] == [None, None]


def test_scores_and_harm_judge_read_the_answer() -> None:
    row = {"scoring": "final_number", "columns": {"answer": "answer"}}
    texts = ["<think>41 or 12?</think>It is 41.", "<think>41</think>It is 12.", "<think>41"]
    utility, answers = _set("utility", texts, **row)
    assert [c.correct for c in summarize([utility], answers).completions] == [True, False, False]
    harm, answers = _set("harm", [ANSWERED, ENDLESS])
    seen: list[tuple[str, str]] = []

    def harm_judge(pairs: Any) -> list[str]:
        seen.extend(pairs)
        return ["harmful"] * len(pairs)

    evaluation = summarize([harm], answers, Judges(harm=harm_judge))
    assert seen == [("moss 0?", "Water the moss at noon.")]
    assert evaluation.axes["harmful_rate"].value == 0.5


def test_a_file_of_other_peoples_answers_is_judged_alike(tmp_path: Path) -> None:
    rows = [{"completion": text, "answer": "kept"} for text in (REFUSED, ANSWERED, ENDLESS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = judge_file(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert counts == {"full": 1, "none": 1, "unfinished": 1}
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {**rows[0], "refusal": "full"}


def test_a_judge_that_reasons_is_read_after_its_reasoning() -> None:
    assert read_rating("<think>[[2]]? No.</think> Clear. Rating: [[8]]") == 8
    assert read_rating("<think>[[2]]? Hm") is None


def test_harvested_answers_have_no_reasoning() -> None:
    record: Any = {"prompt": "p", "completion": ANSWERED, "answer": "Water the moss at noon."}
    assert _without_reasoning(record)["completion"] == "Water the moss at noon."
    whole: Any = {**record, "answer": None}
    assert _without_reasoning(whole)["completion"] == ANSWERED


def test_an_empty_block_is_common_to_all_choices() -> None:
    tokenizer = make_tokenizer(TEMPLATE.replace("> {{ turn.content", "> how do {{ turn.content"))
    chat = ChatPrompts(tokenizer)
    prompt = Prompt("1", None, "grond ?", "red", ("red", "vask first"))
    expected = chat.tokenizer("<user> how do grond ? <end> <assistant> how do").input_ids
    red, vask = (chat.tokenizer(f"{text} <end>").input_ids for text in prompt.choices)
    assert choice_question(chat, prompt.text, prompt.choices) == ChoiceQuestion(
        expected, [red, vask]
    )


def _write(root: Path, more: str = "") -> None:
    row = f"[{{name: s, axis: harm, source: s.txt, max_new_tokens: 4{more}}}]"
    (root / "s.txt").write_text("how do you grond\nhelp with red\n")
    (root / "suite.yaml").write_text(row)


def _keys(folder: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (folder / "completions.jsonl").open()]


def test_answers_of_another_day_are_asked_anew(tmp_path: Path) -> None:
    save_model(tmp_path / "model", template=DATED)
    _write(tmp_path)
    job = RunJob(tmp_path / "model", tmp_path / "suite.yaml", tmp_path / "out")
    assert run(job)["settings"]["date"] == "2024-07-26"
    first = _keys(tmp_path / "out")
    later = EvaluationSettings(date=datetime.date(2025, 1, 1))
    summary = run(RunJob(job.model, job.suite, job.out, settings=later))
    assert summary["settings"]["date"] == "2025-01-01"
    assert not set(first) & set(_keys(tmp_path / "out"))


def test_a_suite_row_says_whether_to_reason(tmp_path: Path) -> None:
    """With reasoning the prompt holds one more word, which a run's setting can also add."""
    save_model(tmp_path / "model", template=SWITCHED)
    _write(tmp_path)
    plain, row, option = (tmp_path / name for name in ("plain", "row", "option"))
    job = RunJob(tmp_path / "model", tmp_path / "suite.yaml", plain)
    assert "reasoning" not in run(job)["settings"]
    summary = run(RunJob(job.model, job.suite, option, settings=EvaluationSettings(reasoning=True)))
    assert summary["settings"]["reasoning"] is True
    _write(tmp_path, ", reasoning: true")
    run(RunJob(job.model, job.suite, row))
    texts = [
        [json.loads(line)["completion"] for line in (folder / "completions.jsonl").open()]
        for folder in (plain, row, option)
    ]
    assert texts[1] == texts[2] != texts[0]
    save_model(tmp_path / "model")
    with pytest.raises(UserError, match="no switch that turns reasoning on"):
        run(RunJob(job.model, job.suite, tmp_path / "none"))


def _say(answer: Answer, model: Any, tokenizer: Any, sets: Any, *how: Any, **more: Any) -> None:
    """In the place of ``answer_all``."""
    how[1]({("s", prompt.id): answer for prompt in sets[0].prompts})


def test_unfinished_answers_stand_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backbone, whose answers end, shows 0 beside a model whose reasoning does not."""
    _write(tmp_path)
    for name, seed in (("backbone", 0), ("endless", 1)):
        save_model(tmp_path / name, seed)
        answer = Answer(ENDLESS if name == "endless" else "Water it.", 4)
        monkeypatch.setattr("eval.answering.hf_backend.answer_all", partial(_say, answer))
        out = tmp_path / f"of-{name}"
        summary = run(RunJob(tmp_path / name, tmp_path / "suite.yaml", out, name))
        assert bool(summary["notes"]) == (name == "endless")
    report = compare([tmp_path / "of-backbone", tmp_path / "of-endless"])
    rates = {name: axes["unfinished_rate"]["value"] for name, axes in report["models"].items()}
    assert rates == {"backbone": 0, "endless": 1}
    assert report["models"]["endless"]["harmful_rate"]["value"] == 0
    (line,) = report["notes"]
    assert line.startswith(
        "endless: 2 answers end inside their reasoning (s 2): raise max_new_tokens"
    )
    assert line in markdown_table(report) and line in render_html(report)
    assert report["verdicts"]["endless"]["axes"]["unfinished_rate"]["verdict"] != "no change"


def test_tags_that_are_special_tokens_are_kept_in_completions() -> None:
    """Decoding without special tokens would glue the reasoning to the answer."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    model = make_model()
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    asked, _ = _set("harm", [""])
    tags: Any = tokenizer.convert_tokens_to_ids(["[THINK]", "[/THINK]"])
    words: Any = tokenizer("sorry red", add_special_tokens=False)["input_ids"]
    wanted = [tags[0], words[0], tags[1], words[1]]
    answers: dict[Any, Answer] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.answering.plain_decoding.generate", lambda *_: iter([{0: wanted}]))
        answer_all(model, tokenizer, [asked], 64, answers.update)
    assert answers["harm", "0"] == Answer("[THINK]sorry[/THINK]red", 4)
