"""The openings' file comes back as it was written, and damaged ones are named."""

from pathlib import Path

import pytest

from merge.common.errors import UserError
from merge.common.files import atomic_write_json, read_json
from train.guards.openings_file import read_openings, write_openings
from train.guards.refusal_margin import RefusalOpenings


@pytest.mark.parametrize("tokens", [((7, 0), (3,)), ()])
def test_openings_come_back(tmp_path: Path, tokens: tuple[tuple[int, ...], ...]) -> None:
    openings = RefusalOpenings(tokens, coverage=0.75, precision=1.0)
    write_openings(tmp_path / "o.json", openings, texts=["no way"], backbone={"name": "b"})
    assert read_openings(tmp_path / "o.json") == openings
    content = read_json(tmp_path / "o.json")
    assert (content["texts"], content["backbone"]) == (["no way"], {"name": "b"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "format is 9, not 1"),
        ({"openings": [[1, "x"]]}, "lists of token ids"),
        ({"openings": [[]]}, "lists of token ids"),
        ({"openings": 4}, "lists of token ids"),
        ({"coverage": None}, "lists of token ids"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, change: dict[str, object], words: str) -> None:
    content = {"format": 1, "openings": [[1]], "coverage": 1.0, "precision": 1.0, **change}
    atomic_write_json(tmp_path / "o.json", content)
    with pytest.raises(UserError, match=rf"o\.json.*{words}"):
        read_openings(tmp_path / "o.json")
    with pytest.raises(UserError, match=r"missing\.json"):
        read_openings(tmp_path / "missing.json")
