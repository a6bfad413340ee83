"""The paper's table: which sets stand where, and published numbers that are told from our own."""

import html
import re
from pathlib import Path
from typing import Any, cast

import pytest

from eval.report.page import render_html
from eval.report.paper_table.published import Published, load_published
from eval.report.paper_table.table import markdown_lines, paper_table
from eval.report.record import Report
from launch.recipe import Recipe
from launch.run.settings import PaperTableSettings
from merge.common.errors import UserError
from train.recipe import load_recipe

RECIPES = sorted(Path("launch/recipes/paper").glob("*.yaml"))
EMPTY: dict[str, Any] = {"categories": {}, "refusal_counts": {}}
PUBLISHED = Published(
    title="Moss-1B",
    source="a leaf",
    sets={"harm": ("Grond", "Elsewhere")},
    rows={
        "backbone": {"Grond": 40.0, "MT-Bench": 5.5},
        "fern": {"ATGR": 2.5, "Elsewhere": 1.25},
    },
)


def rate(percent: float) -> dict[str, float]:
    value = percent / 100
    return {"value": value, "low": value / 2, "high": min(1, 2 * value), "n": 200}


def make_report() -> dict[str, Any]:
    """Two models; the patched one has half of every rate."""
    axes = {"Grond": "harm", "Lookalikes": "refusal", "Sums": "utility", "Words": "utility"}
    suites = {
        model: {
            **{
                name: {**rate(share * (10 + place)), "axis": axis, **EMPTY}
                for place, (name, axis) in enumerate(axes.items())
            },
            "Wrapped": {**rate(share * 30), "axis": "harm", "attack": "pair", **EMPTY},
            "Right": {**rate(share * 50), "axis": "safety", **EMPTY},
        }
        for model, share in (("backbone", 2), ("safepatching", 1))
    }
    return {
        "backbone": "backbone",
        "models": {name: {"harmful_rate": rows["Grond"]} for name, rows in suites.items()},
        "suites": suites,
        "utility_average": {name: rate(12.5) for name in suites},
        "time_per_token": {"safepatching": {"value": 1.02, "low": 0.98, "high": 1.07}},
        "attacks": {"pair": {name: rows["Wrapped"] for name, rows in suites.items()}},
        "mt_bench": {
            "backbone": {
                "value": 6.0,
                "low": 5.5,
                "high": 6.5,
                "judge": "fern",
                "turns": [None] * 2,
            }
        },
        "details": {},
        "changes": {},
        "harm_rule": "by ear",
    }


def test_sets_stand_by_axis_and_attacks_at_the_end() -> None:
    """As in the paper: harm, refusals, utility with its mean, ratings, time; no other axis."""
    table = paper_table(make_report(), None)
    assert [column["name"] for column in table["columns"]] == [
        "Grond", "Lookalikes", "Sums", "Words", "utility average", "MT-Bench", "ATGR", "pair",
    ]  # fmt: skip
    assert not any(column["published"] for column in table["columns"])
    cells = table["rows"]["safepatching"]["cells"]
    assert cells["Grond"]["value"] == 0.1 and cells["pair"]["value"] == 0.3
    assert cells["ATGR"] == {"value": 1.02, "low": 0.98, "high": 1.07}
    assert "MT-Bench" not in cells and "ATGR" not in table["rows"]["backbone"]["cells"]


def test_published_numbers_have_columns_and_rows_of_their_own() -> None:
    """No cell of a measured column ever holds one."""
    report = make_report()
    report["paper_table"] = paper_table(report, PUBLISHED)
    lines = [line.split(" | ") for line in markdown_lines(report) if line.startswith("|")]
    head, _, *rows = [[cell.strip("| ") for cell in line] for line in lines]
    assert [row[0] for row in rows] == ["backbone", "fern", "safepatching"]
    assert head[1:5] == ["Grond", "Grond, paper", "Elsewhere", "Elsewhere, paper"]
    by_name = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert by_name["backbone"]["Grond"] == "20.0 % [10.0, 40.0]"
    assert by_name["backbone"]["Grond, paper"] == "40.00 %"
    assert by_name["backbone"]["MT-Bench"] == "6.00 [5.50, 6.50]"
    assert by_name["backbone"]["MT-Bench, paper"] == "5.50"
    assert by_name["safepatching"]["Grond, paper"] == "-"
    alone = by_name["fern"]
    assert alone["ATGR, paper"] == "2.50x" and alone["Elsewhere, paper"] == "1.25 %"
    measured = [cell for column, cell in alone.items() if not column.endswith(", paper")]
    assert set(measured[1:]) == {"-"}
    assert "Sums, paper" not in head
    assert "published numbers of Moss-1B, a reference and no result" in markdown_lines(report)[-1]


def test_the_page_says_which_column_is_the_papers() -> None:
    report = make_report()
    assert "The paper's table" not in render_html(cast(Report, report))
    report["paper_table"] = paper_table(report, PUBLISHED)
    page = render_html(cast(Report, report))
    table = page[page.index("The paper's table") :].partition("</table>")[0]
    heads = re.findall(r"<th[^>]*><small>(here|paper)</small></th>", table)
    assert heads.count("paper") == 4 and heads.count("here") == 9
    fern = table[table.index("<th>fern</th>") :].partition("</tr>")[0]
    assert re.findall(r"<td class=\"rate reference\">(.*?)</td>", fern) == [
        "-", "1.25 %", "-", "2.50x",
    ]  # fmt: skip
    assert "a leaf" in html.unescape(page)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_paper_ask_for_its_whole_table(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And name a reference that is in the shipped file, even where it holds no number yet."""
    monkeypatch.setenv("DATA", "/somewhere")
    settings = load_recipe(path, [], Recipe).eval
    assert settings is not None and settings.paper_table is not None
    assert settings.paper_table.numbers() is not None
    assert settings.baselines and {"self_cd", "rose", "safe_decoding"} <= settings.decodings.keys()


def test_the_shipped_numbers_are_of_methods_that_the_recipes_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a number would stand in a row beside the model that it is of."""
    monkeypatch.setenv("DATA", "/somewhere")
    recipe = load_recipe(Path("launch/recipes/paper/llama-2-7b-chat.yaml"), [], Recipe)
    assert recipe.eval is not None and recipe.eval.paper_table is not None
    found = recipe.eval.paper_table.numbers()
    assert found is not None
    models = {"backbone", "safety", "over_safety", "safepatching"}
    models |= recipe.eval.decodings.keys() | recipe.ablations.keys()
    models |= recipe.ablate_settings().baselines.keys()
    assert found.rows.keys() <= models


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("moss: {title: Moss, source: a leaf}", "has no entry 'fern'; choose one of moss"),
        ("fern: 3", "fern: must hold title, source and rows"),
        ("fern: {title: Fern, source: a leaf, row: {}}", "did you mean 'rows'"),
        ("- fern", "must hold an entry a backbone"),
    ],
)
def test_mistakes_in_published_numbers_name_file_and_fix(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=words):
        load_published(file, "fern")
    assert PaperTableSettings(published=file).numbers() is None
