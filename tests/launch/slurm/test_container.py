"""Containers: what a job is given to see, the command line, and the image files (issue 15)."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from launch.pipeline.stages import STAGES
from launch.recipe import Recipe
from launch.slurm.batch_scripts.job_container import input_folders
from launch.slurm.batch_scripts.stage_scripts import RunPlace, render_stage
from launch.slurm.submit import plan_chain
from launch.slurm.system.settings import ClusterSettings
from merge.common.errors import UserError
from merge.common.settings import parse_settings

PROJECT = Path(__file__).parents[3]
FILES = PROJECT / "launch" / "slurm" / "container"


def make_recipe(folder: Path, **sections: Any) -> Recipe:
    for name in ("models/seven", "tables", "judge", "suites"):
        (folder / name).mkdir(parents=True)
    (folder / "d_h.jsonl").write_text("{}\n")
    (folder / "tables/refusal.csv").write_text("prompt\nx\n")
    rows = [
        {"name": "A", "axis": "refusal", "source": "../tables/*.csv"},
        {"name": "B", "axis": "harm", "source": "hub/set"},
    ]
    (folder / "suites/test.yaml").write_text(yaml.safe_dump(rows))
    values = {
        "name": "models",
        "output": str(folder / "run"),
        "backbone": {"path": str(folder / "models/seven")},
        "data": {"path": str(folder / "d_h.jsonl")},
        "eval": {"suite": str(folder / "suites/test.yaml")},
        "harvest": {"questions": {"source": "x"}, "harm_judge": str(folder / "judge.yaml")},
    }
    (folder / "judge.yaml").write_text(yaml.safe_dump({"model": str(folder / "judge")}))
    return parse_settings(Recipe, {**values, **sections}, "recipe")


def test_all_that_a_run_reads_outside_of_the_project_is_bound(tmp_path: Path) -> None:
    """Folders of recipe, suite rows and a judge's file; each once, with its parts."""
    inputs, hub = tmp_path / "in", tmp_path / "hub"
    hub.mkdir()
    recipe = make_recipe(inputs)
    folders = input_folders(recipe, {"HF_HOME": str(hub), "HF_DATASETS_CACHE": f"{hub}/sets"})
    assert folders == (hub, inputs)
    (tmp_path / "other.jsonl").touch()
    alone = recipe.model_copy(update={
        "data": recipe.data.model_copy(update={"path": "/nowhere.jsonl"}), "harvest": None,
    })  # fmt: skip
    expected = tuple(inputs / name for name in ("models/seven", "suites", "tables"))
    assert input_folders(alone, {"HF_HOME": "/nowhere"}) == expected


def test_links_are_followed_to_where_the_files_lie(tmp_path: Path) -> None:
    """As in the hub's cache, whose snapshots are links, and a folder of models on another disk."""
    blobs, disk = tmp_path / "blobs", tmp_path / "disk"
    blobs.mkdir()
    (blobs / "1f0").write_text("{}")
    (disk / "snapshot").mkdir(parents=True)
    (disk / "snapshot/config.json").symlink_to(blobs / "1f0")
    recipe = make_recipe(tmp_path / "in")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link").symlink_to(disk / "snapshot")
    recipe = recipe.model_copy(update={
        "output": tmp_path / "run",
        "backbone": recipe.backbone.model_copy(update={"path": str(tmp_path / "run/link")}),
    })  # fmt: skip
    folders = input_folders(recipe, {"HF_HOME": "/nowhere"})
    assert {blobs, disk / "snapshot"} < set(folders)
    assert not [folder for folder in folders if folder.is_relative_to(tmp_path / "run")]


def test_a_path_that_the_runtime_would_misread_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be given this path"):
        input_folders(make_recipe(tmp_path / "a,b:c"), {})


def step(stage: str, place: RunPlace, **cluster: Any) -> list[str]:
    """The words of srun in a stage's script."""
    text = render_stage(STAGES[stage], "x", ClusterSettings(**cluster), place)
    return shlex.split(next(line for line in text.splitlines() if line.startswith("srun ")))


@pytest.mark.parametrize("gpus", [{"gpus_per_node": 2}, {"gres": "gpu:2"}], ids=["gpus", "gres"])
def test_gpus_are_given_to_the_stages_that_ask_for_them(gpus: dict[str, Any]) -> None:
    place = RunPlace(Path("/scratch/x"), inputs=(Path("/data/my models"),))
    cluster = {**gpus, "container": {"image": "/x.sif", "mounts": ["/a:/b"]}}
    stages = ("safety", "merge", "evaluate")
    words = {stage: step(stage, place, **cluster) for stage in stages}
    assert ["--nv" in words[stage] for stage in stages] == [True, False, True]
    bound = f"--bind={Path.cwd()},$run,/data/my models,/a:/b"
    assert all(bound in words[stage] for stage in stages)
    assert "--nv" not in step("safety", place, container={"image": "/x.sif"})


def test_an_image_of_enroots_form_is_for_pyxis() -> None:
    image = "nvcr.io#nvidia/pytorch:25.01-py3"
    place = RunPlace(Path("/scratch/x"), inputs=(Path("/hub"),))
    words = step("merge", place, container={"image": image, "runtime": "pyxis"})
    assert f"--container-image={image}" in words
    assert f"--container-mounts={Path.cwd()}:{Path.cwd()},$run:$run,/hub:/hub" in words
    with pytest.raises(ValidationError, match="set runtime to pyxis"):
        ClusterSettings(container={"image": image})  # pyright: ignore


def test_a_submission_binds_by_itself(tmp_path: Path) -> None:
    """With the cache that the jobs will use, which the recipe's env may name."""
    make_recipe(tmp_path / "in")
    (tmp_path / "hub").mkdir()
    recipe = tmp_path / "recipe.yaml"
    values = {
        "name": "x",
        "output": str(tmp_path / "run"),
        "backbone": {"path": str(tmp_path / "in/models/seven")},
        "data": {"path": str(tmp_path / "in/d_h.jsonl")},
        "cluster": {"container": {"image": "/x.sif"}, "env": {"HF_HOME": str(tmp_path / "hub")}},
    }
    recipe.write_text(yaml.safe_dump(values))
    for text in (job.script for job in plan_chain(recipe, []).jobs()):
        assert f'--bind={Path.cwd()},"$run",{tmp_path}/hub,{tmp_path}/in ' in text
        assert f"export HF_HOME={tmp_path}/hub\n" in text


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions: (word, arguments), with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (FILES / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line.strip()]  # pyright: ignore


def definition() -> tuple[dict[str, str], dict[str, str]]:
    """The header's keys and the sections of the apptainer definition."""
    text = re.sub(r"^\s*#.*\n", "", (FILES / "apptainer.def").read_text(), flags=re.MULTILINE)
    header, *sections = re.split(r"^%", text, flags=re.MULTILINE)
    keys = dict(line.split(": ", 1) for line in header.splitlines() if line)
    return keys, dict(part.split("\n", 1) for part in sections)


def test_both_images_hold_what_the_requirements_name() -> None:
    """No builder is needed: every instruction is known, its files are here, and both are alike."""
    instructions = dockerfile()
    assert [word for word, _ in instructions] == ["FROM", "RUN", "COPY", "RUN"]
    keys, sections = definition()
    assert keys == {"Bootstrap": "docker", "From": instructions[0][1]}
    assert set(sections) == {"files", "post", "test"}
    base = re.fullmatch(r"python:3\.(\d+)-[\w-]+", instructions[0][1])
    assert base is not None and int(base[1]) >= 10, "requires-python of pyproject.toml"
    *sources, folder = instructions[2][1].split()
    target = f"{folder}requirements.txt"
    text = (PROJECT / "requirements.txt").read_text()
    assert sources == ["requirements.txt", *re.findall(r"^-r (.+)", text, flags=re.MULTILINE)]
    assert all((PROJECT / source).is_file() for source in sources)
    copied = [line.split() for line in sections["files"].splitlines() if line]
    assert copied == [[source, folder + source] for source in sources]
    commands = [part.split() for _, text in instructions[1::2] for part in text.split("&&")]
    assert commands == [line.split() for line in sections["post"].splitlines() if line][1:]
    assert commands[-1][-2:] == ["--requirement", target]
    for script in (sections["post"], sections["test"]):
        assert subprocess.run(["sh", "-n"], input=script, text=True).returncode == 0
