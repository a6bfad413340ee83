"""What answers cost stays known, whatever happens between the first batch and the last."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.answering.cost import FILE_NAME, CostFile, time_per_token_ratio, token_times
from eval.decoding_settings import SelfContrast
from eval.run import RunJob, run
from eval.settings import EvaluationSettings
from merge.common.errors import UserError
from tests.support.eval_models import save_model

SUITE = (
    "- {name: plain, axis: harm, source: s.txt, max_new_tokens: 8}\n"
    "- {name: begun, axis: harm, source: s.txt, max_new_tokens: 8, prefill: first}\n"
)
COUNT = 40


@pytest.fixture
def job(tmp_path: Path) -> RunJob:
    save_model(tmp_path / "model")
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "s.txt").write_text("".join(f"how do you {'grond ' * n}\n" for n in range(20)))
    small = EvaluationSettings(batch_tokens=80)
    return RunJob(tmp_path / "model", tmp_path / "suite.yaml", tmp_path / "out", settings=small)


def lines(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Interrupt the evaluation when so many batches are on disk; what is returned ends that."""
    add, done = CostFile.add, []

    def counted(self: CostFile, *batch: Any) -> None:
        add(self, *batch)
        done.append(batch)
        if len(done) == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(CostFile, "add", counted)
    return lambda: monkeypatch.setattr(CostFile, "add", add)


def assert_all_is_counted(summary: Any, out: Path) -> None:
    """By the answers themselves: each once, with all its tokens."""
    answers = lines(out, "completions.jsonl")
    cost = summary["cost"]
    assert cost["answers"] == len(answers) == COUNT
    assert cost["tokens"] == sum(answer["tokens"] for answer in answers) > 0
    batches = lines(out, FILE_NAME)
    keys = [key for batch in batches for key in batch["answers"]]
    assert sorted(keys) == sorted(answer["key"] for answer in answers)
    assert cost["seconds"] == pytest.approx(sum(b["seconds"] for b in batches), abs=1e-3)


def test_an_interrupted_evaluation_counts_the_batches_of_all_its_sessions(
    job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the times of a resumed model are of other prompts than its rival's."""
    go_on = stop_after(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(job)
    go_on()
    assert COUNT - len(lines(job.out, "completions.jsonl")) > 4
    assert_all_is_counted(run(job), job.out)


def test_a_summary_that_is_made_again_has_the_same_cost(job: RunJob) -> None:
    """`launch run` deletes the summaries of all decodings when one is added to them."""
    first = run(job)
    (job.out / "summary.json").unlink()
    assert run(job)["cost"] == first["cost"]
    assert_all_is_counted(first, job.out)


def test_a_batch_counts_no_longer_than_its_answers(job: RunJob) -> None:
    """Other weights, another decoding, other prompts: what is asked anew is counted once."""
    run(job)
    save_model(job.model, seed=2)
    assert_all_is_counted(run(job), job.out)
    contrast = RunJob(job.model, job.suite, job.out, settings=job.settings, decoding=SelfContrast())
    assert_all_is_counted(run(contrast), job.out)
    assert_all_is_counted(run(job), job.out)
    job.suite.write_text(SUITE.replace("prefill: first", "prefill: red"))
    counted = run(job)["cost"]["answers"]
    keys = {answer["key"] for answer in lines(job.out, "completions.jsonl")}
    batches = lines(job.out, FILE_NAME)
    assert counted == sum(len(batch["answers"]) for batch in batches) >= COUNT / 2
    assert all(keys.issuperset(batch["answers"]) for batch in batches)


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_line_costs_one_batch(job: RunJob, cut: int) -> None:
    """The last: as when the machine falls while it is written, with or without its end."""
    run(job)
    file = job.out / FILE_NAME
    whole = lines(job.out, FILE_NAME)
    file.write_bytes(file.read_bytes()[:-cut])
    run(job)
    assert lines(job.out, FILE_NAME) == (whole if cut == 1 else whole[:-1])
    assert file.read_bytes().endswith(b"}\n")


def test_a_line_without_its_numbers_is_named(job: RunJob) -> None:
    run(job)
    (job.out / FILE_NAME).write_text('{"seconds": 1}\n')
    with pytest.raises(UserError, match=r"cost\.jsonl: a line has no answers.* only times are"):
        run(job)


def test_an_evaluation_of_an_older_version_keeps_its_cost(job: RunJob) -> None:
    """It has no cost.jsonl, and its summary knows what its last session cost."""
    first = run(job)
    (job.out / FILE_NAME).unlink()
    assert run(job)["cost"] == first["cost"]


def test_a_batch_that_was_not_timed_has_answers_and_no_time(tmp_path: Path) -> None:
    """The first of another process, which does not say when it begins to answer."""
    costs = CostFile(tmp_path, set())
    assert costs.as_dict() == {}
    costs.add(["a", "b"], None, 7)
    costs.add(["c"], 2.0, 10)
    costs.add(["d"], 1.0, 0)
    assert CostFile(tmp_path, set("abcd")).as_dict() == {
        "answers": 4,
        "seconds": 3.0,
        "tokens": 10,
        "tokens_per_second": 5.0,
    }
    assert CostFile(tmp_path, set("bcd")).as_dict().get("answers") == 2


def test_the_answers_of_a_batch_share_its_time(job: RunJob) -> None:
    """Together they took as long as all batches; without the file no time is known."""
    cost = run(job)["cost"]
    times = token_times(job.out)
    generated = [batch for batch in lines(job.out, FILE_NAME) if batch["tokens"]]
    assert sum(seconds for seconds, _ in times.values()) == pytest.approx(
        sum(batch["seconds"] for batch in generated)
    )
    assert sum(tokens for _, tokens in times.values()) == cost["tokens"]
    by_id = {(line["suite"], line["id"]): line for line in lines(job.out, "completions.jsonl")}
    for batch in generated:
        ids = [id_ for id_, line in by_id.items() if line["key"] in batch["answers"]]
        assert {times[id_][0] for id_ in ids} == {batch["seconds"] / len(ids)}
    (job.out / FILE_NAME).unlink()
    assert token_times(job.out) == {}


def test_time_per_token_is_that_of_the_prompts_both_answered() -> None:
    """Planted: twice the time per token, on prompts that differ far more from each other."""
    base = {("s", str(n)): (0.1 * n, 10 * n) for n in range(1, 40)}
    slow = {prompt: (2 * seconds, tokens) for prompt, (seconds, tokens) in base.items()}
    slow["s", "other"] = (1000.0, 1)
    ratio = time_per_token_ratio(slow, base)
    assert ratio == pytest.approx({"value": 2.0, "low": 2.0, "high": 2.0})
    noisy = {("s", "1"): (1.0, 100), ("s", "2"): (1.5, 100), ("s", "3"): (0.8, 100)}
    ratio = time_per_token_ratio(noisy, base)
    assert ratio is not None
    assert ratio["value"] == pytest.approx(3.3 / 300 / 0.01)
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert time_per_token_ratio({("s", "1"): (1.0, 100)}, base) is None
    assert time_per_token_ratio(dict.fromkeys(base, (1.0, 0)), base) is None
