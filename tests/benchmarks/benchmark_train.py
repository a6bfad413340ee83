"""The job's steps and importance against bare DeepSpeed loops and the Hugging Face Trainer.

    torchrun --nproc-per-node 2 tests/benchmarks/benchmark_train.py [--rounds 8] [--steps 10]

All take turns in one run, so that whatever else the machine does meets all; medians are compared.
They train the same model on the same micro-batches with the same DeepSpeed file. The bare loop does
what a DeepSpeed tutorial does: forward, backward, step. The job adds objectives, guards, patch
norm, stop requests, statistics over ranks and TensorBoard.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from merge.common.errors import end_process
from merge.common.files import make_directory
from tests.benchmarks.bare_trainer import train_by_trainer
from tests.support.train_helpers import make_backbone, make_pairs, make_recipe, make_tokenizer
from train.backbone.tensors import open_backbone
from train.chat.prompts import ChatPrompts
from train.data.batches import BatchPlan, collate, micro_batches
from train.data.examples import read_examples
from train.guards.guards import Guards
from train.job.loading import load_model
from train.job.loop import Training
from train.job.monitor import Monitor
from train.job.stopping import StopRequest
from train.objectives.losses import answer_losses
from train.objectives.terms import build_terms
from train.objectives.training_data import TrainingData, tokenize_data
from train.patch.importance import measure_importance
from train.recipe import TrainRecipe, load_recipe
from train.zero.collectives import compute_device, wait_for_ranks
from train.zero.group import initialise_distributed
from train.zero.ranks import World
from train.zero.resume import Checkpoints, TrainingProgress
from train.zero.zero3 import Zero3Model

SAMPLES = 64
BASELINES = ("bare", "trainer")


class Contest:
    """One model that every contender trains on in turn."""

    def __init__(self, folder: Path, world: World, steps: int) -> None:
        self.world = world
        self.folder = folder
        self.steps = steps
        recipe = load_recipe(folder / "recipe.yaml", [], TrainRecipe)
        self.settings = recipe.over_safety
        self.tensors = open_backbone(folder / "backbone", recipe.backbone)
        self.model: Zero3Model = load_model(
            folder / "backbone", self.tensors, recipe.backbone, self.settings, world
        )
        prompts = ChatPrompts(make_tokenizer())
        self.data: TrainingData = tokenize_data(
            prompts, self.settings, read_examples(recipe.data), [], 0
        )
        count = len(self.data.forget)
        plan = BatchPlan(count, self.settings.batch_of(count), 0)
        self.terms = build_terms(self.settings, self.data, plan, steps, self.model, world)
        self.stop = StopRequest()

    def bare(self) -> None:
        """Forward, backward, step."""
        self.model.engine.train()
        for step in range(self.steps):
            share = self.terms[0].share(step, self.settings.micro_batch_size, self.world)
            for number, indices in enumerate(share, start=1):
                micro = collate(self.data.forget, indices).to(compute_device())
                losses = answer_losses(self.model.logits(micro), micro.labels)
                self.model.backward(losses.mean() / len(share), last=number == len(share))
            self.model.step(1e-6)

    def job(self) -> None:
        """``train.job.loop`` with all that it watches."""
        events = self.folder / "events" if self.world.is_main else None
        shape = self.model.shape
        with Monitor(events, "job", self.steps, 0, shape, self.world.size) as monitor:
            ended = Training(
                role="over_safety",
                settings=self.settings,
                total_steps=self.steps,
                model=self.model,
                backbone=self.tensors,
                terms=self.terms,
                retained=(),
                guards=Guards(self.settings.guards, self.model.vocabulary_size),
                world=self.world,
                margin=None,
                checkpoints=Checkpoints(self.folder / "work", None, 0, 2, "x", self.world),
                monitor=monitor,
                stop_asked=self.stop_asked,
            ).run(TrainingProgress())
        # A guard that ended the turn early would make the job look fast.
        assert ended.step == self.steps, ended.stop_reason

    def plain_gradients(self) -> None:
        """Forward and backward of single samples."""
        self.model.clear_gradients()
        self.model.engine.eval()
        share = micro_batches(range(SAMPLES), 1, self.world.rank, self.world.size)
        for number, indices in enumerate(share, start=1):
            micro = collate(self.data.forget, indices).to(compute_device())
            losses = answer_losses(self.model.logits(micro), micro.labels)
            self.model.backward(losses.sum(), last=number == len(share))

    def importance(self) -> None:
        """The importance of the same samples."""
        measure_importance(
            self.model,
            self.data.forget,
            range(SAMPLES),
            self.world,
            TrainingProgress(),
            self.stop_asked,
        )

    def stop_asked(self) -> bool:
        """As the job asks."""
        return self.stop.agreed(self.folder if self.world.is_main else None)


def timed(run: Callable[[], None]) -> float:
    """Seconds of one turn, all ranks together."""
    wait_for_ranks()
    started = time.perf_counter()
    run()
    wait_for_ranks()
    return time.perf_counter() - started


def ratios(ours: Sequence[float], others: Sequence[float]) -> str:
    """Ratios of turns of the same round, without the first: what disturbs a round meets both."""
    quotients = [one / other for one, other in zip(ours[1:], others[1:], strict=True)]
    return f"median {median(quotients):.3f} ({min(quotients):.3f} - {max(quotients):.3f})"


def main() -> None:
    """Let the contenders take turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="of a turn")
    options = parser.parse_args()
    world = World.from_environment()
    logging.disable()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
    folder = Path(tempfile.gettempdir()) / f"benchmark-train-{os.environ['MASTER_PORT']}"
    initialise_distributed(world)
    if world.is_main:
        make_directory(folder)
        make_pairs(folder / "pairs.jsonl", count=SAMPLES)
        sizes: dict[str, Any] = {"hidden_size": 384, "intermediate_size": 1056}
        heads: dict[str, Any] = {"num_attention_heads": 8, "num_key_value_heads": 4}
        layers: dict[str, Any] = {"num_hidden_layers": 6, "vocab_size": 8000}
        make_backbone(folder / "backbone", **heads, **sizes, **layers)
        # A random model's loss is far above any bound that makes sense for a trained one.
        guards = {"max_forget_loss": 1e9}
        training = {
            "batch_size": 8,
            "micro_batch_size": 2,
            "learning_rate": 1e-6,
            "guards": guards,
        }
        make_recipe(folder, over_safety=training)
    wait_for_ranks()
    contest = Contest(folder, world, options.steps)
    times: dict[str, list[float]] = {}
    rounds = options.rounds + 1
    bar = tqdm(total=2 * rounds, unit="round", disable=not world.is_main)

    def play(turn: int, *contenders: Callable[[], None]) -> None:
        # Each follows every other in turn: what a turn leaves behind costs the next one.
        place = turn % len(contenders)
        for run in contenders[place:] + contenders[:place]:
            times.setdefault(run.__name__, []).append(timed(run))
        bar.update()

    times["trainer"] = train_by_trainer(
        folder,
        contest.settings,
        contest.data.forget,
        [contest.terms[0].batch(step) for step in range(options.steps)],
        world,
        rounds,
        lambda turn: play(turn, contest.bare, contest.job),
    )
    for turn in range(rounds):
        play(turn, contest.plain_gradients, contest.importance)
    bar.close()
    if world.is_main:
        # The first turn warms caches and DeepSpeed's trace of the layers up.
        middle = {name: median(values[1:]) for name, values in times.items()}
        step = 1000 / options.steps
        lines = [
            "step: "
            + ", ".join(f"{name} {middle[name] * step:.1f} ms" for name in ("job", *BASELINES)),
            *(f"job / {name}, by round: {ratios(times['job'], times[name])}" for name in BASELINES),
            f"{SAMPLES} samples: forward and backward {middle['plain_gradients']:.2f} s, "
            f"importance {middle['importance']:.2f} s, "
            f"ratio {middle['importance'] / middle['plain_gradients']:.3f}",
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    wait_for_ranks()
    end_process(0)


if __name__ == "__main__":
    main()
