"""Question-answer pairs from files, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from merge.common.errors import UserError
from train.chat.example import Example
from train.data.examples import data_hash, read_examples
from train.recipe import DataSettings


def write_rows(directory: Path, *rows: dict[str, Any]) -> str:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def numbered(directory: Path, count: int) -> str:
    return write_rows(
        directory,
        *({"question": f"q{n}", "answer": "a", "category": f"c{n % 3}"} for n in range(count)),
    )


def questions(**settings: Any) -> list[str]:
    return [example.question for example in read_examples(DataSettings(**settings))]


def test_csv_with_own_columns_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text('goal,target\n"Sort, then\nlist",Sure\n')
    read = read_examples(DataSettings(path=str(path), question="goal", answer="target"))
    assert read == [Example("Sort, then\nlist", "Sure")]


def test_json_lines_keep_unicode_line_separators(tmp_path: Path) -> None:
    path = write_rows(tmp_path, {"question": "a\u2028b", "answer": "c"})
    assert questions(path=path) == ["a\u2028b"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("0%:50%", "01234"),
        ("50%:", "56789"),
        ("2:4", "23"),
        (":", "0123456789"),
        ("1:3/4", "12569"),
        ("50%:/4", "2367"),
    ],
)
def test_rows_are_cut_by_number_or_percentage(tmp_path: Path, rows: str, expected: str) -> None:
    path = numbered(tmp_path, 10)
    assert questions(path=path, rows=rows) == [f"q{digit}" for digit in expected]


def test_halves_are_disjoint_and_whole(tmp_path: Path) -> None:
    path = numbered(tmp_path, 7)
    halves = [questions(path=path, rows=rows) for rows in ("0%:50%", "50%:100%")]
    assert sorted(halves[0] + halves[1]) == [f"q{n}" for n in range(7)]


def test_category_filter_and_limit_follow_the_rows(tmp_path: Path) -> None:
    path = numbered(tmp_path, 10)
    assert questions(path=path, rows="1:", categories=["c0", "c2"], limit=3) == ["q2", "q3", "q5"]


def test_categories_as_flags(tmp_path: Path) -> None:
    """BeaverTails' form."""
    row = {"question": "q", "answer": "a", "category": {"fraud": True, "theft": False}}
    safe = {"question": "s", "answer": "a", "category": {"fraud": False, "theft": False}}
    path = write_rows(tmp_path, row, safe)
    assert questions(path=path, categories=["fraud"]) == ["q"]
    assert questions(path=path, categories=["*"]) == ["q"]
    assert questions(path=path) == ["q", "s"]
    with pytest.raises(UserError, match="no row is left"):
        questions(path=path, categories=["theft"])


def test_datasets_source(tmp_path: Path) -> None:
    """A folder that ``datasets`` reads, split chosen by name."""
    datasets.Dataset.from_dict({"q": ["x"], "a": ["y"]}).to_parquet(tmp_path / "test.parquet")
    settings = DataSettings(path=str(tmp_path), split="test", question="q", answer="a")
    assert read_examples(settings) == [Example("x", "y")]


def test_errors_name_row_and_mend(tmp_path: Path) -> None:
    path = write_rows(tmp_path, {"question": "q", "answer": "a"}, {"question": "q", "answer": " "})
    with pytest.raises(UserError, match=r"rows.jsonl, row 2: the answer .* is empty; fill"):
        questions(path=path)
    with pytest.raises(UserError, match=r"row 1: has no column 'goal' .*data.question"):
        questions(path=path, question="goal")
    with pytest.raises(UserError, match=r"missing\.jsonl: cannot be read"):
        questions(path="missing.jsonl")
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        questions(path=path)
    (tmp_path / "rows.jsonl").write_text('{"question": "q", "answer": "a"}\n[1]\n')
    with pytest.raises(UserError, match="line 2: is not a JSON object"):
        questions(path=path)


def test_hash_changes_with_text_and_order() -> None:
    one, two = Example("q", "a"), Example("q", "b")
    hashes = {data_hash(examples) for examples in ([one, two], [two, one], [one], [])}
    assert len(hashes) == 4
