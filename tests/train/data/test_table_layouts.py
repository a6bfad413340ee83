"""Sources that are laid out in other ways: patterns of files, header keys, blocks of lines."""

import bz2
import gzip
from pathlib import Path
from typing import Any

import pytest

from eval.suites.prompts import Prompt, load_prompts
from eval.suites.suite import suite_from_rows
from merge.common.errors import UserError

_GATES = b'"How tall is the gate, in feet?",two,three,"four, or five",B\nWho rings?,me,you,she,A\n'
_KEYS: dict[str, Any] = {
    "axis": "utility",
    "scoring": "choice",
    "header": ["question", "a", "b", "c", "key"],
    "columns": {
        "prompt": "question",
        "choices": ["a", "b", "c"],
        "answer": "key",
        "category": "file",
    },
}


def _asked(folder: Path, source: str, **changes: Any) -> list[Prompt]:
    row = {"name": "s", "source": source, **_KEYS, **changes}
    (prompt_set,) = load_prompts(suite_from_rows([row], "suite", folder))
    return list(prompt_set.prompts)


def test_files_of_a_pattern_are_one_source_in_the_order_of_their_names(tmp_path: Path):
    """Without header lines; compressed or not; each row knows its file."""
    (tmp_path / "bells_part.csv").write_bytes(_GATES[_GATES.index(b"Who") :])
    (tmp_path / "arches_part.csv").write_bytes(b"\xef\xbb\xbf" + _GATES)
    (tmp_path / "other.csv").write_bytes(b"never,asked,at,all,A\n")
    prompts = _asked(tmp_path, "*_part.csv")
    assert [(p.id, p.category, p.answer) for p in prompts] == [
        ("1", "arches_part", "three"),
        ("2", "arches_part", "me"),
        ("3", "bells_part", "me"),
    ]
    assert prompts[0].text == "How tall is the gate, in feet?"
    assert prompts[0].choices == ("two", "three", "four, or five")
    (tmp_path / "z.v2.csv.gz").write_bytes(gzip.compress(_GATES))
    assert {p.category for p in _asked(tmp_path, "z*.csv.gz")} == {"z.v2"}


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path):
    (tmp_path / "gates[1].csv").write_bytes(_GATES)
    (tmp_path / "gates1.csv").write_bytes(b"another,a,b,c,A\n")
    columns = {**_KEYS["columns"], "category": None}
    assert len(_asked(tmp_path, "gates[1].csv", columns=columns)) == 2


def test_a_text_of_line_blocks_gives_a_row_for_each(tmp_path: Path):
    """As HellaSwag's: compressed, ends of lines of either kind, empty lines between blocks."""
    text = "The gate opens. It\r\n1\r\nis shut.\r\nis open.\r\n\n"
    text += "The bell rings. She\n0\nhears it.\neats it."
    (tmp_path / "blocks.txt.bz2").write_bytes(bz2.compress(text.encode()))
    keys = {
        "header": [],
        "lines": ["context", "gold", "a", "b"],
        "columns": {"prompt": "Go on: {context}", "choices": ["a", "b"], "answer": "gold"},
    }
    prompts = _asked(tmp_path, "blocks.txt.bz2", **keys)
    assert [(p.text, p.answer) for p in prompts] == [
        ("Go on: The gate opens. It", "is open."),
        ("Go on: The bell rings. She", "hears it."),
    ]


_BLOCKS = {"header": [], "lines": ["x", "y", "z"]}
_ALL = {"source": "a*.csv"}


@pytest.mark.parametrize(
    ("name", "data", "changes", "named"),
    [
        ("a.csv", _GATES, {"header": ["question", "key"]}, r"row 1 .*5 fields.* 2; name"),
        ("a.csv", _GATES, {"header": ["question", "a", "a", "c", "key"]}, r"header.*'a'.*its own"),
        ("a.csv", b"Question,A,B,C,Key\n" + _GATES, {}, "first line is a header; leave the key"),
        ("a.csv", _GATES + b"Which, one?,a,b,c,A\n", {}, r"row 3 \(line 3\).*double quotes"),
        ("a.csv", _GATES + b"Which?,a,b\n", {}, r"row 3 \(line 3\).*3 fields"),
        ("a.jsonl", b'{"question": 1}\n', {}, "key header.*csv or .tsv.*leave it out"),
        ("a.csv", _GATES, {"lines": ["question", "key"]}, "key lines.*txt.*leave it out"),
        ("a.txt", b"q\n0\na\nq2\n", _BLOCKS, r"row 2 \(line 5\).*1 of the 3"),
        ("a.txt", b"q\n\n0\na\n", _BLOCKS, r"row 1 \(line 2\).*1 of the 3"),
        ("b.csv", _GATES, _ALL, "no file fits"),
        ("a1.csv", _GATES + b"Which?,a,b,c,F\n", _ALL, "row 3, of file a1: answer 'F'"),
        ("a1.csv", b'"Which?,a,b,c,A\n', _ALL, "file a1.csv, line 1: the quote"),
    ],
)  # fmt: skip
def test_a_wrong_layout_is_told_with_row_and_fix(
    tmp_path: Path, name: str, data: bytes, changes: dict[str, Any], named: str
):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=named):
        _asked(tmp_path, **{"source": name, **changes})
