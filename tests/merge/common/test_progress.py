"""Long steps tell how far they are: bars on a terminal, lines in a file, JSON lines in a run."""

import fcntl
import json
import logging
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from merge.common import progress
from merge.common.errors import UserError
from merge.common.metrics import metrics_file, record
from merge.common.progress import Progress, last_line

# Longer than any terminal is wide, with a step and a bar of a library beside it.
SCRIPT = """
import logging, time
from merge.common.log import start_logging
start_logging()
from merge.common import progress
from tqdm import tqdm
progress.EVERY_SECONDS = 0.05
for _ in tqdm(range(3), desc="of a library"):
    pass
with progress.Progress("counting", 4, "sheep") as step:
    for _ in step.over(range(4)):
        logging.getLogger("x").info("%s", "word " * 60 + "end")
        time.sleep(0.08)
"""


def lines_of(run: Path, stage: str) -> list[dict]:
    text = (run / "metrics" / f"{stage}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_gets_whole_lines_and_no_bar() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "of a library" not in done.stderr and "\r" not in done.stderr and "|" not in done.stderr
    assert sum(line.endswith("word end") and line.count("word") == 60 for line in lines) == 4
    told = [line for line in lines if "counting: " in line]
    assert len(told) >= 4  # the step takes six times as long as one line waits
    assert "counting: 4 of 4 sheep" in told[-1] and told[-1].endswith("00:00 left")
    last = last_line("\n".join(lines))
    assert last is not None and told[-1].endswith(last) and last.startswith("counting: ")


def test_a_terminal_gets_bars_and_lines_that_do_not_cut_them() -> None:
    main, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    ended = subprocess.run([sys.executable, "-c", SCRIPT], stderr=terminal)
    os.close(terminal)
    seen = b""
    try:
        while part := os.read(main, 65536):
            seen += part
    except OSError:  # how a terminal that nobody writes to any more ends on Linux
        pass
    os.close(main)
    text = seen.decode()
    assert ended.returncode == 0 and "of a library" in text
    assert "counting: 100%" in text and "counting: 4 of 4" not in text
    written = [line for line in text.replace("\r", "\n").split("\n") if "word" in line]
    assert len(written) == 4 and all(line.endswith("word end") for line in written)


def test_lines_come_while_one_unit_takes_long(monkeypatch, caplog) -> None:
    """A step of a large model may last for minutes; its log must not fall silent."""
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)
    with caplog.at_level(logging.INFO), Progress("export", 2, "tensors") as step:
        step.advance()
        time.sleep(0.3)
    assert len(caplog.messages) >= 3
    assert all(line.startswith("export: 1 of 2 tensors, ") for line in caplog.messages)


def test_short_steps_say_nothing(caplog) -> None:
    with caplog.at_level(logging.INFO), Progress("merge", 10**9, "B") as step:
        step.advance(10**9)
    assert not caplog.messages


def test_rate_and_time_left_leave_out_what_was_done_before() -> None:
    """10 of 60 units in 2000 s, after 30 and 20 that an earlier start has done."""
    with Progress("search", 100, "trials", done=30) as step:
        step.skip(20)
        step.advance(10)
        step._started = time.monotonic() - 2000  # pyright: ignore[reportPrivateUsage]
        line = step.line()
    assert line == "search: 60 of 100 trials, 200 s each, 2:13:20 left"
    assert last_line(f"12:00:01 {line}\n12:00:02 data: 3 of 4 answers are short") == line


def test_few_units_of_an_unknown_number_are_counted_plainly() -> None:
    with Progress("fit", None, "merges") as step:
        step.advance(3)
        step._started = time.monotonic() - 180  # pyright: ignore[reportPrivateUsage]
        assert step.line() == "fit: 3 merges, 60 s each"


@pytest.mark.parametrize(
    ("total", "unit", "expected"),
    [(13_500_000_000, "B", "x: 1.35GB of 13.5GB, "), (None, "merges", "x: 1.35G merges, ")],
)
def test_large_amounts_are_written_short(total, unit, expected) -> None:
    with Progress("x", total, unit) as step:
        step.advance(1_350_000_000)
        line = step.line()
    assert line.startswith(expected) and last_line(line) == line


def test_a_run_keeps_the_same_numbers_as_json_lines(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.05)
    started = time.time()
    with metrics_file(tmp_path, "search"):
        with Progress("search dense", 3, "trials") as step:
            step.advance()
            time.sleep(0.2)
            step.note("loss 1.5", {"loss/forget(nats)": 1.5, "loss/retained(nats)": float("nan")})
            step.advance(2)
        record({"trial": 3, "rate": 0.25})
    record({"trial": 4})
    *beats, noted, last, recorded = lines_of(tmp_path, "search")
    assert len(beats) >= 2 and {beat["done"] for beat in beats} == {1}
    assert noted["loss/forget(nats)"] == 1.5 and noted["loss/retained(nats)"] is None
    assert (last["what"], last["done"], last["total"], last["unit"]) == (
        "search dense", 3, 3, "trials",
    )  # fmt: skip
    assert recorded["trial"] == 3 and recorded["rate"] == 0.25
    assert started - 1 <= recorded["time"] <= time.time() + 1


def test_a_torn_line_is_cut_off_and_whole_ones_stay(tmp_path) -> None:
    with metrics_file(tmp_path, "merge"):
        record({"number": 1})
    with (tmp_path / "metrics/merge.jsonl").open("a") as file:
        file.write('{"time": 17')
    with metrics_file(tmp_path, "merge"):
        record({"number": 2})
    assert [line["number"] for line in lines_of(tmp_path, "merge")] == [1, 2]


def test_metrics_that_cannot_be_written_are_one_line(tmp_path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/merge.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics/merge.jsonl: cannot be written"):
        metrics_file(tmp_path, "merge").__enter__()


def test_parts_of_a_whole_leave_the_lines_to_it(tmp_path, monkeypatch, caplog) -> None:
    """A search says how many trials are done, and not how many prompts of one of them."""
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.03)
    with caplog.at_level(logging.INFO), metrics_file(tmp_path, "search"):
        with Progress("search", 2, "trials") as whole, Progress("answers", 9, "prompts") as part:
            for step in (part, whole):
                step.advance()
                time.sleep(0.1)
        # Where the total is unknown, the parts say more.
        with Progress("fit", None, "merges"), Progress("derivatives", 9, "questions") as part:
            part.advance()
            time.sleep(0.1)
    told = {line.split(":")[0] for line in caplog.messages}
    assert told == {"search", "fit", "derivatives"}
    assert {line["what"] for line in lines_of(tmp_path, "search")} == told
