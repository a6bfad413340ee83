"""The report in a real headless Chromium, where one is installed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from eval.axes import AXES
from eval.report.page import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
ATTACK = (
    "</div><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium or google-chrome"),
]


def _report() -> Any:
    rate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    axes = dict.fromkeys(AXES, rate)
    change = {"difference": -0.1, "low": -0.2, "high": 0.1, "p_holm": 0.01, "margin": 0.02}
    verdict = {
        "overall": "not worse",
        "axes": {axis: {**change, "verdict": "not worse"} for axis in AXES},
        "suites": {ATTACK: change},
    }
    example = {"direction": "new", "suite": ATTACK, "category": ATTACK, "prompt": ATTACK}
    example |= {"before": ATTACK, "after": ATTACK, "judged": ["none", ATTACK]}
    flips = {"gone": 0, "new": 1, "categories": {ATTACK: {"gone": 0, "new": 1}}}
    suite = {ATTACK: {"axis": "harm", **rate, "refusal_counts": {}, "categories": {ATTACK: rate}}}
    return {
        "models": {"backbone": axes, ATTACK: axes},
        "backbone": "backbone",
        "harm_rule": ATTACK,
        "verdicts": {ATTACK: verdict},
        "utility_average": {"backbone": rate, ATTACK: rate},
        "suites": {"backbone": suite, ATTACK: suite},
        "changes": {ATTACK: {"harmful_rate": {**flips, "examples": [example]}}},
        "details": {},
    }


def _dom(page: Path, *options: str) -> str:
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_no_answer_or_name_runs_in_the_page(tmp_path: Path):
    page = tmp_path / "report.html"
    page.write_text(render_html(_report()))
    shown = _dom(page)
    assert "<title>SafePatching report</title>" in shown
    assert "<img" not in shown
    assert "<script" not in shown
    assert shown.count("onerror") >= 3, "the answers must be shown as text"


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_nothing_is_wider_than_the_window_and_the_colours_follow(
    tmp_path: Path, width: int, scheme: str
):
    """Wide tables scroll in their own frame. The page's ban on scripts is lifted to measure it."""
    whole = re.sub(r"<meta http-equiv[^>]*>", "", render_html(_report()))
    measure = (
        "<script>document.title = [document.documentElement.scrollWidth <= innerWidth, innerWidth,"
        " getComputedStyle(document.body).backgroundColor].join(' ')</script>"
    )
    page = tmp_path / "report.html"
    page.write_text(whole.replace("<details>", "<details open>") + measure)
    scheme_option = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    shown = _dom(page, f"--window-size={width},900", scheme_option)
    background = {"dark": "rgb(21, 24, 28)", "light": "rgb(255, 255, 255)"}[scheme]
    assert f"<title>true {width} {background}</title>" in shown
