"""What commands print: words stay whole on any terminal, and whole lines in a file."""

import io
import re
from typing import Any

import pytest
from rich.console import Group
from rich.table import Table

from eval.console import show
from eval.report.page import render_html
from eval.report.pictures.fronts import fronts_of
from eval.report.table import render_table
from launch.search.result import render_front

MODELS = ["backbone", "over_safety", "a_model_with_a_name_that_is_far_too_long_for_a_column"]


def report() -> Any:
    rate = {"value": 0.123, "low": 0.1, "high": 0.15, "n": 1000}
    axes = dict.fromkeys(
        ("harmful_rate", "refusal_rate", "utility", "degenerate_rate", "unfinished_rate"), rate
    )
    return {
        "backbone": "backbone",
        "models": dict.fromkeys(MODELS, axes),
        "verdicts": {name: {"overall": "undecided"} for name in MODELS[1:]},
        "harm_rule": "answered and not refused",
        "notes": ["rates of [brackets] stay as they are"],
    }


def trial(method: str, harm: float, refused: float, **more: Any) -> Any:
    rates = {"harmful_rate": harm, "refusal_rate": refused, "utility": 0.7, "degenerate_rate": 0.0}
    settings = {"method": method, "top_over_safety": 0.0311, "alpha": 1.5}
    return {"method": method, "settings": settings, **rates, "chosen": False, **more}


TRIALS = [
    trial("difference", 0.2, 0.1, pareto=True, chosen=True),
    trial("dense", 0.1, 0.1, pareto=True),
    trial("difference", 0.1, 0.3, pareto=True),
    trial("difference", 0.5, 0.5, pareto=False),
    trial("intersection", 0.9, 0.9, pareto=False),
]


def search_record() -> Any:
    return {
        "chosen": {"difference": {}, "dense": {}, "intersection": {}},
        "backbone": trial("", 0.5, 0.6),
        "trials": TRIALS,
    }


def printed(monkeypatch, columns: int | None, *shown) -> str:
    out = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", out)
    show(*shown)
    return out.getvalue()


@pytest.mark.parametrize("columns", [40, 60, 80, 120, None])
@pytest.mark.parametrize(
    "table", [lambda: render_table(report()), lambda: render_front(search_record())]
)
def test_no_word_of_a_table_is_broken(monkeypatch, columns, table) -> None:
    """Every word of every cell stands in what is printed, at any width."""
    out = printed(monkeypatch, columns, table())
    shown_words = set(re.split(r"[\s│┃|]+", out))
    words = {
        word
        for column in table().columns
        for cell in (column.header, *column.cells)
        for word in str(cell).split()
    }
    assert not [word for word in words if not shown_words & {word, f"{word}:"}], out
    assert max(map(len, out.splitlines())) <= (columns or 200) + 60
    if columns is not None and "┃" in out:
        assert max(map(len, out.splitlines())) <= columns


def test_a_narrow_terminal_gets_rows_below_each_other(monkeypatch) -> None:
    out = printed(monkeypatch, 40, render_front(search_record()))
    assert "┃" not in out and "  Harmful answers: 20.0" in out.splitlines()


def test_a_file_gets_tables_and_lines_as_wide_as_they_are(monkeypatch) -> None:
    table = Table("name", "settings")
    table.add_row("x", "a " * 300 + "end")
    line = f"report: /a/{'folder/' * 40}[bold]report.html"
    out = printed(monkeypatch, None, Group(table, line), line).splitlines()
    assert out.count(line) == 2
    assert any(row.count("a ") >= 300 and "end" in row for row in out)


def test_every_front_says_whose_it_is(monkeypatch) -> None:
    fronts = fronts_of(TRIALS)
    assert {method: len(front) for method, front in fronts.items()} == {"difference": 2, "dense": 1}
    assert [trial["harmful_rate"] for trial in fronts["difference"]] == [0.1, 0.2]
    rows = printed(monkeypatch, 120, render_front(search_record())).splitlines()
    of = {row.split("│")[1].strip() for row in rows if row.startswith("│")} - {""}
    assert of == {"backbone", "difference", "dense"}
    report: Any = {**PAGE, "search": {"trials": TRIALS}}
    page = render_html(report)
    assert "Pareto fronts of 2 methods" in page
    assert page.count("<td>difference</td>") == 2 and page.count("<td>dense</td>") == 1
    for words in ("front of difference", "front of dense", "intersection, no front"):
        assert page.count(words) == 2  # in the wide picture and in the narrow one


def test_fronts_of_older_records_are_those_of_their_first_method() -> None:
    older: Any = [{key: v for key, v in one.items() if key != "method"} for one in TRIALS]
    assert list(fronts_of(older)) == ["difference", "dense"]
    bare: Any = [{**one, "settings": {"alpha": 1.0}} for one in older]
    assert list(fronts_of(bare)) == ["merges"]


RATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}
AXES = {"harmful_rate": RATE, "refusal_rate": RATE, "utility": RATE}
PAGE: Any = {
    "backbone": "backbone",
    "harm_rule": "x",
    "models": {"backbone": AXES, "patched": AXES},
    "suites": {"backbone": {}},
    "details": {},
    "changes": {},
}


def test_a_narrow_page_shows_a_picture_of_its_own() -> None:
    """Else its words are as small as half of the page's: each width has one picture of two."""
    page = render_html(PAGE)
    wide, narrow = (page.index(f'<div class="{kind}"><svg') for kind in ("wide", "narrow"))
    assert wide < narrow
    rules = re.sub(r"\s+", " ", page[: page.index("</style>")])
    assert ".narrow { display: none; }" in rules
    assert "@media (max-width: 40rem) { .wide { display: none; } .narrow { display: block; } }" in (
        rules
    )
    sizes = [float(width) for width in re.findall(r'viewBox="0 0 ([\d.]+) ', page)]
    # A screen of 420 pixels leaves 388 to the picture, whose letters have 10 points.
    assert 388 / sizes[1] * 10 >= 12 > 388 / sizes[0] * 10
    ids = re.findall(r' id="([^"]+)"', page)
    referred = set(re.findall(r"url\(#([^)]+)\)", page)) | set(re.findall(r'href="#([^"]+)"', page))
    assert all(ids.count(one) == 1 for one in referred)
