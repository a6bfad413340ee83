"""The merger beside mergekit, on the same files: ``make benchmark-merge``.

Every run is a whole process, imports included, with its inputs in the page cache and its output
folder removed just before. Ours merges every tensor, as mergekit does, and hashes every input and
output, as mergekit does not. Runs alternate, so that a busy minute meets all of them. A second
table is a roofline: the bytes that ours moves a second, beside plain copies of memory in as many
threads (``roofline.py``).

The temporary folder (TMPDIR) needs 10 GB for the comparison, and 26 GB for ``--sizes 2``.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.benchmarks.roofline import copy_rate, counted, moved_bytes, thread_counts

ROOT = Path(__file__).resolve().parents[2]
BASELINES = ("task_arithmetic", "dare_linear", "dare_ties", "ties")
OURS = ("difference", "task_arithmetic")
_CONSOLE = Console()


@dataclass(frozen=True)
class Run:
    """What one process took."""

    wall: float
    cpu: float
    rss: float
    """MiB at its peak, file pages included."""
    said: str = ""
    """What it wrote to its standard output."""


def main() -> None:
    """Parse the command line and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.benchmark_merge", description=__doc__
    )
    parser.add_argument("--baseline", type=Path, help="mergekit-yaml of a venv of its own")
    parser.add_argument("--sizes", nargs="+", metavar="B", help="ours alone: 0.13, 0.5, 2")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    if (options.baseline is None) == (options.sizes is None):
        parser.error("give either --baseline or --sizes")
    with tempfile.TemporaryDirectory(prefix="benchmark-merge-") as name:
        if options.sizes is None:
            compare(Path(name), options.baseline, options.rounds)
        else:
            scale(Path(name), options.sizes, options.rounds)


def compare(folder: Path, baseline: Path, rounds: int) -> None:
    """Ours and mergekit's methods on issue 3's shape."""
    make_inputs(folder, "0.5", "tuned")
    out = folder / "out"
    commands = {"floor": floor(folder, out)}
    commands |= {f"ours {method}": ours(folder, out, method) for method in OURS}
    for method in BASELINES:
        config = folder / f"{method}.yaml"
        config.write_text(json.dumps(baseline_config(folder, method)))
        commands[f"mergekit {method}"] = [
            str(baseline),
            str(config),
            str(out),
            "--no-copy-tokenizer",
        ]
    runs_by_name = measure(commands, out, rounds)
    table = Table(
        "", "wall s", "CPU s", "max RSS MiB", "/ difference", "/ task_arithmetic", "/ floor",
        title=f"0.52B parameters, bf16, medians of {rounds} (lowest - highest)",
    )  # fmt: skip
    bases = [
        median(runs_by_name[name]).wall for name in ("ours difference", "ours task_arithmetic")
    ]
    bases.append(median(runs_by_name["floor"]).wall)
    for name, runs in runs_by_name.items():
        middle = median(runs)
        walls = [run.wall for run in runs]
        table.add_row(
            name,
            f"{middle.wall:.2f} ({min(walls):.2f} - {max(walls):.2f})",
            f"{middle.cpu:.2f}",
            f"{middle.rss:.0f}",
            *(f"{middle.wall / base:.2f}" for base in bases),
        )
    _CONSOLE.print(table)
    show_roofline(folder, out, rounds)


def show_roofline(folder: Path, out: Path, rounds: int) -> None:
    """How near ours comes to the memory's bound, with 1 thread and as many as there are cores."""
    measured, left_out = thread_counts()
    commands = {
        (method, threads): counted(ours(folder, out, method, threads))
        for method in OURS
        for threads in measured
    }
    names = {f"{method}, threads: {threads}": (method, threads) for method, threads in commands}
    runs_by_name = measure({name: commands[place] for name, place in names.items()}, out, rounds)
    copies = {threads: copy_rate(threads) for threads in measured}
    table = Table(
        "", "wall s", "CPU s", "GB moved", "GB/s", "copy GB/s", "share",
        title="Roofline; not measured, for want of cores: "
        + (", ".join(f"{threads} threads" for threads in left_out) or "nothing"),
    )  # fmt: skip
    for name, runs in runs_by_name.items():
        middle, copy = median(runs), copies[names[name][1]]
        moved = moved_bytes(runs[-1].said)
        table.add_row(
            name,
            f"{middle.wall:.2f}",
            f"{middle.cpu:.2f}",
            f"{moved / 1e9:.2f}",
            f"{moved / middle.wall / 1e9:.2f}",
            f"{copy / 1e9:.2f}",
            f"{moved / middle.wall / copy:.2f}",
        )
    _CONSOLE.print(table)


def scale(folder: Path, sizes: list[str], rounds: int) -> None:
    """Ours by model size: time grows with it, memory does not."""
    table = Table("parameters", "wall s", "CPU s", "wall s / B", "CPU s / B", "max RSS MiB")
    for size in sizes:
        inputs = folder / size
        billions = make_inputs(inputs, size, "plain")
        out = inputs / "out"
        runs = measure({size: ours(inputs, out, "difference")}, out, rounds)[size]
        middle = median(runs)
        table.add_row(
            f"{billions:.3f} B",
            f"{middle.wall:.2f}",
            f"{middle.cpu:.2f}",
            f"{middle.wall / billions:.2f}",
            f"{middle.cpu / billions:.2f}",
            f"{middle.rss:.0f}",
        )
        shutil.rmtree(inputs)
    _CONSOLE.print(table)


def make_inputs(folder: Path, size: str, kind: str) -> float:
    """Write the inputs of a size; its parameters in billions.

    In a process of its own: a child's peak memory counts from its parent's on.
    """
    command = [sys.executable, "-m", "tests.benchmarks.benchmark_models", str(folder), size, kind]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def ours(folder: Path, out: Path, method: str, threads: int = 2) -> list[str]:
    """Our command line."""
    command = [sys.executable, "-m", "merge", "build", "--method", method, "--include", "*"]
    for name in ("backbone", "safety", "over_safety"):
        command += [f"--{name.replace('_', '-')}", str(folder / name)]
    return [*command, "--threads", str(threads), "--out", str(out)]


def baseline_config(folder: Path, method: str) -> dict[str, object]:
    """Mergekit's recipe of the same two deltas at the same rates; JSON is YAML."""
    models = [
        {"model": str(folder / f"tuned_{role}"), "parameters": {"weight": 1.0, "density": density}}
        for role, density in (("safety", 0.2), ("over_safety", 0.2))
    ]
    return {
        "merge_method": method,
        "base_model": str(folder / "backbone"),
        "models": models,
        "parameters": {"normalize": False},
        "dtype": "bfloat16",
    }


def floor(folder: Path, out: Path) -> list[str]:
    """What no merger can do without: read all inputs once, and copy the backbone."""
    sources = " ".join(str(folder / name / "*.safetensors") for name in ("safety", "over_safety"))
    backbone = folder / "backbone"
    return [
        "sh",
        "-c",
        f"cat {sources} {backbone}/*.safetensors > /dev/null; cp -r {backbone} {out}",
    ]


def measure(commands: dict[str, list[str]], out: Path, rounds: int) -> dict[str, list[Run]]:
    """Every command once to warm up, and then in turns."""
    runs_by_name: dict[str, list[Run]] = {name: [] for name in commands}
    turns = [(name, number) for number in range(rounds + 1) for name in commands]
    for name, number in track(turns, "runs", console=Console(stderr=True)):
        shutil.rmtree(out, ignore_errors=True)
        warm(out.parent, "tuned_" if name.startswith("mergekit") else "")
        run = run_once(commands[name])
        if number:
            runs_by_name[name].append(run)
    shutil.rmtree(out, ignore_errors=True)
    return runs_by_name


def warm(folder: Path, prefix: str) -> None:
    """Read the next run's inputs, and no others: they may be more than the page cache may hold.

    Some systems empty idle pages soon, and earlier runs' writing must have ended.
    """
    os.sync()
    for name in ("backbone", f"{prefix}safety", f"{prefix}over_safety"):
        for file in (folder / name).rglob("*.safetensors"):
            with file.open("rb", buffering=0) as source:
                while source.read(1 << 24):
                    pass


def run_once(command: list[str]) -> Run:
    """Run to the end, which must be a good one."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as printed:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=printed, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
        printed.seek(0)
        text = printed.read().decode()
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text)


def median(runs: list[Run]) -> Run:
    """The median of each figure by itself."""
    return Run(
        statistics.median(run.wall for run in runs),
        statistics.median(run.cpu for run in runs),
        statistics.median(run.rss for run in runs),
    )


if __name__ == "__main__":
    main()
