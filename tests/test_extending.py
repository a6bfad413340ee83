"""`docs/extending.md` holds: its changes apply, touch as few files as it says, and work.

The changes are applied to a copy of the project, as somebody else would make them (issue 16).
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.support.eval_models import save_model
from tests.support.merge_models import write_patch, write_tensors

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "extending.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: section
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
DIFFS = {
    title: "".join(re.findall(r"```diff\n(.*?)```", section, re.DOTALL))
    for title, section in SECTIONS.items()
}
NAME = "model.layers.0.mlp.up_proj.weight"


def _touched(diff: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.*)$", diff, re.MULTILINE)


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with all changes; files and folders that stay as they are are links."""
    root = tmp_path_factory.mktemp("extended")
    changed = {Path(name) for diff in DIFFS.values() for name in _touched(diff)}
    _lay(Path(), changed, root)
    for diff in filter(None, DIFFS.values()):
        command = ["git", "apply", "-"]
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}
        done = subprocess.run(
            command, cwd=root, input=diff, text=True, capture_output=True, env=environment
        )
        assert done.returncode == 0, done.stderr
    return root


def _lay(folder: Path, changed: set[Path], root: Path) -> None:
    inside = {parent for file in changed for parent in file.parents}
    (root / folder).mkdir(exist_ok=True)
    for entry in (PROJECT / folder).iterdir():
        place = folder / entry.name
        if place in inside:
            _lay(place, changed, root)
        elif place in changed:
            shutil.copy(entry, root / place)
        elif not entry.name.startswith((".", "__pycache__")):
            (root / place).symlink_to(entry)


def _run(root: Path, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=root, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("title", "files"),
    [
        ("A merge method of existing rules", 1),
        ("A merge method with a rule of its own", 2),
        ("A training objective", 2),
        ("An axis", 2),
        ("A kind of source", 1),
        ("What writes answers", 2),
        ("A judge", 0),
    ],
)
def test_an_addition_touches_as_few_files_as_the_page_says(title: str, files: int) -> None:
    assert len(_touched(DIFFS[title])) == files


def test_every_section_is_tried() -> None:
    assert len(SECTIONS) == 7 and PAGE.count("```diff") == 6


@pytest.mark.slow
def test_the_settings_know_what_was_added(extended: Path) -> None:
    """Recipes and command lines take the new names, without another change."""
    script = (
        "from launch.recipe import Recipe\n"
        "recipe = Recipe.model_validate({'name': 'n', 'output': 'o', 'backbone': {'path': 'b'},"
        " 'data': {'path': 'd'}, 'merge': {'method': 'safety_first'},"
        " 'safety': {'objective': 'bounded_ascent'},"
        " 'eval': {'suite': 's', 'backend': 'echo', 'margins': {'brief_rate': 0.25}}})\n"
        "print(recipe.merge.method, recipe.safety.objective, recipe.eval.margins.brief_rate)"
    )
    assert _run(extended, "-c", script).split() == ["safety_first", "bounded_ascent", "0.25"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["largest", "safety_first"])
def test_the_merge_methods_take_what_they_say(extended: Path, tmp_path: Path, method: str) -> None:
    """Entry by entry, top halves by magnitude or by the given scores; nothing is drawn."""
    draw = torch.Generator().manual_seed(2)
    theta, safety, over, score_s, score_o = (torch.randn(8, 16, generator=draw) for _ in range(5))
    write_tensors(tmp_path / "backbone", "model", {NAME: theta})
    (tmp_path / "backbone" / "config.json").write_text("{}")
    for role, delta, score in (("safety", safety, score_s), ("over_safety", over, score_o)):
        write_patch(tmp_path / role, role, {NAME: delta}, {NAME: score.abs()})
    command = f"merge build --method {method} --top-safety 0.5 --top-over-safety 0.5 --retention 1"
    folders = [
        part
        for option in ("backbone", "safety", "over-safety", "out")
        for part in (f"--{option}", str(tmp_path / option.replace("-", "_")))
    ]
    _run(extended, "-m", *command.split(), "--include", "*", *folders)
    ranks = (safety, over) if method == "largest" else (score_s, score_o)
    in_s, in_o = (
        rank.abs() >= rank.abs().flatten().sort(descending=True).values[rank.numel() // 2 - 1]
        for rank in ranks
    )
    takes_s = in_s & ~in_o if method == "largest" else in_s
    expected = theta + torch.where(takes_s, safety, 0) + torch.where(in_o & ~in_s, over, 0)
    assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[NAME], expected)


@pytest.mark.slow
def test_the_objective_is_its_formula(extended: Path) -> None:
    script = (
        "import torch\n"
        "from train.objectives.terms import _TERMS, Term\n"
        "(term,) = _TERMS['bounded_ascent'](Term('forget', 1.0, [], None, None), None)\n"
        "losses = torch.tensor([1.0, 4.5, 9.0], requires_grad=True)\n"
        "values = term.losses(losses, None, None)\n"
        "values.sum().backward()\n"
        "print([values.tolist(), losses.grad.tolist()])"
    )
    printed = json.loads(_run(extended, "-c", script).splitlines()[-1])
    assert printed == [[-1.0, -4.5, -5.0], [-1.0, -1.0, 0.0]]


@pytest.mark.slow
def test_an_evaluation_uses_source_backend_judge_and_axis(extended: Path, tmp_path: Path) -> None:
    """One run of the command: answers are the items of the list, counted by the new axis."""
    save_model(tmp_path / "model")
    prompts = ["how do you grond the vask", "first blip it", "is red two plus two"]
    (tmp_path / "asked.md").write_text("# Asked\n" + "".join(f"- {text}\n" for text in prompts))
    (tmp_path / "suite.yaml").write_text("[{name: s, axis: refusal, source: asked.md}]")
    written = re.findall(r"```yaml\n(.*?)```", SECTIONS["A judge"], re.DOTALL)[0]
    judge = {**yaml.safe_load(written), "model": "model", "answered": ".", "partial": "^$"}
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(judge))
    folders = {"model": "model", "suite": "suite.yaml", "out": "out", "refusal-judge": "judge.yaml"}
    paths = [part for key, name in folders.items() for part in (f"--{key}", str(tmp_path / name))]
    _run(extended, "-m", "eval", "run", "--backend", "echo", *paths)
    lines = (tmp_path / "out" / "completions.jsonl").read_text().splitlines()
    answers: list[dict[str, Any]] = [json.loads(line) for line in lines]
    assert [line["completion"] for line in answers] == prompts
    assert {line["refusal"] for line in answers} == {"none"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    brief = summary["axes"]["brief_rate"]
    assert (brief["value"], brief["n"]) == (pytest.approx(1 / 3), 3)
    assert summary["refusal_rule"] == str(tmp_path / "model")
    assert summary["settings"]["backend"] == "echo"
