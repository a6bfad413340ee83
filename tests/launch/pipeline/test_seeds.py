"""`python -m launch seeds`: the runs of several seeds, or one line that says what is missing."""

import json
from pathlib import Path

import pytest

from launch.cli import parse
from launch.pipeline.repeat import summarise
from launch.run.seeds import seed_runs
from merge.common.errors import UserError


def write_report(run: Path, *models: str, value: float = 0.5) -> None:
    (run / "report").mkdir(parents=True)
    axes = {"harmful_rate": {"value": value, "low": 0, "high": 1, "n": 4}}
    report = {"models": dict.fromkeys(models, axes)}
    (run / "report" / "report.json").write_text(json.dumps(report))


def test_a_folder_without_seeds_is_one_line(tmp_path):
    options = parse(["seeds", str(tmp_path)])
    with pytest.raises(UserError, match="holds no run of a seed"):
        options.command(options)


def test_the_seeds_that_are_there_are_averaged_whatever_their_numbers(tmp_path):
    for seed, value in ((1, 0.2), (12, 0.4)):
        write_report(tmp_path / f"seed-{seed}", "backbone", value=value)
    record = summarise(tmp_path, seed_runs(tmp_path))
    assert record["seeds"] == 2
    assert record["models"]["backbone"]["harmful_rate"]["mean"] == pytest.approx(0.3)


def test_reports_of_other_models_are_named(tmp_path):
    write_report(tmp_path / "seed-0", "backbone", "dense")
    write_report(tmp_path / "seed-1", "backbone")
    with pytest.raises(UserError, match=r"seed-1/.*has no model 'dense'"):
        summarise(tmp_path, seed_runs(tmp_path))
