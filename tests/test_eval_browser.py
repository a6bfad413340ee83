"""The report in a real headless Chromium, where one is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from eval.report import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
ATTACK = (
    "</div><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs chromium or google-chrome")
def test_no_answer_or_name_runs_in_the_page(tmp_path: Path):
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    axes = dict.fromkeys(("harmful_rate", "refusal_rate", "utility", "degenerate_rate"), rate)
    example = {"direction": "new", "suite": ATTACK, "category": ATTACK, "prompt": ATTACK}
    example |= {"before": ATTACK, "after": ATTACK, "judged": ["none", ATTACK]}
    change = {"gone": 0, "new": 1, "categories": {ATTACK: {"gone": 0, "new": 1}}}
    report = {
        "models": {"backbone": axes, ATTACK: axes},
        "backbone": "backbone",
        "harm_rule": ATTACK,
        "suites": {"backbone": {}, ATTACK: {}},
        "changes": {ATTACK: {"harmful_rate": {**change, "examples": [example]}}},
        "details": {},
    }
    page = tmp_path / "report.html"
    page.write_text(render_html(report))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    assert "<title>SafePatching report</title>" in done.stdout
    assert "<img" not in done.stdout
    assert "<script" not in done.stdout
    assert done.stdout.count("onerror") >= 3, "the answers must be shown as text"
