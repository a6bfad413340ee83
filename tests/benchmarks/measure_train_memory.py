"""Peak host memory of every rank, by phase, on random Llamas and CPU ranks; beside it the plan.

What loading and export take for a moment stands beside the largest tensor and the largest shard:
outside its share, a rank may hold a few copies of single tensors.

    python tests/benchmarks/measure_train_memory.py [--processes 2] [--sizes small medium large]

``large`` has half a billion parameters and takes about 14 GB over both ranks.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from launch.sizing.training_needs import Model, rank_memory
from merge.common.files import read_json
from tests.support.train_helpers import ROOT, make_backbone, make_recipe
from train.launcher import training_command
from train.recipe import TrainRecipe, load_recipe
from train.zero.ds_config import ds_config
from train.zero.ranks import World

SIZES = {
    "small": {"hidden_size": 640, "num_hidden_layers": 8, "vocab_size": 8000},
    "medium": {"hidden_size": 1024, "num_hidden_layers": 12, "vocab_size": 16000},
    "large": {"hidden_size": 1408, "num_hidden_layers": 16, "vocab_size": 32000},
}
PHASES = {"loading": "ready after", "training": "importance of", "importance": "writing the patch"}
"""Each with the words of the log that end it; the export follows."""
MB = 1e6


def memory_of(pid: int) -> tuple[float, float]:
    """Bytes that a process holds: anonymous, and all that is resident."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    anonymous, resident = (int(fields[name].split()[0]) * 1024.0 for name in ("RssAnon", "VmRSS"))
    return anonymous, resident


class Watch:
    """Samples the ranks of a launcher until they end."""

    def __init__(self, launcher: subprocess.Popen[str]) -> None:
        self.phase = "loading"
        self.peaks: dict[tuple[str, int], tuple[float, float]] = {}
        self.first: dict[tuple[str, int], float] = {}
        self.last: dict[tuple[str, int], float] = {}
        """Anonymous bytes when a phase began and when it ended."""
        self._launcher = launcher
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        pid = self._launcher.pid
        while self._launcher.poll() is None:
            try:
                ranks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                for rank, child in enumerate(ranks):
                    key = (self.phase, rank)
                    now, before = memory_of(int(child)), self.peaks.get(key, (0.0, 0.0))
                    self.first.setdefault(key, now[0])
                    self.last[key] = now[0]
                    self.peaks[key] = (max(now[0], before[0]), max(now[1], before[1]))
            except (OSError, KeyError):
                # A rank has just ended.
                pass
            time.sleep(0.01)

    def follow(self) -> int:
        """Read the log until its end; the exit status."""
        assert self._launcher.stderr is not None
        for line in self._launcher.stderr:
            ended = [name for name, words in PHASES.items() if words in line]
            if ended:
                self.phase = [*PHASES, "export"][list(PHASES).index(ended[0]) + 1]
        self._thread.join()
        return self._launcher.wait()


def measure(folder: Path, sizes: dict[str, int], processes: int) -> dict[str, Any]:
    """Train a patch of two steps, and look on."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4}
    config = {**sizes, **heads, "intermediate_size": sizes["hidden_size"] * 11 // 4}
    make_backbone(folder / "backbone", shard_size="100MB", dtype=torch.bfloat16, **config)
    training = {"steps": 2, "batch_size": 2 * processes, "micro_batch_size": 2, "max_length": 48}
    recipe_file = make_recipe(folder, safety=training, importance={"samples": 2 * processes})
    launcher = subprocess.Popen(
        training_command(processes, recipe_file, "safety"),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = Watch(launcher)
    assert watch.follow() == 0
    recipe = load_recipe(recipe_file, [], TrainRecipe)
    shards = list((folder / "backbone").glob("*.safetensors"))
    model = planned_model(folder / "backbone")
    complete = ds_config(recipe.safety, "float32", World(0, processes, 0, processes))
    return {
        "parameters": model.shape.parameters,
        "largest tensor": 4 * max(model.sizes),
        "largest shard": max(shard.stat().st_size for shard in shards),
        "share": 4 * model.shape.parameters / processes,
        "plan": rank_memory(model, complete, recipe.safety, 4, processes, on_gpu=False).total,
        "peaks": watch.peaks,
        "loading": passing(watch, "loading", watch.last),
        "export": passing(watch, "export", watch.first),
        "record": read_json(folder / "run/safety/patch.json"),
    }


def passing(watch: Watch, phase: str, staying: dict[tuple[str, int], float]) -> float:
    """Most bytes of any rank that a phase took beside what was there before, or stayed."""
    return max(
        peak - staying[name, rank]
        for (name, rank), (peak, _) in watch.peaks.items()
        if name == phase
    )


def planned_model(backbone: Path) -> Model:
    """As ``launch plan`` sees it."""
    from transformers import AutoConfig

    return Model.from_config(AutoConfig.from_pretrained(backbone))


def main() -> None:
    """Measure every size and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args()
    table = Table(title=f"MB of each rank, {options.processes} ranks, fp32: anonymous (resident)")
    columns = ("parameters", "largest tensor, fp32", "largest shard", "weights' share, fp32")
    moments = ("loading above its end", "export above its start")
    for name in (*columns, *moments, *PHASES, "export", "plan", "plan / peak"):
        table.add_column(name, justify="right")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(Path(folder), SIZES[size], options.processes)
        peaks = measured["peaks"]
        cells = [
            "\n".join(
                f"{anonymous / MB:.0f} ({resident / MB:.0f})"
                for (name, _), (anonymous, resident) in sorted(peaks.items())
                if name == phase
            )
            for phase in (*PHASES, "export")
        ]
        peak = max(resident for _, resident in peaks.values())
        sizes = ("largest tensor", "largest shard", "share", "loading", "export", "plan")
        *facts, plan = (f"{measured[name] / MB:.0f}" for name in sizes)
        parameters = f"{measured['parameters'] / MB:.1f} M"
        table.add_row(parameters, *facts, *cells, plan, f"{measured['plan'] / peak:.2f}")
    Console(width=180).print(table)


if __name__ == "__main__":
    sys.exit(main())
