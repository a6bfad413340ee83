"""Which architectures train, merge and answer: the table of docs/models.md.

    PYTHONPATH=. python tests/benchmarks/survey_architectures.py [NAME...]

Each is a tiny random model that transformers saved. `python -m train` makes a patch of it, which
serves as both; `python -m merge build` merges it with the default settings; `python -m eval run`
asks the merged model for answers and choices. What one of the commands refuses is told.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.architectures import SURVEYED, make_model
from tests.support.train_helpers import ROOT, WORDS, make_recipe
from train.backbone.tensors import open_backbone
from train.recipe import BackboneSettings

_QUIET = {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}


def run(*words: object) -> str | None:
    """The last line of a command's errors, or None where it ended well."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **_QUIET},
        capture_output=True,
        text=True,
    )
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def write_suite(folder: Path) -> Path:
    """Prompts of different lengths, and choices of different lengths."""
    prompts = [" ".join(WORDS[number : 2 * number + 2]) for number in range(4)]
    (folder / "harm.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    choice = {"prompt": prompts[3], "choices": ["w1", "w2 w3 w4"], "answer": "w1"}
    (folder / "choice.jsonl").write_text(json.dumps(choice) + "\n")
    columns = {"choices": "choices", "answer": "answer"}
    rows: list[dict[str, Any]] = [
        {"name": "harm", "axis": "harm", "source": "harm.jsonl", "max_new_tokens": 6},
        {"name": "choice", "axis": "utility", "source": "choice.jsonl", "scoring": "choice"},
    ]
    rows[1]["columns"] = columns
    (folder / "suite.yaml").write_text(json.dumps(rows))
    return folder / "suite.yaml"


def survey(kind: str, folder: Path) -> list[str]:
    """A row of the table."""
    backbone = make_model(kind, folder / "backbone")
    converted = "-"
    try:
        mapping = open_backbone(backbone, BackboneSettings(path=str(backbone))).map
        converted = "yes" if any(group.patterns for group in mapping.groups) else "no"
    finally:
        recipe = make_recipe(folder, safety={"steps": 2}, importance={"samples": 3})
        refused = run("train.launcher", "--processes=1", recipe, "--role", "safety")
    if refused:
        return [kind, converted, f"training refused: {refused}", "", ""]
    patch, twin = folder / "run/safety", folder / "twin"
    twin.mkdir()
    record = json.loads((patch / "patch.json").read_text())
    for file in patch.iterdir():
        (twin / file.name).symlink_to(file)
    (twin / "patch.json").unlink()
    (twin / "patch.json").write_text(json.dumps({**record, "role": "over_safety"}))
    inputs = ["--backbone", backbone, "--safety", patch, "--over-safety", twin]
    refused = run("merge", "build", *inputs, "--out", folder / "out")
    if refused:
        return [kind, converted, "trained", f"merge refused: {refused}", ""]
    share = json.loads((folder / "out/merge.json").read_text())["coverage"]["share"]
    asked = ["--model", folder / "out", "--suite", write_suite(folder), "--out", folder / "eval"]
    refused = run("eval", "run", *asked)
    answered = f"refused: {refused}" if refused else "yes"
    return [kind, converted, "yes", f"{share:.0%}", answered]


def main() -> None:
    """Print the table, a row as soon as it is known."""
    head = ["architecture", "converted on loading", "trained", "covered", "evaluated"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)  # noqa: T201
    for kind in sys.argv[1:] or sorted(SURVEYED):
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(survey(kind, Path(folder)))} |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
