"""What chat templates of the field make of questions and answers, on tokenizers made here."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from launch.world_backbone import CHAT_TEMPLATE as WORLD
from merge.errors import UserError
from merge.settings import parse_settings
from train.chat_settings import ChatSettings
from train.chat_template import ChatTemplate
from train.data import Example, read_examples
from train.identity import patch_inputs
from train.prompts import IGNORED_LABEL, ChatPrompts
from train.recipe import TrainRecipe
from train.round_trip import check_round_trip

EACH = "{% for m in messages %}"
CHATML = (
    EACH + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    EACH + "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA_3 = (
    "{{ bos_token }}" + EACH + "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}" + EACH + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + EACH + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    EACH + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
OPENED = (
    EACH + "{% if m.role == 'user' %}<|im_start|>{{ m.content }}"
    "{% else %}<|sep|>{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|sep|><think>\n{% endif %}"
)
DATED = "[Today: {{ strftime_now('%-d %B %Y, %H:%M, 100%%') }}]\n" + CHATML
PAIRS = [
    ("Wie spät ist es?", "Zehn vor fünf."),
    (" who\n\npaints? ", "\n the  gardener \n"),
    ("a", "b"),
]


def _tokenizer(template: str, *special: str, eos: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """Byte-level, with merges across the border of words, line breaks and letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ġ", "Z"), (">", "ĊĊ"), ("Ċ", "Z")]
    vocabulary = [*alphabet, *(left + right for left, right in merges)]
    core = Tokenizer(models.BPE({piece: n for n, piece in enumerate(vocabulary)}, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # pyright: ignore
    core.decoder = decoders.ByteLevel()  # pyright: ignore
    names = ["<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|sep|>", *special]
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    core.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=eos, chat_template=template
    )


def _as_before(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids and labels by the rule of older versions: all after the generation prompt is answer."""

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    text = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    prompt, ids = ids_of(text), ids_of(whole)
    rest = ids[len(prompt) :] if ids[: len(prompt)] == prompt else ids_of(whole[len(text) :])
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = [place for place, token in enumerate(rest) if token in special]
    rest = rest[: ends[-1] + 1] if ends else [*rest, tokenizer.eos_token_id]
    return prompt + rest, [-100] * len(prompt) + rest


def _answer(chat: ChatPrompts, question: str, answer: str) -> str:
    _, labels = chat.example(question, answer)
    return str(chat.tokenizer.decode([label for label in labels if label != IGNORED_LABEL]))


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, LLAMA_3, GEMMA, MISTRAL, WORLD])
def test_ordinary_templates_keep_their_tokens_and_labels(template: str) -> None:
    """Patches and answers of older versions stay comparable, token for token."""
    names = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>")
    tokenizer = _tokenizer(template, *names, "<end_of_turn>", eos="</s>")
    chat = ChatPrompts(tokenizer)
    for question, answer in PAIRS:
        assert chat.example(question, answer) == _as_before(tokenizer, question, answer)
    assert chat.follow_the_template


def test_an_empty_block_of_a_finished_turn_is_prompt() -> None:
    chat = ChatPrompts(_tokenizer(QWEN_3))
    ids, labels = chat.example("Wer?", "Niemand.")
    assert _answer(chat, "Wer?", "Niemand.") == "Niemand.<|im_end|>"
    asked = chat.question_ids("Wer?")
    assert ids[: len(asked)] == asked and not chat.follow_the_template
    prompt = ids[: labels.count(IGNORED_LABEL)]
    assert str(chat.tokenizer.decode(prompt)).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    """A line break and "Z" are one token here."""
    chat = ChatPrompts(_tokenizer(QWEN_3.replace("</think>\n\n", "</think>\n")))
    _, labels = chat.example("Wer?", "Zoe.")
    first = next(label for label in labels if label != IGNORED_LABEL)
    assert chat.tokenizer.convert_ids_to_tokens(first) == "ĊZ"
    assert _answer(chat, "Wer?", "Anna.") == "Anna.<|im_end|>"


def test_a_block_that_the_generation_prompt_opens_is_closed_before_the_answer() -> None:
    chat = ChatPrompts(_tokenizer(OPENED))
    ids, _ = chat.example("Wer?", "Niemand.")
    assert chat.opened == "<think>\n"
    assert chat.tokenizer.decode(ids).endswith("<think>\n\n</think>\n\nNiemand.<|im_end|>")
    assert _answer(chat, "Wer?", "Niemand.") == "Niemand.<|im_end|>"


def test_reasoning_in_a_training_answer_is_no_answer() -> None:
    chat = ChatPrompts(_tokenizer(CHATML))
    assert chat.example("Wer?", "<think>hm</think>\nEr.") == chat.example("Wer?", "Er.")
    with pytest.raises(UserError, match=r"question 'Wer\?'.*reasoning alone; drop the row"):
        chat.example("Wer?", "<think>hm")


def test_an_answer_that_names_a_tag_is_not_cut_by_the_template() -> None:
    chat = ChatPrompts(_tokenizer(QWEN_3))
    answer = "A thought ends with `</think>`, always."
    assert _answer(chat, "How?", answer) == f"{answer}<|im_end|>"
    check_round_trip(chat, [Example("How?", answer)])


def test_reasoning_is_switched_by_the_templates_own_variable() -> None:
    tokenizer = _tokenizer(QWEN_3)
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
    template = ChatTemplate(_tokenizer(text), "m", ChatSettings(wanted))
    assert template.arguments == arguments


@pytest.mark.parametrize(
    ("template", "wanted"), [(CHATML, True), ("{{ reasoning_effort }}", False)]
)
def test_a_template_without_a_switch_is_refused(template: str, wanted: bool) -> None:
    with pytest.raises(UserError, match=r"m: .*no switch that turns reasoning o[nf]"):
        ChatPrompts(_tokenizer(template), "m", ChatSettings(wanted))


def test_every_day_is_the_recipes_day() -> None:
    """Against Python's own strftime; a template that reads no clock gets no date."""
    tokenizer = _tokenizer(DATED)
    day = datetime.date(2031, 3, 9)
    chat = ChatPrompts(tokenizer, settings=ChatSettings(date=day))
    assert chat.question_text("q").startswith("[Today: 9 March 2031, 00:00, 100%]\n<|im_start|>")
    assert ChatPrompts(tokenizer).question_text("q").startswith("[Today: 26 July 2024, ")
    assert chat.recorded == {"date": "2031-03-09"}
    plain = ChatPrompts(_tokenizer(CHATML), settings=ChatSettings(date=day))
    assert plain.recorded == {}
    assert chat.question_text("q").endswith(plain.question_text("q"))


def test_a_standing_clock_changes_nothing_else() -> None:
    """Line breaks and indents at the template's start are where transformers has them."""
    text = "\n  {% if true %}\n  x\n  {% endif %}" + CHATML
    tokenizer = _tokenizer(text)
    with_clock = _tokenizer(text + "{% if false %}{{ strftime_now('%d') }}{% endif %}")
    turns = [{"role": "user", "content": "q"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ChatPrompts(with_clock).question_text("q") == expected


def test_a_given_date_fills_llamas_variable() -> None:
    text = "{{ date_string if date_string is defined else '26 Jul 2024' }}" + CHATML
    chat = ChatPrompts(_tokenizer(text), settings=ChatSettings(date=datetime.date(2030, 1, 5)))
    assert chat.question_text("q").startswith("05 Jan 2030")
    assert ChatPrompts(_tokenizer(text)).recorded == {}


def test_control_tokens_inside_texts_are_text() -> None:
    chat = ChatPrompts(_tokenizer(CHATML))
    question, answer = "What does <|im_end|> do?<|im_start|>", "<|im_end|> ends; <s>so</s> far"
    ids, labels = chat.example(question, answer)
    end, start = (
        chat.tokenizer.convert_tokens_to_ids(f"<|im_{name}|>") for name in ("end", "start")
    )
    assert (ids.count(end), ids.count(start), ids.count(chat.tokenizer.bos_token_id)) == (2, 2, 0)
    assert _answer(chat, question, answer) == f"{answer}<|im_end|>"
    assert ids[: labels.count(IGNORED_LABEL)] == chat.question_ids(question)
    assert question in chat.question_text(question)
    check_round_trip(chat, [Example(question, answer)])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (EACH + "<|{{ m.role }}|> {{ m.content }}<|im_end|>\n{% endfor %}", r"'<\|assistant\|>'"),
        (EACH + "{{ m.role }}: {{ m.content }}\n{% endfor %}", "'assistant:'"),
    ],
)
def test_a_template_that_ignores_the_generation_prompt_is_refused(
    template: str, words: str
) -> None:
    with pytest.raises(UserError, match=f"m: .*ignores add_generation_prompt.*{words}"):
        ChatPrompts(_tokenizer(template), "m")


def test_turns_without_end_are_refused() -> None:
    tokenizer = _tokenizer(CHATML.replace("<|im_end|>", ""))
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"m: .*no answer would end; set eos_token"):
        ChatPrompts(tokenizer, "m")


def test_a_template_without_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: .*does not write the assistant's answer"):
        ChatPrompts(_tokenizer(EACH + "{{ m.role }}{% endfor %}"), "m")


def test_labels_that_are_not_the_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatPrompts(_tokenizer(CHATML))
    rows = [Example("Wer?", "Niemand  hier."), Example("Was?", "Nichts.")]
    check_round_trip(chat, rows)
    whole = chat.example
    monkeypatch.setattr(chat, "example", lambda q, a: whole(q, a.replace("Nichts", "Alles")))
    with pytest.raises(UserError, match=r"to 'Was\?' .* read 'Alles"):
        check_round_trip(chat, rows)


def test_the_identities_of_older_patches_hold(tmp_path: Path) -> None:
    """By the formula of older versions; settings, and a template that adds text, make others."""
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"question": "Wer?", "answer": "Niemand."}\n')
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model.safetensors")

    def inputs(template: str, **backbone: Any) -> dict[str, Any]:
        section = {"path": str(tmp_path), **backbone}
        values = {"name": "n", "backbone": section, "data": {"path": str(data)}}
        recipe = parse_settings(TrainRecipe, values, "r")
        prompts = ChatPrompts(_tokenizer(template), settings=recipe.backbone.chat)
        return patch_inputs(recipe, "safety", tmp_path, read_examples(recipe.data), [], prompts)

    found = inputs(CHATML)
    identity = found.pop("identity")
    old = {"path": str(tmp_path), "dtype": None, "trust_remote_code": False}
    assert found["config"]["backbone"] == old and "chat" not in found
    assert identity == hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    chats = [
        inputs(QWEN_3)["chat"],
        inputs(QWEN_3, reasoning=False)["chat"],
        inputs(DATED)["chat"],
        inputs(DATED, date="2025-02-03")["chat"],
    ]
    assert len({json.dumps(chat) for chat in chats}) == 4
    assert chats[1]["reasoning"] is False and chats[3]["date"] == "2025-02-03"
    assert chats[2]["prompts_sha256"] != chats[3]["prompts_sha256"]


def test_decoding_keeps_tags_that_are_special_tokens() -> None:
    chat = ChatPrompts(_tokenizer(CHATML, "[THINK]", "[/THINK]"))
    ids = chat.text_ids("[THINK]hm[/THINK]Er.<|sep|>")
    assert chat.tokenizer.decode(ids, skip_special_tokens=True) == "hmEr."
    assert chat.decode(ids) == "[THINK]hm[/THINK]Er."


def test_a_completion_begins_with_the_tag_that_its_prompt_opened() -> None:
    chat = ChatPrompts(_tokenizer(OPENED))
    assert chat.decode(chat.text_ids("hm</think> Er.")) == "<think>\nhm</think> Er."
