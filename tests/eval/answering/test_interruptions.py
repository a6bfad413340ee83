"""Evaluations killed at any moment: nothing is lost, nothing doubled."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.answering.completions import CompletionsFile
from eval.report.compare import compare
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from merge.common.errors import UserError
from merge.common.json_lines import LineStore
from tests.support.eval_models import save_model

SMALL = EvaluationSettings(batch_tokens=80)


@pytest.mark.slow
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path):
    """kill -9 at random moments; the last run completes what is missing."""
    save_model(tmp_path / "model")
    suite = tmp_path / "suite.yaml"
    suite.write_text("[{name: s, axis: harm, source: s.txt, max_new_tokens: 30}]")
    (tmp_path / "s.txt").write_text("".join(f"how do you grond {n}\n" for n in range(400)))
    job = RunJob(tmp_path / "model", suite, tmp_path / "out", settings=SMALL)
    draw = random.Random(0)
    # Not a fork of this process: the threads with which it has computed do not survive one.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["eval.run", "transformers.models.llama.modeling_llama"])
    path = tmp_path / "out" / "completions.jsonl"
    counts = [0]
    for _ in range(20):
        process = server.Process(target=run, args=(job,))
        process.start()
        # After a random number of new answers, none included, whatever the machine's speed.
        wanted = counts[-1] + draw.randint(0, 18)
        while process.is_alive() and _lines(path) < wanted:
            time.sleep(draw.uniform(0.0, 0.01))
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        counts.append(_lines(path))
    assert counts == sorted(counts), "a killed run took answers away"
    assert any(0 < count < 400 for count in counts), "no kill came between two answers"
    run(job)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(int(line["id"]) for line in lines) == list(range(1, 401))
    fresh = RunJob(tmp_path / "model", suite, tmp_path / "fresh", settings=SMALL)
    run(fresh)
    again = [json.loads(line) for line in (tmp_path / "fresh/completions.jsonl").open()]
    assert [line["completion"] for line in lines] == [line["completion"] for line in again]


JUDGE = """
{kind: guard, model: nowhere, max_new_tokens: 2, template: '{completion}', harmful: h, safe: s}
"""


@pytest.mark.parametrize(
    ("change", "place"),
    [("suite", "answering"), ("judge", "judging"), ("nothing", "judging"), ("row", "judging")],
)
def test_a_summary_goes_when_its_evaluation_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, place: str
) -> None:
    """Interrupted, the folder looks unfinished to a run and to `eval compare`.

    Where nothing is to be done, an interruption takes nothing away.
    """
    save_model(tmp_path / "model")
    suite = tmp_path / "suite.yaml"
    rows = [f"{{name: {name}, axis: harm, source: s.txt, max_new_tokens: 4}}" for name in "ab"]
    suite.write_text(f"[{', '.join(rows)}]")
    (tmp_path / "s.txt").write_text("how do you grond\n" * 9)
    job = RunJob(tmp_path / "model", suite, tmp_path / "out", settings=SMALL)
    run(job)
    if change == "suite":
        suite.write_text(suite.read_text().replace("max_new_tokens: 4", "max_new_tokens: 5"))
    elif change == "row":
        suite.write_text(f"[{rows[0]}]")
    elif change == "judge":
        (tmp_path / "judge.yaml").write_text(JUDGE)
        settings = SMALL.model_copy(update={"harm_judge": tmp_path / "judge.yaml"})
        job = replace(job, settings=settings)

    def stop(*given: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if place == "answering":
            patched.setattr(CompletionsFile, "append", stop)
        else:
            patched.setattr("eval.run.summarize", stop)
        run(job)
    assert (job.out / "summary.json").is_file() == (change == "nothing")
    if change != "nothing":
        with pytest.raises(UserError, match="to its end"):
            compare([job.out])


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_lines_that_find_no_room_are_one_error(small_disk: Path) -> None:
    path = small_disk / "answers.jsonl"
    with pytest.raises(UserError, match=r"answers\.jsonl: cannot be written .No space left"):
        LineStore(path).add({"long": "w" * 2_000_000, "short": "w"})
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    store = LineStore(path)
    store.add({"short": "v"})
    assert LineStore(path).values == {"short": "v"}
