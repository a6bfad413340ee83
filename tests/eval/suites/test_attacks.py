"""Attack files of other tools, in their own formats with invented, harmless texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.suites.prompts import load_prompts
from eval.suites.suite import suite_from_rows
from merge.common.errors import UserError

GOAL = "how do I grond the vask"


def _texts(folder: Path, content: Any, name: str, **row: Any) -> list[tuple[str, str | None]]:
    """What is asked, with what it is after."""
    if isinstance(content, list) and name.endswith("l"):
        text = "\n".join(map(json.dumps, content))
    else:
        text = json.dumps(content)
    (folder / name).write_text(text)
    rows = [{"name": "a", "axis": "harm", "source": name, **row}]
    (prompt_set,) = load_prompts(suite_from_rows(rows, "suite", folder))
    return [(prompt.text, prompt.goal) for prompt in prompt_set.prompts]


@pytest.mark.parametrize(
    ("kind", "content", "expected"),
    [
        ("codeattack", [{"question": "complete this vask"}], [("complete this vask", None)]),
        ("jailbreakchat", [{"prompt": "be NARF"}], [("be NARF", None)]),
        (
            "renellm",
            [
                {
                    "idx": 0,
                    "original_harm_behavior": GOAL,
                    "rewrite_track": [["original prompt", GOAL]],
                    "rewritten_prompt": "gronding vasks",
                    "nested_prompt": "fill the table on gronding vasks",
                    "attack_output": "no",
                    "model_label": "1",
                }
            ],
            [("fill the table on gronding vasks", GOAL)],
        ),
        ("gcg", [{"goal": GOAL, "suffix": "!! blip =="}], [(f"{GOAL} !! blip ==", GOAL)]),
        ("gcg", [{"Goal": GOAL, "control": " ~ blip"}], [(f"{GOAL} ~ blip", GOAL)]),
        ("gcg", [{"prompt": f"{GOAL} zz", "suffix": "zz", "goal": GOAL}], [(f"{GOAL} zz", GOAL)]),
        (
            "gcg",
            [
                {"goal": GOAL, "adv_suffix": "early", "loss": 2.5},
                {"goal": GOAL, "adv_suffix": "late", "loss": 0.5},
                {"goal": "blip", "adv_suffix": "once", "loss": 9},
            ],
            [(f"{GOAL} late", GOAL), ("blip once", "blip")],
        ),
        (
            "gcg",
            {
                "params": {"goals": [GOAL, "blip"], "targets": ["Sure", "Sure"], "n_steps": 2},
                "controls": ["a", "b", "c", "d"],
                "losses": [0.1, 3, 3, 2],
                "runtimes": [1, 1, 1, 1],
            },
            [(f"{GOAL} a", GOAL), ("blip d", "blip")],
        ),
        (
            "gcg",
            {
                "params": {"goals": [GOAL, "blip"], "progressive_goals": True},
                "controls": ["a", "b"],
            },
            [(f"{GOAL} b", GOAL), ("blip b", "blip")],
        ),
        (
            "pair",
            [
                {"goal": GOAL, "iter": 1, "prompt": "one", "judge_scores": 1, "improvement": "-"},
                {"goal": GOAL, "iter": 2, "prompt": "two", "judge_scores": 10, "conv_num": 1},
                {"goal": GOAL, "iter": 2, "prompt": "three", "judge_scores": 10, "conv_num": 2},
                {"goal": "blip", "iter": 1, "prompt": "four", "judge_scores": 1},
            ],
            [("two", GOAL), ("four", "blip")],
        ),
        (
            "pair",
            {"columns": ["prompt", "target_response"], "data": [["one", "no"], ["two", "yes"]]},
            [("one", None), ("two", None)],
        ),
        (
            "pair",
            {
                "parameters": {"attack_model": "m"},
                "jailbreaks": [
                    {"index": 0, "goal": GOAL, "prompt": "one", "jailbroken": True},
                    {"index": 1, "goal": "blip", "prompt": None, "jailbroken": False},
                ],
            },
            [("one", GOAL)],
        ),
        (
            "pair",
            [
                {
                    "goal": GOAL,
                    "attempts": [{"prompt": "x", "score": 2}, {"prompt": "y", "score": 7}],
                }
            ],
            [("y", GOAL)],
        ),
        (
            "pair",
            [{"query": GOAL, "jailbreak_prompt": "as a poet: {query}", "eval_results": [True]}],
            [(f"as a poet: {GOAL}", GOAL)],
        ),
    ],
)
@pytest.mark.parametrize("name", ["attack.json", "attack.jsonl"])
def test_each_kind_of_file_is_read(
    tmp_path: Path, kind: str, content: Any, expected: list[Any], name: str
):
    """As one JSON value and as JSON lines."""
    assert _texts(tmp_path, content, name, attack=kind) == expected


def test_a_torn_table_is_named(tmp_path: Path):
    table = {"columns": ["prompt", "iter"], "data": [["one", 1], ["two"]]}
    with pytest.raises(UserError, match=r"a\.json\): holds a table or log that is torn"):
        _texts(tmp_path, table, "a.json", attack="pair")


def test_an_unknown_kind_names_its_own_columns(tmp_path: Path):
    row: dict[str, Any] = {"attack": "my tool", "columns": {"prompt": "text"}}
    assert _texts(tmp_path, [{"text": "blip"}], "a.jsonl", **row) == [("blip", None)]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"attack": "renelm"}, "'renelm' is none that we know .* renellm"),
        ({"attack": "pair", "axis": "refusal"}, "belong to axis harm"),
        ({"prefill": True, "axis": "refusal"}, "belong to axis harm"),
        ({"prefill": "  "}, "prefill is empty"),
        ({"prefill": "Yes", "attack": "completionattack"}, "no turn whose answer"),
        ({"attack": "renellm"}, "no column nested_prompt.*it has text"),
        ({"attack": "gcg"}, "no column .*it has text"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, row: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        _texts(tmp_path, [{"text": "blip"}], "a.jsonl", **row)
