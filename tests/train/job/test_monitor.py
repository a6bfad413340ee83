"""What is seen of a training: its curves, its lines in a log, its JSON lines."""

import json
import logging
import time
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from merge.common import progress
from merge.common.metrics import metrics_file
from merge.pictures.density_curves import write_densities
from train.backbone.flops import ModelShape
from train.job.monitor import Monitor

SHAPE = ModelShape.__new__(ModelShape)  # only read where the GPU's peak is known


def scalars(step: int) -> dict[str, float]:
    return {
        "loss/forget(nats)": 2.0 + step,
        "loss/objective(nats)": -2.0 - step,
        "margin/refusal(nats)": 0.5 * step,
        "optimizer/learning_rate(1)": 1e-5,
        "optimizer/gradient_norm(1)": 0.25 * step,
        "speed/data_wait(s)": 0.0,
    }


def run(folder: Path, first: int, last: int, slow: bool = False) -> None:
    """Steps of 100 tokens, each slower than two lines of the log where that is wanted."""
    with (
        metrics_file(folder, "safety"),
        Monitor(folder / "tensorboard", "safety", 8, first, SHAPE, 1) as monitor,
    ):
        for step in range(first + 1, last + 1):
            time.sleep(0.05 if slow else 0.001)
            monitor.step(step, 100, 4, scalars(step))


def test_a_line_has_all_that_a_person_watches(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.02)
    with caplog.at_level(logging.INFO):
        run(tmp_path, 0, 8, slow=True)
    line = caplog.messages[-1]
    assert line.startswith(
        "safety: 8 of 8 steps, loss -10.0000, forget loss 10.0000, learning rate 1e-05, "
        "gradient norm 2, "
    )
    assert " tokens/s, " in line and line.endswith(" left")


def test_every_step_is_a_json_line_with_all_scalars(tmp_path) -> None:
    """A resumed training goes on in the same file."""
    run(tmp_path, 0, 5)
    run(tmp_path, 5, 8)
    text = (tmp_path / "metrics/safety.jsonl").read_text()
    steps = [json.loads(line) for line in text.splitlines()]
    by_step = {line["step"]: line for line in steps if "step" in line}
    assert sorted(by_step) == list(range(1, 9))
    for step, line in by_step.items():
        assert {key: line[key] for key in scalars(step)} == scalars(step)
        assert line["speed/tokens(1/s)"] > 0 and (line["done"], line["total"]) == (step, 8)


def test_tensorboard_opens_on_the_training(tmp_path) -> None:
    """Its time series stand in the order of their tags, over all runs that are shown."""
    run(tmp_path, 0, 3)
    report = {"elements": 4, "kept_S": 1, "kept_O": 1, "erased_S": 0, "erased_O": 0, "overlap": 1}
    report |= {"top_S": 2, "top_O": 2, "changed_S": 1, "changed_O": 1}
    norms = {"norm_S": 1.0, "norm_O": 1.0}
    write_densities(tmp_path / "merge", {"model.layers.0.mlp.up_proj.weight": report | norms})
    training, merge = (events_of(tmp_path / name) for name in ("tensorboard", "merge"))
    tags = sorted([*training.Tags()["scalars"], *merge.Tags()["scalars"]])
    assert any(tag.startswith("delta_norm") for tag in tags)
    assert tags[:5] == [
        "1_training/1_loss(nats)",
        "1_training/2_forget_loss(nats)",
        "1_training/3_refusal_margin(nats)",
        "1_training/4_gradient_norm(1)",
        "1_training/5_tokens(1/s)",
    ]
    for tag, name in (
        ("1_training/1_loss(nats)", "loss/objective(nats)"),
        ("1_training/2_forget_loss(nats)", "loss/forget(nats)"),
        ("1_training/3_refusal_margin(nats)", "margin/refusal(nats)"),
        ("1_training/4_gradient_norm(1)", "optimizer/gradient_norm(1)"),
    ):
        events = [(event.step, event.value) for event in training.Scalars(tag)]
        assert events == [(step, scalars(step)[name]) for step in (1, 2, 3)]


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events
