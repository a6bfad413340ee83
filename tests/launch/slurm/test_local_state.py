"""`launch status` of a run on this machine, of which no job tells (issue 15)."""

from pathlib import Path

from launch.slurm.local_state import local_state
from merge.common.files import file_lock
from merge.common.metrics import metrics_file, record


def test_a_stage_is_running_while_its_process_holds_it_and_interrupted_after(
    tmp_path: Path,
) -> None:
    assert local_state(tmp_path, "safety") == ("not begun", "")
    with file_lock(tmp_path / ".safety.lock", "busy"), metrics_file(tmp_path, "safety"):
        assert local_state(tmp_path, "safety") == ("running", "")
        record({"what": "safety", "done": 5, "total": 12, "unit": "steps", "seconds_left": 171.0})
        record({"what": "importance", "done": 8, "total": 40, "unit": "samples"})
        record(
            {"what": "safety", "done": 6, "total": 12, "unit": "steps", "seconds_left": 150.0}
            | {"loss/forget(nats)": 1.25}
        )
        state = local_state(tmp_path, "safety")
    assert state == ("running", "safety: 6 of 12 steps, forget loss 1.25, 02:30 left")
    state, detail = local_state(tmp_path, "safety")
    assert state == "interrupted"
    assert detail.startswith("safety: 6 of 12 steps")


def test_a_lock_file_that_a_killed_process_left_is_no_running_stage(tmp_path: Path) -> None:
    (tmp_path / ".search.lock").touch()
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "search.jsonl").write_text(
        '{"what": "search", "done": 3, "total": null, "unit": "trials", "seconds_left": null}\n'
        '{"trial": 3}\n{"torn'
    )
    state = local_state(tmp_path, "search")
    assert state == ("interrupted", "search: 3 trials; the same command continues")
