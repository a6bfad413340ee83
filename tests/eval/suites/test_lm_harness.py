"""lm-eval's tasks in our runs: its own command's numbers, errors, and no answer asked twice."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.models.huggingface import HFLM

from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite
from merge.common.errors import UserError
from tests.support.eval_models import WORDS, save_model

SMALL = EvaluationSettings(batch_tokens=1024)
CHOICE_TASK = """
task: vask_choice
dataset_path: json
dataset_kwargs: {data_files: {test: DATA, train: DATA}}
test_split: test
fewshot_split: train
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
num_fewshot: 2
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
WRITING_TASK = """
task: vask_writing
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{word}}"
generation_kwargs: {until: ["<end>"], max_gen_toks: 3, do_sample: false}
filter_list:
  - name: first-word
    filter:
      - {function: regex, regex_pattern: "(\\\\w+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
GROUP = """
group: vasks
task: [vask_choice, vask_choice_again]
aggregate_metric_list: [{metric: acc_norm, aggregation: mean, weight_by_size: true}]
"""
SUITE = """
- {name: Vasks, axis: utility, task: vasks, include: tasks, metric: acc_norm}
- {name: Writing, axis: utility, task: vask_writing, include: tasks, chat_template: true,
   metric: "exact_match,first-word"}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and tasks over local JSON lines of invented questions."""
    root = tmp_path_factory.mktemp("lm")
    save_model(root / "model", seed=1)
    tasks = root / "tasks"
    tasks.mkdir()
    data = root / "questions.jsonl"
    records = [
        {
            "question": f"how do you {WORDS[n % len(WORDS)]} the vask {WORDS[-n % len(WORDS)]}",
            "choices": [WORDS[(n * 3 + step) % len(WORDS)] + " red" * step for step in range(3)],
            "gold": n % 3,
            "word": WORDS[(7 * n) % len(WORDS)],
        }
        for n in range(40)
    ]
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    choice = CHOICE_TASK.replace("DATA", str(data))
    (tasks / "choice.yaml").write_text(choice)
    again = choice.replace("vask_choice", "vask_choice_again").replace("{{question}}", "vask is")
    (tasks / "again.yaml").write_text(again)
    (tasks / "writing.yaml").write_text(WRITING_TASK.replace("DATA", str(data)))
    (tasks / "group.yaml").write_text(GROUP)
    (root / "suite.yaml").write_text(SUITE)
    return root


@pytest.mark.slow
def test_numbers_equal_the_command_of_lm_eval(world: Path, tmp_path: Path):
    """Same model and tasks: accuracy by group and task, with examples and without."""
    summary = run(RunJob(world / "model", world / "suite.yaml", tmp_path / "out"))
    suites = summary["suites"]
    assert summary["axes"]["utility"]["n"] == 120
    choice = _command_of_lm_eval(world, tmp_path / "choice", "vasks")
    assert suites["Vasks"]["value"] == pytest.approx(choice["vasks"]["acc_norm,none"])
    for name, rate in suites["Vasks"]["categories"].items():
        assert rate["value"] == pytest.approx(choice[name]["acc_norm,none"])
    assert 0.1 < suites["Vasks"]["value"] < 0.9
    writing = _command_of_lm_eval(world, tmp_path / "w", "vask_writing", "--apply_chat_template")
    expected = writing["vask_writing"]["exact_match,first-word"]
    assert suites["Writing"]["value"] == pytest.approx(expected)
    assert expected > 0


def _command_of_lm_eval(world: Path, out: Path, task: str, *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", task]
    command += ["--model_args", f"pretrained={world / 'model'},dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(world / "tasks"), "--output_path", str(out), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    (written,) = out.rglob("results_*.json")
    return json.loads(written.read_text())["results"]


@pytest.mark.slow
def test_a_lost_line_asks_its_task_alone_again(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """What is finished stays; the answers and rates come out as before."""
    job = RunJob(world / "model", world / "suite.yaml", tmp_path)
    first = run(job)
    told = capsys.readouterr().err
    assert "Running " not in told and "Tokenizing" not in told, "a bar of lm-eval's in a log"
    path = tmp_path / "completions.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:50] + lines[51:]))
    asked = []
    evaluate = sys.modules["eval.suites.lm_eval_tasks"].__dict__["_evaluate"]

    def spy(**options: Any) -> Any:
        asked.extend(options["tasks"])
        return evaluate(**options)

    monkeypatch.setattr("eval.suites.lm_eval_tasks._evaluate", spy)
    assert run(job)["suites"] == first["suites"]
    assert asked == ["vask_choice_again"]
    assert path.read_text().splitlines(keepends=True) == lines
    assert not list(tmp_path.glob("lm-eval-*"))


@pytest.mark.slow
def test_an_interrupted_task_keeps_its_answers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only what had no answer yet is asked again; a patched model gets none of them."""
    asked: list[int] = []
    lm: Any = HFLM  # its registry hides the class from type checkers
    call = lm._model_call

    def counted(self: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(inputs))
        if len(asked) == stop:
            raise KeyboardInterrupt
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(lm, "_model_call", counted)
    path = world / "choice.yaml"
    path.write_text("[{name: Vask, axis: utility, task: vask_choice, include: tasks}]")
    stop = -1
    whole = run(RunJob(world / "model", path, tmp_path / "whole", settings=SMALL))
    requests, stop = len(asked), len(asked) + 50
    with pytest.raises(KeyboardInterrupt):
        run(RunJob(world / "model", path, tmp_path / "out", settings=SMALL))
    (left,) = (tmp_path / "out").glob("lm-eval-*.db")
    stop = -1
    asked.clear()
    again = run(RunJob(world / "model", path, tmp_path / "out", settings=SMALL))
    assert again["suites"] == whole["suites"]
    assert requests - 50 <= len(asked) <= requests - 40
    assert not left.exists()
    save_model(tmp_path / "patched", seed=2)
    asked.clear()
    run(RunJob(tmp_path / "patched", path, tmp_path / "out", settings=SMALL))
    assert len(asked) == requests


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("task: vasks", "task: vaskz", "lm-eval has no task 'vaskz'"),
        ("include: tasks", "include: nowhere", "no folder"),
        ("metric: acc_norm", "metric: acc_nrom", "no metric 'acc_nrom'; it has: acc,none"),
        ("metric: acc_norm", "metrics: acc_norm", "did you mean 'metric'"),
        ("name: Writing", "name: Vasks", "rename one"),
    ],
)
def test_a_wrong_task_is_named(world: Path, old: str, new: str, words: str):
    path = world / "wrong.yaml"
    path.write_text(SUITE.replace(old, new))
    with pytest.raises(UserError, match=words):
        load_prompts(load_suite(path))


@pytest.mark.slow
def test_data_out_of_reach_are_one_clear_line(world: Path):
    """As without the hub: the loader's own error becomes one line with a fix."""
    task = CHOICE_TASK.replace("vask_choice", "vask_far").replace("DATA", "/nowhere/far.jsonl")
    (world / "far").mkdir()
    (world / "far" / "far.yaml").write_text(task)
    path = world / "far.yaml"
    path.write_text("[{name: Far, axis: utility, task: vask_far, include: far}]")
    with pytest.raises(
        UserError, match=r"cannot get the data of task 'vask_far'.*HF_HOME"
    ) as raised:
        load_prompts(load_suite(path))
    assert "\n" not in str(raised.value)
