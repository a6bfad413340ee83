"""Trainings that the refusal margin ends, and normalised SGD: ZeRO-3 against plain PyTorch."""

import copy
import itertools
import math
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn.functional import cross_entropy

from merge.common.files import read_json
from tests.support.train_helpers import (
    load_backbone,
    make_pairs,
    make_recipe,
    make_tokenizer,
    run_training,
    stop_after_a_checkpoint,
    stop_training,
)
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, order_seed, random_subset
from train.data.examples import read_examples
from train.guards.openings_file import write_openings
from train.guards.refusal_margin import RefusalOpenings
from train.recipe import TrainRecipe, load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RISING = ((22,), (26, 9))
"""Ascent makes these likelier for seven steps, and then less likely."""
FALLING = ((62,), (68, 9))
"""Descent on first tokens makes these less likely at every step."""
Openings = tuple[tuple[int, ...], ...]
EPSILON = 1e-3
"""Epsilon of Adam, by the recipe's key."""
Deltas = dict[str, np.ndarray]


def prepare(
    folder: Path, pairs: int, openings: Openings, runs: Sequence[str]
) -> tuple[Path, list[Any], list[Any]]:
    """A recipe, its tokenized pairs, and its questions' tokens; openings in every run folder."""
    folder.mkdir(exist_ok=True)
    make_pairs(folder / "pairs.jsonl", pairs)
    recipe = make_recipe(folder)
    for run in runs:
        (folder / run).mkdir()
        write_openings(folder / run / "openings.json", RefusalOpenings(openings, 1.0, 1.0))
    prompts = ChatPrompts(make_tokenizer())
    examples = read_examples(load_recipe(recipe, [], TrainRecipe).data)
    questions = [prompts.question_ids(example.question) for example in examples]
    return recipe, prompts.encode(examples, 512), questions


def plain_look(
    model: Any, questions: Sequence[list[int]], openings: Openings
) -> tuple[float, float]:
    """Mean log-odds and mean probability that an opening follows, token by token."""
    probabilities = []
    for question in questions:
        total = 0.0
        for opening in openings:
            chance, ids = 1.0, list(question)
            for token in opening:
                with torch.no_grad():
                    logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                chance *= logits.double().softmax(-1)[token].item()
                ids.append(token)
            total += chance
        probabilities.append(total)
    odds = [math.log(chance / (1 - chance)) for chance in probabilities]
    return sum(odds) / len(odds), sum(probabilities) / len(probabilities)


def plain_losses(model: Any, sample: Any) -> torch.Tensor:
    """Losses of every answer token of one sample."""
    ids, labels = sample
    places = [place for place, label in enumerate(labels) if label != -100]
    logits = model(input_ids=torch.tensor([ids])).logits[0, [place - 1 for place in places]]
    return cross_entropy(logits, torch.tensor([ids[place] for place in places]), reduction="none")


def deltas(model: Any, backbone: Any) -> Deltas:
    before = dict(backbone.named_parameters())
    return {name: (p - before[name]).detach().numpy() for name, p in model.named_parameters()}


def follow(
    folder: Path,
    questions: Sequence[list[int]],
    openings: Openings,
    steps: int,
    step: Callable[[Any, int], None],
) -> tuple[list[tuple[float, float]], list[Deltas]]:
    """Looks and deltas of a plain training, before its first step and after each."""
    backbone = load_backbone(folder / "backbone")
    model = copy.deepcopy(backbone)
    looks, states = [plain_look(model, questions, openings)], [deltas(model, backbone)]
    for number in range(steps):
        model.zero_grad()
        step(model, number)
        looks.append(plain_look(model, questions, openings))
        states.append(deltas(model, backbone))
    return looks, states


def assert_patch_is(run: Path, expected: Deltas, tolerance: float) -> None:
    delta = load_file(run / "safety/delta.safetensors")
    assert delta.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(delta[name], values, rtol=0, atol=tolerance, err_msg=name)
    assert max(np.abs(values).max() for values in expected.values()) > 100 * tolerance


def test_unlearning_keeps_its_best_state_also_through_a_stop(tmp_path: Path) -> None:
    """The stop comes after the best step, whose state the checkpoint then must hold."""
    recipe, samples, questions = prepare(tmp_path, 12, RISING, ("whole", "stopped"))
    settings = [
        "safety.learning_rate=3e-3",
        f"safety.adam_eps={EPSILON}",
        "safety.steps=60",
        "safety.guards.margin_samples=7",
        "safety.guards.margin_fall=1.0",
        "safety.checkpoint_every=10",
    ]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    done = run_training(recipe, f"output={whole}", *settings)
    assert done.returncode == 0, done.stderr

    plan = BatchPlan(12, 5, order_seed(0, "safety"))
    optimizers: list[torch.optim.Optimizer] = []

    def step(model: Any, number: int) -> None:
        if not optimizers:
            optimizers.append(
                torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0, eps=EPSILON)
            )
        batch = plan.batch(number)
        for index in batch:
            (-plain_losses(model, samples[index]).mean() / len(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers[0].step()

    watched = [questions[index] for index in random_subset(7, 12, 0)]
    looks, states = follow(tmp_path, watched, RISING, 15, step)
    record = read_json(whole / "safety/patch.json")
    best = max(range(16), key=lambda number: looks[number][0])
    assert 0 < best < 10
    assert (record["steps"], record["best_step"]) == (best, best)
    for entry, (margin, probability) in zip(record["margins"], looks, strict=False):
        assert entry["margin"] == pytest.approx(margin, abs=1e-3)
        assert entry["probability"] == pytest.approx(probability, rel=1e-3)
    low = [look["margin"] < looks[best][0] - 1 for look in record["margins"]]
    # Two looks in a row, for the first time.
    assert all(low[-2:]) and not any(map(all, itertools.pairwise(low[:-1])))
    assert record["stop_reason"].startswith("refusal margin ")
    assert f"; the patch is of step {best}, of margin " in record["stop_reason"]
    assert_patch_is(whole, states[best], 2e-6)

    arguments = [f"output={stopped}", *settings]
    log = stop_training(recipe, "; training safety", stop_after_a_checkpoint(stopped), *arguments)
    assert int(log.split("saved after step ")[1].split(";")[0]) >= 10 > best
    again = run_training(recipe, *arguments)
    assert again.returncode == 0 and "continuing after step" in again.stderr, again.stderr
    for name in ("delta.safetensors", "importance.safetensors"):
        assert (stopped / "safety" / name).read_bytes() == (whole / "safety" / name).read_bytes()
    keys = ("stop_reason", "margins", "tokens", "steps")
    resumed = read_json(stopped / "safety/patch.json")
    assert [resumed[key] for key in keys] == [record[key] for key in keys]


def test_normalised_steps_on_first_tokens_until_refusals_are_gone(tmp_path: Path) -> None:
    """Descent in whole-data steps, on three tokens from where an answer parts from the openings;
    stopped in the importance pass, which one process ends."""
    # So many that the importance pass takes longer than the signal that stops it.
    length, count, first, decay = 0.06, 400, 3, 0.5
    recipe, samples, questions = prepare(tmp_path, count, FALLING, ("run",))

    def parting(sample: Any) -> int:
        answer = [label for label in sample[1] if label != -100]
        longest = max(n for o in FALLING for n in range(len(o) + 1) if tuple(answer[:n]) == o[:n])
        return min(longest, len(answer) - 1)

    assert {parting(sample) for sample in samples} > {0}

    def step(model: Any, number: int) -> None:
        for sample in samples:
            start = parting(sample)
            losses = plain_losses(model, sample)[start : start + first]
            weights = torch.tensor([decay**place for place in range(len(losses))])
            ((weights * losses).sum() / weights.sum() / count).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= length / norm * parameter.grad

    watched = [questions[index] for index in random_subset(5, count, 0)]
    looks, states = follow(tmp_path, watched, FALLING, 3, step)
    (_, _), (_, once), (_, twice), (_, last) = looks
    assert once > twice > last
    run = tmp_path / "run"
    settings = [
        f"output={run}",
        "safety.objective=descent",
        "safety.optimizer=sgd_normalised",
        f"safety.learning_rate={length}",
        "safety.batch_size=all",
        "safety.micro_batch_size=16",
        f"safety.answer_tokens={first}",
        f"safety.answer_decay={decay}",
        "safety.steps=9",
        "safety.guards.margin_samples=5",
        f"safety.guards.min_refusal={(twice + last) / 2}",
        f"importance.samples={count}",
        "importance.answer_tokens=2",
    ]

    def soon(launcher: int) -> None:
        threading.Timer(0.5, os.kill, (launcher, signal.SIGUSR1)).start()

    log = stop_training(recipe, "importance of", soon, *settings)
    assert 0 < int(log.split("with the importance of ")[1].split()[0]) < count
    done = run_training(recipe, *settings, processes=1)
    assert done.returncode == 0 and " of 2 processes" in done.stderr, done.stderr
    record = read_json(run / "safety/patch.json")
    assert record["steps"] == 3 and "refusals are gone" in record["stop_reason"]
    assert_patch_is(run, states[3], 2e-6)
    # Every step has the length that the recipe says.
    for before, after in itertools.pairwise(states):
        assert math.sqrt(
            sum(np.square(after[n] - before[n], dtype=np.float64).sum() for n in after)
        ) == pytest.approx(length, rel=1e-3)

    model = load_backbone(tmp_path / "backbone")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += torch.from_numpy(states[3][name])
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for sample in samples:
        model.zero_grad()
        plain_losses(model, sample)[:2].mean().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            expected[name] += parameter.grad.abs() / count
    importance = load_file(run / "safety/importance.safetensors")
    for name, values in expected.items():
        np.testing.assert_allclose(importance[name], values.numpy(), rtol=1e-3, atol=1e-5)
