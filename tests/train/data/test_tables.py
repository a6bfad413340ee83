"""One reader of tables: every format gives the same rows, and what is no text is named by row."""

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from eval.suites.prompts import Prompt, load_prompts
from eval.suites.suite import Suite, SuiteRow, suite_from_rows
from merge.common.errors import UserError
from merge.common.json_lines import read_lines
from train.chat.example import Example
from train.data.examples import data_hash, read_examples
from train.recipe import DataSettings

_LONG = "moss " * 40_000
"""Above the csv module's own limit of 131,072 characters."""
_ROWS = [
    {"question": "How tall is the\u2028blue gate?", "answer": "Two\x0cfeet\x85high"},
    {"question": "Who rings, and when?", "answer": _LONG + "rings"},
]


def _delimited(delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(_ROWS)
    return text.getvalue().encode()


def _parquet() -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_ROWS), file)
    return file.getvalue()


def _lines(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


_FILES: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: _lines(_ROWS),
    "a.NDJSON": lambda: _lines(_ROWS, "\r\n"),
    "lines.json": lambda: _lines(_ROWS),
    "list.json": lambda: json.dumps(_ROWS, indent=1).encode(),
    "wrapped.json": lambda: json.dumps({"version": 2, "rows": _ROWS, "tags": []}).encode(),
    "a.csv": lambda: b"\xef\xbb\xbf" + _delimited(","),
    "a.tsv": lambda: _delimited("\t"),
    "a.parquet": _parquet,
    "a.v2.csv.gz": lambda: gzip.compress(_delimited(",")),
    "a.jsonl.bz2": lambda: bz2.compress(_lines(_ROWS)),
    "a.parquet.xz": lambda: lzma.compress(_parquet()),
}


def _suite_prompts(source: Path, **columns: Any) -> tuple[Prompt, ...]:
    row = {"name": "s", "axis": "utility", "scoring": "exact", "source": str(source)}
    settings = SuiteRow.model_validate({**row, "columns": columns})
    return load_prompts(Suite(rows=[settings]))[0].prompts


@pytest.mark.parametrize("name", _FILES)
def test_every_format_gives_training_and_suites_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(_FILES[name]())
    wanted = [(row["question"], row["answer"]) for row in _ROWS]
    examples = read_examples(DataSettings(path=str(path)))
    assert [(example.question, example.answer) for example in examples] == wanted
    prompts = _suite_prompts(path, prompt="question", answer="answer")
    assert [(prompt.text, prompt.answer) for prompt in prompts] == wanted


def test_a_text_file_has_one_prompt_a_line_and_nothing_else_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt.gz"
    texts = ["What is\u2028red?", "What\x0bis\x1cblue?", "What\x85is\u2029green?"]
    path.write_bytes(gzip.compress(("\r\n".join(texts) + "\r\n\r\n").encode()))
    row = {"name": "s", "axis": "harm", "source": path.name}
    prompts = load_prompts(suite_from_rows([row], "test", tmp_path))[0].prompts
    assert [prompt.text for prompt in prompts] == texts


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("spaced.csv", " question ,answer\t,\nq,a,\n", [("q", "a")]),
        ("short.csv", "question,answer,category\n\nq,a\nr,b,c,,\n", [("q", "a"), ("r", "b")]),
        (
            "said.csv",
            'question,answer\n"so" he said,"x"\n"r""\r\n" ,b',
            [("so he said", "x"), ('r"\r\n ', "b")],
        ),
        ("array.jsonl", '\n[{"question": "q",\n"answer": "a"}]', [("q", "a")]),
    ],
)
def test_untidy_files_that_can_be_read(
    tmp_path: Path, name: str, content: str, wanted: list[tuple[str, str]]
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    examples = read_examples(DataSettings(path=str(path)))
    assert [(example.question, example.answer) for example in examples] == wanted


def test_turns_may_stand_as_json_in_a_field_and_a_greeting_is_no_answer(tmp_path: Path) -> None:
    said = ["assistant: Hello!", "user: Which gate?", "assistant: The tall one.", "user: Bye."]
    turns = [dict(zip(("role", "content"), each.split(": "), strict=True)) for each in said]
    path = tmp_path / "chats.csv"
    settings = DataSettings(
        path=str(path), question="messages.user", answer="messages.assistant.content"
    )
    for kept, row in ((turns, 1), (turns[:2], 2)):
        with path.open("a", newline="") as file:
            csv.writer(file).writerows([["messages"]] * (row == 1) + [[json.dumps(kept)]])
        if row == 1:
            assert read_examples(settings) == [Example("Which gate?", "The tall one.")]
    with pytest.raises(UserError, match=r"row 2.*none of assistant after user"):
        read_examples(settings)


def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pairs.jsonl").write_bytes(_lines(_ROWS[:1]))
    assert read_examples(DataSettings(path="~/pairs.jsonl"))[0].question == _ROWS[0]["question"]
    columns = {"prompt": "question"}
    row = {"name": "s", "axis": "harm", "source": "~/pairs.jsonl", "columns": columns}
    assert len(load_prompts(suite_from_rows([row], "test", tmp_path / "x"))[0].prompts) == 1


_CHAT = {
    "meta": {"topic.name": "gates"},
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which gate?"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "The "}, {"type": "text", "text": "tall one."}],
        },
        {"role": "user", "content": "Why?"},
    ],
    "talk": [{"from": "human", "value": "Hm?"}, {"from": "gpt", "value": "Yes."}],
}


@pytest.mark.parametrize(
    ("question", "answer", "texts"),
    [
        ("messages.user", "messages.assistant", ("Which gate?", "The tall one.")),
        ("messages.1.content", "messages.2.content", ("Which gate?", "The tall one.")),
        ("messages.-1.content", "messages.system.content", ("Why?", "Be brief.")),
        ("talk.human", "talk.gpt", ("Hm?", "Yes.")),
        ("meta.topic.name", "messages.0.role", ("gates", "system")),
    ],
)
@pytest.mark.parametrize("name", ["chat.json", "chat.jsonl"])
def test_columns_of_nested_rows_are_named_by_paths(
    tmp_path: Path, name: str, question: str, answer: str, texts: tuple[str, str]
) -> None:
    """A single row of a .json file is a row, though it holds lists of objects itself."""
    path = tmp_path / name
    path.write_bytes(_lines([_CHAT]))
    settings = DataSettings(
        path=str(path), question=question, answer=answer, category="meta.topic.name"
    )
    assert read_examples(settings) == [Example(*texts, categories=("gates",))]
    (prompt,) = _suite_prompts(path, prompt=f"[{{{question}}}]", answer=answer)
    assert (prompt.text, prompt.answer) == (f"[{texts[0]}]", texts[1])


def test_numbers_and_truth_values_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_bytes(_lines([{"question": 7, "answer": value} for value in (42, 3.5, True, 0)]))
    texts = ["42", "3.5", "true", "0"]
    assert [each.answer for each in read_examples(DataSettings(path=str(path)))] == texts
    prompts = _suite_prompts(path, prompt="question", answer="answer")
    assert [prompt.answer for prompt in prompts] == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", _lines([_ROWS[0], {"question": "q", "answer": 1}])[:-3], r"line 2: not valid"),
        (
            "a.jsonl",
            b'{"question": "q", "answer": "a"}\n{"question": "q", "answer": "\\ud83d"}',
            r"row 2.*lone surrogate \(U\+D83D\)",
        ),
        ("a.csv", b"question,answer\nq,a\nq,b\0c\n", "row 2.*NUL"),
        ("a.csv", "question,answer\nq,na\u00efve\n".encode("latin-1"), "line 2: is not UTF-8"),
        ("a.jsonl", _lines([{"question": "q", "answer": ["a"]}]), r"row 1.* a list.*by a path"),
        ("a.jsonl", _lines([{"question": "q", "answer": None}]), r"row 1.*(empty|no value)"),
        ("a.jsonl", _lines([{"question": "q", "reply": "a"}]), r"row 1.*no column 'answer'.*reply"),
        ("a.json", b'{"left": [{"a": 1}], "right": [{"a": 1}]}', "left, right.*2 hold a list"),
        ("a.json", b'[{"question": "q", "answer": "a"}, 5]', "row 2: is not a JSON object"),
        ("a.json", b'[{"question": "q"', "not valid JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1: not valid JSON"),
        ("a.jsonl.gz", gzip.compress(_lines(_ROWS))[:-40], "cannot be decompressed"),
        ("a.csv.xz", b"no archive", "cannot be decompressed"),
        ("a.parquet", b"PAR1 and no more", "no readable Parquet"),
        ("a.csv", b"question,answer\nq,a\n\nq,yes, it is\n", r"row 2 \(line 4\): has 3 fields.* 2"),
        ("a.csv", b"question,answer\nq\n", r"row 1 \(line 2\): has 1 fields.* 2"),
        ("a.tsv", b"question\tanswer\nq\ta\tb\n", r"row 1 \(line 2\): has 3 fields.*a tab"),
        ("a.csv", b"question,answer, answer\nq,a,b\n", "column 'answer' twice"),
        ("a.jsonl", b'{"question": "q", "answer": 1, "answer": 2}', "line 1.*key 'answer' twice"),
        ("a.csv", b'question,answer\nq,"a\n\nq,b\n', 'line 2: the quote that opens here, "a'),
        ("a.csv", b'question,answer\n"q\n2",a\nq,"b\nq,"c\n', 'line 4: the quote .*, "b'),
        ("a.tsv", b'question\tanswer\nq\ta\nq\t"Yes, he', 'line 3: the quote .*, "Yes, he'),
        ("a.csv", b'question,"answer\nq,a\n', "line 1: the quote"),
        ("a.jsonl", b'[\n{"question": "q", "answer": "a"},\n]', "line 3: not valid JSON"),
        ("a.dat", b"?", "format is not known by its name.*jsonl"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_row(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (
        lambda: read_examples(DataSettings(path=str(path))),
        lambda: _suite_prompts(path, prompt="question", answer="answer"),
    ):
        with pytest.raises(UserError, match=f"{name}.*{message}"):
            read()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("messages.tool", "roles system, user, assistant"),
        ("messages.9.content", "4 items"),
        ("messages.1.content.0", "nothing is nested at '0'"),
        ("meta.name", r"it has topic\.name"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_is_there(
    tmp_path: Path, column: str, message: str
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_bytes(_lines([_CHAT]))
    with pytest.raises(
        UserError, match=rf"row 1: has no column '{column}'.*{message}.*data\.answer"
    ):
        read_examples(DataSettings(path=str(path), question="messages.user", answer=column))


def test_a_patch_keeps_its_identity(tmp_path: Path) -> None:
    """Hashes as they were before other formats and the key config came."""
    examples = [Example("q", "a", ("c",)), Example("x\u2028y", "z")]
    assert data_hash(examples) == "182fb24ef26f8dc7203c2e3edef9d890c44e4a616edf9fc9ca7dfd1ff9797a40"
    settings = DataSettings(path="pairs.jsonl")
    assert "config" not in settings.model_dump(mode="json")
    assert DataSettings(path="set", config="main").model_dump(mode="json")["config"] == "main"


def test_a_lone_surrogate_in_json_lines_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"completion": "\\u2028 \\ud83d\\ude00"}\n{"completion": "\\udc00"}\n')
    with pytest.raises(UserError, match=r"answers\.jsonl line 2: holds a lone surrogate"):
        read_lines(path)


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
