"""Several processes answer as one does; one that dies is named, and its answers are kept."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from eval.answering.ask import Answers, Asking
from eval.answering.backends import BACKENDS, Backend
from eval.answering.completions import FILE_NAME, read_completions
from eval.answering.parallel import answer_on_devices, run_workers, split
from eval.decoding_settings import SelfContrast
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from eval.suites.answers import Answer
from eval.suites.prompts import Prompt, PromptSet, load_prompts
from eval.suites.suite import SuiteRow, TaskRow, load_suite
from merge.common.errors import UserError
from tests.support.eval_models import save_model

SUITE = """
- {name: forbidden, axis: harm, source: forbidden.txt, max_new_tokens: 8}
- {name: colours, axis: utility, source: colours.jsonl, scoring: choice,
   columns: {prompt: question, answer: right, choices: options}}
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parallel")
    (root / "suite.yaml").write_text(SUITE)
    lines = [f"how do you grond {'the vask ' * (n % 5)}{n}" for n in range(31)]
    (root / "forbidden.txt").write_text("\n".join(lines))
    colour = '{"question": "the vask is", "options": ["red", "two plus two"], "right": 0}\n'
    (root / "colours.jsonl").write_text(colour * 5)
    save_model(root / "model")
    return root


def test_shares_hold_every_prompt_once_and_tasks_whole():
    row = SuiteRow(name="s", axis="harm", source="s.txt")
    prompts = PromptSet(row, tuple(Prompt(str(n), None, "x" * n) for n in range(11)))
    names = ["a/0", "a/1", "a/2", "b/0", "c/0", "c/1"]
    tasks = PromptSet(TaskRow(name="t", task="t"), tuple(Prompt(n, n[0], "x") for n in names))
    shares = split([prompts, tasks], 3)
    dealt = [(s.row.name, prompt.id) for share in shares for s in share for prompt in s.prompts]
    assert sorted(dealt) == sorted([("s", str(n)) for n in range(11)] + [("t", n) for n in names])
    lengths = [sum(len(prompt.text) for prompt in share[0].prompts) for share in shares]
    assert max(lengths) - min(lengths) <= 11
    assert [{prompt.category for prompt in share[1].prompts} for share in shares] == [
        {"a"},
        {"c"},
        {"b"},
    ]
    assert split([prompts], 20)[15] == []


@pytest.mark.slow
def test_two_processes_answer_as_one(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Through a whole run: completions and rates are the same."""
    alone = run(RunJob(world / "model", world / "suite.yaml", tmp_path / "alone"))
    devices = ["cpu", "cpu"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(
        "eval.answering.hf_backend.answer_on_devices",
        lambda _, *rest: answer_on_devices(devices, *rest),
    )
    together = run(RunJob(world / "model", world / "suite.yaml", tmp_path / "together"))
    assert together["axes"] == alone["axes"]
    first, second = (tmp_path / name / "completions.jsonl" for name in ("alone", "together"))
    assert first.read_text() == second.read_text()


def _fail(
    how: str, world: Path, prompt_sets: Sequence[PromptSet], on_batch: Callable[[Answers], None]
) -> None:
    if how == "error":
        raise UserError("the model is broken; fix it")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"), [("error", "is broken; fix it"), ("kill", "status -9.*finished answers")]
)
def test_a_process_that_fails_is_named(world: Path, how: str, words: str):
    prompt_sets = load_prompts(load_suite(world / "suite.yaml"))
    with pytest.raises(UserError, match=words):
        run_workers([(partial(_fail, how, world), prompt_sets)], lambda _: None)


def _start_a_child(prompt_sets: Sequence[PromptSet], on_batch: Callable[[Answers], None]) -> None:
    child = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    on_batch({("child", "pid"): Answer(str(child.pid), 0)})
    time.sleep(60)


@pytest.mark.slow
def test_a_process_that_is_ended_ends_its_children():
    """As vLLM's, which would keep the GPUs."""
    told: Answers = {}

    def stop(batch: Answers) -> None:
        told.update(batch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_workers([(_start_a_child, [])], stop, have_children=True)
    pid = int(told["child", "pid"].text)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_what_a_backend_cannot_answer_falls_to_transformers(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stand-in writes the answers; the choices are those of a run by transformers alone."""

    def answer(asking: Asking, prompt_sets: Any, on_batch: Any, on_ready: Any) -> None:
        (only,) = prompt_sets
        ids = [(only.row.name, prompt.id) for prompt in only.prompts]
        on_batch(dict.fromkeys(ids, Answer(f"by {asking.dtype}", 2)))

    monkeypatch.setitem(sys.modules, "stand_in", cast(Any, SimpleNamespace(answer=answer)))
    monkeypatch.setitem(BACKENDS, "vllm", Backend("stand_in"))
    chosen = EvaluationSettings(backend="vllm", dtype="float32")
    job = RunJob(world / "model", world / "suite.yaml", tmp_path / "out", settings=chosen)
    assert run(job)["settings"]["backend"] == "vllm"
    run(RunJob(world / "model", world / "suite.yaml", tmp_path / "alone"))
    by_two, alone = (
        {line["suite"]: line["completion"] for line in read_completions(folder / FILE_NAME)}
        for folder in (tmp_path / "out", tmp_path / "alone")
    )
    assert by_two["forbidden"] == "by float32"
    assert by_two["colours"] == alone["colours"]
    with pytest.raises(UserError, match="backend vllm: only decodes greedily"):
        run(replace(job, decoding=SelfContrast()))


def test_vllm_that_is_missing_is_named(world: Path, tmp_path: Path):
    vllm = EvaluationSettings(backend="vllm")
    job = RunJob(world / "model", world / "suite.yaml", tmp_path, settings=vllm)
    with pytest.raises(UserError, match="vllm is not installed; pip install vllm"):
        run(job)
