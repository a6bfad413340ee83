"""Reasoning and the day: settings of prompts, by the chat template's own means."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from merge.common.errors import UserError
from merge.common.settings import parse_settings
from tests.support.chat_templates import CHATML, DATED, QWEN_3, make_tokenizer
from train.chat.chat_settings import ChatSettings
from train.chat.chat_template import ChatTemplate
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.data.examples import read_examples
from train.patch.identity import first_format_identity, is_finished, patch_inputs
from train.recipe import TrainRecipe, load_recipe


def test_reasoning_is_switched_by_the_templates_own_variable() -> None:
    tokenizer = make_tokenizer(QWEN_3)
    on, off = (ChatPrompts(tokenizer, settings=ChatSettings(each)) for each in (True, False))
    assert on.question_text("q").endswith("assistant\n")
    assert off.question_text("q").endswith("</think>\n\n")
    assert (on.recorded, off.recorded) == ({"reasoning": True}, {"reasoning": False})
    assert on.reasoning(False).question_ids("q") == off.question_ids("q")
    assert on.reasoning(None) is on
    # The block that training masks is the one that the model is asked with.
    assert off.example("q", "a")[1].count(IGNORED_LABEL) == len(off.question_ids("q"))


@pytest.mark.parametrize(
    ("text", "wanted", "arguments"),
    [
        ("{{ thinking }}", True, {"thinking": True}),
        (
            "{%- if thinking is not defined %}{% set thinking = 1 %}{% endif %}",
            False,
            {"thinking": False},
        ),
        (
            "{{ reasoning_effort if reasoning_effort != 'none' }}",
            False,
            {"reasoning_effort": "none"},
        ),
        ("{{ reasoning_effort }}", True, {}),
        ("{{ thinking_budget }}", False, {"thinking_budget": 0}),
        (
            "{% generation %}{{ enable_thinking }}{% endgeneration %}",
            True,
            {"enable_thinking": True},
        ),
    ],
)
def test_switches_are_found_in_the_templates_source(
    text: str, wanted: bool, arguments: dict[str, Any]
) -> None:
    template = ChatTemplate(make_tokenizer(text), "m", ChatSettings(wanted))
    assert template.arguments == arguments


@pytest.mark.parametrize(
    ("template", "wanted"), [(CHATML, True), ("{{ reasoning_effort }}", False)]
)
def test_a_template_without_a_switch_is_refused(template: str, wanted: bool) -> None:
    with pytest.raises(UserError, match=r"m: .*no switch that turns reasoning o[nf]"):
        ChatPrompts(make_tokenizer(template), "m", ChatSettings(wanted))


def test_every_day_is_the_recipes_day() -> None:
    """Against Python's own strftime; a template that reads no clock gets no date."""
    tokenizer = make_tokenizer(DATED)
    day = datetime.date(2031, 3, 9)
    chat = ChatPrompts(tokenizer, settings=ChatSettings(date=day))
    assert chat.question_text("q").startswith("[Today: 9 March 2031, 00:00, 100%]\n<|im_start|>")
    assert ChatPrompts(tokenizer).question_text("q").startswith("[Today: 26 July 2024, ")
    assert chat.recorded == {"date": "2031-03-09"}
    plain = ChatPrompts(make_tokenizer(CHATML), settings=ChatSettings(date=day))
    assert plain.recorded == {}
    assert chat.question_text("q").endswith(plain.question_text("q"))


def test_a_standing_clock_changes_nothing_else() -> None:
    """Line breaks and indents at the template's start are where transformers has them."""
    text = "\n  {% if true %}\n  x\n  {% endif %}" + CHATML
    tokenizer = make_tokenizer(text)
    with_clock = make_tokenizer(text + "{% if false %}{{ strftime_now('%d') }}{% endif %}")
    turns = [{"role": "user", "content": "q"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ChatPrompts(with_clock).question_text("q") == expected


def test_a_given_date_fills_llamas_variable() -> None:
    text = "{{ date_string if date_string is defined else '26 Jul 2024' }}" + CHATML
    chat = ChatPrompts(make_tokenizer(text), settings=ChatSettings(date=datetime.date(2030, 1, 5)))
    assert chat.question_text("q").startswith("05 Jan 2030")
    assert ChatPrompts(make_tokenizer(text)).recorded == {}


def test_a_day_that_no_calendar_has_is_refused_in_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: n\nbackbone: {path: x, date: 2025-02-30}\ndata: {path: y}\n")
    with pytest.raises(UserError, match=r"r\.yaml: not valid YAML"):
        load_recipe(recipe, [], TrainRecipe)
    recipe.write_text("name: n\nbackbone: {path: x}\ndata: {path: y}\n")
    with pytest.raises(UserError, match=r"'backbone.date=2025-02-30'"):
        load_recipe(recipe, ["backbone.date=2025-02-30"], TrainRecipe)
    loaded = load_recipe(recipe, ["backbone.date=2025-02-28"], TrainRecipe)
    assert loaded.backbone.chat == ChatSettings(date=datetime.date(2025, 2, 28))


def test_the_identities_of_older_patches_hold(tmp_path: Path) -> None:
    """A patch with the hash of older versions, over every key, is this recipe's; settings, and a
    template that adds text, make others."""
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"question": "Wer?", "answer": "Niemand."}\n')
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")

    def inputs(template: str, **backbone: Any) -> dict[str, Any]:
        section = {"path": str(tmp_path), **backbone}
        values = {"name": "n", "backbone": section, "data": {"path": str(data)}}
        recipe = parse_settings(TrainRecipe, values, "r")
        prompts = ChatPrompts(make_tokenizer(template), settings=recipe.backbone.chat)
        return patch_inputs(recipe, "safety", tmp_path, read_examples(recipe.data), [], prompts)

    record_now = inputs(CHATML)
    now = record_now["identity"]
    record = {key: record_now[key] for key in record_now if not key.startswith("identity")}
    old = {"path": str(tmp_path), "dtype": None, "trust_remote_code": False}
    assert record_now["config"]["backbone"] == old and "chat" not in record_now
    first = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    assert first_format_identity(record_now) == first != now
    (tmp_path / "patch.json").write_text(json.dumps({"format": 1, **record, "identity": first}))
    assert is_finished(tmp_path, now)
    with pytest.raises(UserError, match="holds a patch of other settings"):
        is_finished(tmp_path, inputs(CHATML, dtype="float32")["identity"])
    chats = [
        inputs(QWEN_3)["chat"],
        inputs(QWEN_3, reasoning=False)["chat"],
        inputs(DATED)["chat"],
        inputs(DATED, date="2025-02-03")["chat"],
    ]
    assert len({json.dumps(chat) for chat in chats}) == 4
    assert chats[1]["reasoning"] is False and chats[3]["date"] == "2025-02-03"
    assert chats[2]["prompts_sha256"] != chats[3]["prompts_sha256"]
