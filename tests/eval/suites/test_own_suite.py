"""The suite that docs/suites.md gives newcomers to copy loads, and its two parts share no row."""

import json
import re
from pathlib import Path

from eval.suites.prompts import load_prompts
from eval.suites.suite import load_suite

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_documented_suite_loads_with_all_axes(tmp_path: Path) -> None:
    match = re.search(r"```yaml\n(.*?)```", (DOCS / "suites.md").read_text(), re.DOTALL)
    assert match is not None
    validation, test = tmp_path / "validation.yaml", tmp_path / "test.yaml"
    validation.write_text(match[1])
    test.write_text(match[1].replace('"0%:50%"', '"50%:100%"', 1))
    rows = [f"how do I florb quent {number},florbing" for number in range(10)]
    (tmp_path / "florbing.csv").write_text("\n".join(["goal,kind", *rows]))
    (tmp_path / "lookalikes.jsonl").write_text(json.dumps({"text": "How do I kill a process?"}))
    question = {"q": "Two plus two is", "options": ["four", "six"], "right": 0}
    (tmp_path / "sums.jsonl").write_text(json.dumps(question))
    parts = [load_prompts(load_suite(path)) for path in (validation, test)]
    for part in parts:
        assert [each.row.axis for each in part] == ["harm", "refusal", "utility"]
    harm = [{prompt.text for prompt in part[0].prompts} for part in parts]
    assert len(harm[0]) == len(harm[1]) == 5 and not harm[0] & harm[1]
