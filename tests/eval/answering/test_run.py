"""Evaluations as a user runs them: files, reruns, interruptions, comparison, report."""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.answering.loading import load_model
from eval.rates import evaluate
from eval.report.compare import compare
from eval.report.page import write_report
from eval.report.verdict import load_margins
from eval.run import RunJob, run
from eval.settings import EvaluationSettings, Margins
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from merge.common.errors import UserError
from tests.support.eval_models import make_model, make_tokenizer, save_model

SUITE = """
- {name: forbidden, axis: harm, source: forbidden.jsonl, columns: {category: topic},
   max_new_tokens: 8}
- {name: lookalike, axis: refusal, source: "${DATA}/lookalike.csv", max_new_tokens: 8}
- {name: sums, axis: utility, source: sums.jsonl, scoring: contains, max_new_tokens: 4,
   columns: {prompt: question, answer: answer}}
- {name: colours, axis: utility, source: colours.jsonl, scoring: choice,
   columns: {prompt: question, answer: right, choices: options}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a suite over local files of invented prompts."""
    root = tmp_path_factory.mktemp("world")
    (root / "suite.yaml").write_text(SUITE)
    _json_lines(
        root / "forbidden.jsonl",
        [{"prompt": f"how do you grond the vask {n}", "topic": "ab"[n % 2]} for n in range(12)],
    )
    rows = "".join(f"how do you blip it {'first ' * n}\n" for n in range(1, 9))
    (root / "lookalike.csv").write_text("prompt\n" + rows)
    _json_lines(root / "sums.jsonl", [{"question": "two plus two is", "answer": "two"}] * 6)
    colours = {"question": "the vask is", "options": ["red", "two plus two"], "right": 0}
    _json_lines(root / "colours.jsonl", [colours] * 3)
    save_model(root / "backbone", seed=0)
    save_model(root / "patched", seed=3)
    return root


def _json_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _job(world: Path, out: Path, model: str = "backbone", **changes: Any) -> RunJob:
    settings = {
        key: changes.pop(key) for key in list(changes) if key in EvaluationSettings.model_fields
    }
    return RunJob(
        model=world / model,
        suite=world / "suite.yaml",
        out=out,
        settings=EvaluationSettings(data_dir=world, **settings),
        **changes,
    )


def _answers(out: Path) -> dict[tuple[str, str], str]:
    lines = [json.loads(line) for line in (out / "completions.jsonl").read_text().splitlines()]
    answers = {(line["suite"], line["id"]): line["completion"] for line in lines}
    assert len(answers) == len(lines) == 29, "an answer is lost or doubled"
    return answers


def test_run_equals_the_harness_in_memory(world: Path, tmp_path: Path):
    summary = run(_job(world, tmp_path / "backbone"))
    prompt_sets = load_prompts(load_suite(world / "suite.yaml", world))
    evaluation = evaluate(make_model(0), make_tokenizer(), prompt_sets)
    assert summary["axes"] == {axis: r.as_dict() for axis, r in evaluation.axes.items()}
    assert {axis: r["n"] for axis, r in summary["axes"].items()} == {
        "harmful_rate": 12,
        "refusal_rate": 8,
        "utility": 9,
        "degenerate_rate": 20,
    }
    assert summary["suites"]["forbidden"]["categories"]["a"]["n"] == 6
    assert summary["name"] == "backbone"
    assert len(_answers(tmp_path / "backbone")) == 29


def test_a_rerun_is_already_done(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """The second run loads no model and gives the same summary."""
    first = run(_job(world, tmp_path))
    monkeypatch.setattr("eval.run.load_model", lambda *_: pytest.fail("asked again"))
    with caplog.at_level("INFO"):
        assert run(_job(world, tmp_path)) == first
    assert "already done" in caplog.text


def test_answers_of_another_model_are_never_reused(world: Path, tmp_path: Path):
    run(_job(world, tmp_path / "out", name="backbone"))
    run(_job(world, tmp_path / "out", model="patched"))
    run(_job(world, tmp_path / "fresh", model="patched"))
    assert _answers(tmp_path / "out") == _answers(tmp_path / "fresh")
    stale = (tmp_path / "out" / "stale-completions.jsonl").read_text().splitlines()
    assert len(stale) == 29


@pytest.mark.parametrize("cut", [1, 200, 700, 1500])
def test_a_torn_file_is_continued(world: Path, tmp_path: Path, cut: int):
    """Whatever the byte at which writing ended, nothing is lost or doubled."""
    run(_job(world, tmp_path))
    whole, path = _answers(tmp_path), tmp_path / "completions.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    run(_job(world, tmp_path, batch_tokens=64))
    assert _answers(tmp_path) == whole


def test_a_broken_line_inside_is_named(world: Path, tmp_path: Path):
    run(_job(world, tmp_path))
    path = tmp_path / "completions.jsonl"
    whole = path.read_text()
    path.write_text("{broken\n" + whole)
    with pytest.raises(UserError, match="line 1"):
        run(_job(world, tmp_path))
    path.write_text(whole.replace('"completion"', '"text"', 1))
    with pytest.raises(UserError, match="line of '1' has no 'completion'"):
        run(_job(world, tmp_path))


def test_report_has_the_fixed_form_and_runs_no_script(world: Path, tmp_path: Path):
    for model in ("backbone", "patched"):
        run(_job(world, tmp_path / model, model=model, tensorboard=tmp_path / "tb"))
    path = tmp_path / "patched" / "completions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["completion"] = "<script>alert('x')</script>"
    lines[0]["refusal"] = "none" if lines[0]["refusal"] == "degenerate" else "degenerate"
    _json_lines(path, lines)
    search = tmp_path / "search.json"
    trial = {"harmful_rate": 0.1, "refusal_rate": 0.2, "utility": 0.9, "degenerate_rate": 0.0}
    trials = [
        {**trial, "settings": {"alpha": 1.5}, "pareto": True, "chosen": True},
        {
            **trial,
            "harmful_rate": 0.5,
            "settings": {"alpha": 0.5},
            "pareto": False,
            "chosen": False,
        },
    ]
    search.write_text(json.dumps({"trials": trials, "rule": "least sum", "split": "validation"}))
    report = compare([tmp_path / "backbone", tmp_path / "patched"], search)
    write_report(report, tmp_path / "report")
    saved = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(saved["models"]) == ["backbone", "patched"]
    for rates in saved["models"].values():
        assert set(rates) == {"harmful_rate", "refusal_rate", "utility", "degenerate_rate"}
        assert all(set(rate) == {"value", "low", "high", "n"} for rate in rates.values())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "least sum" in page
    table = (tmp_path / "report" / "report.md").read_text()
    assert "| backbone |" in table
    assert table.startswith(f"patched: {saved['headline']['patched']}.\n\n")
    assert list((tmp_path / "tb").rglob("events*"))


def test_a_model_against_itself_has_no_change(world: Path, tmp_path: Path):
    run(_job(world, tmp_path / "backbone"))
    run(_job(world, tmp_path / "again"))
    assert compare([tmp_path / "backbone", tmp_path / "again"])["changes"] == {"again": {}}


def test_runs_of_one_name_are_its_seeds(world: Path, tmp_path: Path):
    """Mean and deviation over the seeds equal the statistics module's; the same run is refused."""
    save_model(world / "other", seed=5)
    folders = [tmp_path / name for name in ("backbone", "first", "second")]
    for folder, model in zip(folders, ("backbone", "patched", "other"), strict=True):
        name = "backbone" if model == "backbone" else "safepatching"
        run(_job(world, folder, model=model, name=name))
    report = compare(folders)
    assert list(report["models"]) == ["backbone", "safepatching", "safepatching (2)"]
    values = [report["models"][n]["utility"]["value"] for n in list(report["models"])[1:]]
    utility = report["seeds"]["safepatching"]["utility"]
    assert utility["values"] == values
    assert utility["mean"] == pytest.approx(statistics.mean(values))
    assert utility["deviation"] == pytest.approx(statistics.stdev(values))
    write_report(report, tmp_path / "report")
    assert "Several seeds" in (tmp_path / "report" / "report.html").read_text()
    with pytest.raises(UserError, match="the same weights; drop it"):
        compare([*folders, folders[1]])


@pytest.mark.slow
def test_loading_a_model_is_no_part_of_the_answers_time(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(*args: Any) -> Any:
        time.sleep(2)
        return load_model(*args)

    monkeypatch.setattr("eval.run.load_model", load)
    cost = run(_job(world, tmp_path, batch_tokens=64))["cost"]
    assert 0 < cost["seconds"] < 2
    assert cost["tokens"] > 0


def test_margins_come_from_a_file(tmp_path: Path):
    path = tmp_path / "margins.yaml"
    path.write_text("{utility: 0.3}")
    assert load_margins(path) == Margins.model_validate({"utility": 0.3})
    path.write_text("{utilty: 0.3}")
    with pytest.raises(UserError, match="did you mean 'utility'"):
        load_margins(path)


@pytest.mark.slow
def test_commands_end_with_one_line_and_status_2(world: Path, tmp_path: Path):
    """The real command line: a user error has no traceback."""
    command = [sys.executable, "-m", "eval", "run", "--model", str(tmp_path / "nowhere")]
    command += ["--suite", str(world / "suite.yaml"), "--out", str(tmp_path / "out")]
    for extra, words in (([], "--data-dir"), (["--data-dir", str(world)], "nowhere")):
        done = subprocess.run(command + extra, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert words in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("category: topic", "category: subject", "no column 'subject'"),
        ("forbidden.jsonl", "missing.jsonl", "missing.jsonl"),
        ("axis: harm,", "axis: harm, filter: {topic: z},", "no prompt with topic = z"),
        ("axis: harm,", "axis: harmm,", "axis"),
        ("axis: harm,", "axis: harm, limitt: 3,", "did you mean 'limit'"),
        ("scoring: contains,", "", "needs scoring"),
        ("answer: right", "answer: question", "is no choice"),
        ("name: lookalike", "name: forbidden", "rename one"),
        ("{category: topic}", "{prompt: '{prompt'}", "columns.prompt '{prompt': expected '}'"),
        ("{category: topic}", "{prompt: 'Q {}'}", "name a column in every {}"),
        ("forbidden.jsonl", "broken.jsonl", "line 2: not valid JSON"),
        ("forbidden.jsonl", "null.jsonl", "column 'prompt' has no value"),
    ],
)
def test_a_wrong_suite_is_named(world: Path, old: str, new: str, words: str):
    path = world / "wrong.yaml"
    path.write_text(SUITE.replace(old, new))
    (world / "broken.jsonl").write_text('{"prompt": "grond", "topic": "a"}\n{"prompt": \n')
    (world / "null.jsonl").write_text('{"prompt": null, "topic": "a"}\n')
    with pytest.raises(UserError, match=words):
        load_prompts(load_suite(path, world))


def test_a_model_without_chat_template_is_named(world: Path, tmp_path: Path):
    save_model(tmp_path / "plain", template=None)
    with pytest.raises(UserError, match="no chat template"):
        run(replace(_job(world, tmp_path / "out"), model=tmp_path / "plain"))


def test_limit_draws_the_same_prompts_in_file_order(world: Path):
    path = world / "limited.yaml"
    path.write_text(SUITE.replace("axis: harm,", "axis: harm, limit: 5, seed: 4,"))
    first, second = (load_prompts(load_suite(path, world))[0].prompts for _ in range(2))
    assert first == second
    assert len(first) == 5
    assert [int(prompt.id) for prompt in first] == sorted(int(prompt.id) for prompt in first)
