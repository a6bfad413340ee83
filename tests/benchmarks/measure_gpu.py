"""One training of each role on random weights of a real model's shape: make measure-gpu.

    python tests/benchmarks/measure_gpu.py [--shape 7b|13b|1b|tiny] [--length 512] [--batch N]

It runs the job as a user does, by the launcher on all visible GPUs (or one CPU rank), and then
prints what TensorBoard and patch.json say beside what ``launch plan`` would: tokens/s, MFU, peak
memory, and the seconds of training, importance and export; and then the same of the Hugging Face
Trainer with the same DeepSpeed file. ``--shape tiny`` is for a CPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launch.sizing.training_needs import rank_memory
from merge.common.files import read_json
from tests.benchmarks.measure_train_memory import planned_model
from tests.support.train_helpers import ROOT, WORDS, make_backbone, make_recipe
from train.backbone.flops import peak_flops
from train.launcher import default_processes, training_command
from train.recipe import ROLES, TrainRecipe, load_recipe
from train.zero.ds_config import ds_config
from train.zero.ranks import World

SHAPES: dict[str, dict[str, int]] = {
    "7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    },
    "13b": {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
        "num_attention_heads": 40, "num_key_value_heads": 40, "vocab_size": 32000,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 512,
    },
}  # fmt: skip
STEPS = 8
WARM_STEPS = 2
"""Left out of the medians: the allocator and DeepSpeed's trace settle in them."""


def prepare(folder: Path, options: argparse.Namespace) -> Path:
    """A backbone of random weights, pairs that fill the length, and the recipe."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    shape = {**SHAPES[options.shape], "max_position_embeddings": options.length}
    make_backbone(
        folder / "backbone", shard_size="5GB", dtype=dtype, initializer_range=0.02, **shape
    )
    words = [WORDS[place % len(WORDS)] for place in range(options.length)]
    pair = {"question": " ".join(words[:16]), "answer": " ".join(words[16:-8])}
    lines = (json.dumps({**pair, "category": str(number)}) for number in range(128))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    training: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": options.batch * default_processes(),
        "micro_batch_size": options.micro_batch,
        "max_length": options.length,
        "learning_rate": 1e-6,
        "gradient_checkpointing": options.shape != "tiny",
        "guards": {"max_forget_loss": 1e9},
        "liger": options.liger,
    }
    if options.ds_config is not None:
        training["ds_config"] = str(options.ds_config.resolve())
    return make_recipe(
        folder, safety=training, over_safety=training, importance={"samples": options.samples}
    )


def planned_bytes(recipe: TrainRecipe, processes: int) -> float:
    """Peak memory of a rank as ``launch plan`` counts it."""
    on_gpu = torch.cuda.is_available()
    dtype = "bfloat16" if on_gpu else "float32"
    complete = ds_config(recipe.safety, dtype, World(0, processes, 0, processes))
    model = planned_model(Path(recipe.backbone.path))
    width = 2 if on_gpu else 4
    return rank_memory(model, complete, recipe.safety, width, processes, on_gpu).total


def scalars(events: Path) -> dict[str, list[float]]:
    """Every curve of one training, without its first steps."""
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    return {tag: [event.value for event in accumulator.Scalars(tag)][WARM_STEPS:] for tag in tags}


def trainer_row(recipe_file: Path, processes: int) -> tuple[str, ...]:
    """The Hugging Face Trainer's row of the table, in processes of its own."""
    out = recipe_file.parent / "trainer.json"
    torchrun = Path(sys.executable).parent / "torchrun"
    command = [torchrun, f"--nproc-per-node={processes}", ROOT / "tests/benchmarks/bare_trainer.py"]
    started = time.monotonic()
    subprocess.run(
        [*command, recipe_file, out],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    seconds = time.monotonic() - started
    record = read_json(out)
    middle = median(record["seconds"][WARM_STEPS:])
    rate, mfu = record["tokens"] / middle, "-"
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    if peak is not None:
        shape = planned_model(recipe_file.parent / "backbone").shape
        flops = rate * shape.training_flops(record["tokens"] / record["samples"])
        mfu = f"{flops / (peak * processes):.3f}"
    gigabytes = max(record[_peak_key()]) * 2**20 / 1e9
    trained = f"{sum(record['seconds']):.1f}"
    return ("Trainer", f"{rate:.0f}", mfu, f"{gigabytes:.2f}", trained, "-", f"{seconds:.1f}")


def _peak_key() -> str:
    return "peak_gpu_memory_mib" if torch.cuda.is_available() else "peak_host_memory_mib"


def main() -> None:
    """Train both roles and the Trainer, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="samples a rank and step")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=128, help="of the importance")
    parser.add_argument("--liger", action="store_true", help="the fused kernels of liger-kernel")
    parser.add_argument("--ds-config", type=Path, help="default: the recipe's own choice")
    options = parser.parse_args()
    processes = default_processes()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    table = Table(title=f"{options.shape}, length {options.length}, {processes} x {device}")
    for column in (
        "role",
        "tokens/s",
        "MFU",
        "peak / plan, GB",
        "training s",
        "importance s",
        "all s",
    ):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        recipe_file = prepare(Path(name), options)
        plan = planned_bytes(load_recipe(recipe_file, [], TrainRecipe), processes)
        for role in ROLES:
            started = time.monotonic()
            subprocess.run(training_command(processes, recipe_file, role), cwd=ROOT, check=True)
            seconds = time.monotonic() - started
            curves = scalars(Path(name) / "run/tensorboard" / f"train-{role}")
            record = read_json(Path(name) / "run" / role / "patch.json")
            memory = record[_peak_key()]
            mfu = curves.get("speed/mfu(1)")
            table.add_row(
                role,
                f"{median(curves['speed/tokens(1/s)']):.0f}",
                f"{median(mfu):.3f}" if mfu else "-",
                f"{max(memory) * 2**20 / 1e9:.2f} / {plan / 1e9:.2f}",
                f"{record['training_seconds']:.1f}",
                f"{record['importance_seconds']:.1f}",
                f"{seconds:.1f}",
            )
        table.add_row(*trainer_row(recipe_file, processes))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
