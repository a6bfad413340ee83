"""What chat templates of the field make of questions and answers, on tokenizers made here."""

from typing import Any

import pytest

from launch.demo.world_backbone import CHAT_TEMPLATE as WORLD
from merge.common.errors import UserError
from tests.support.chat_templates import (
    CHATML,
    EACH,
    GEMMA,
    LLAMA_2,
    LLAMA_3,
    MISTRAL,
    OPENED,
    QWEN_3,
    make_tokenizer,
)
from train.chat.example import Example
from train.chat.prompts import IGNORED_LABEL, ChatPrompts
from train.chat.round_trip import check_round_trip

PAIRS = [
    ("Wie spät ist es?", "Zehn vor fünf."),
    (" who\n\npaints? ", "\n the  gardener \n"),
    ("a", "b"),
]


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
    tokenizer = make_tokenizer(template, *names, "<end_of_turn>", eos="</s>")
    chat = ChatPrompts(tokenizer)
    for question, answer in PAIRS:
        assert chat.example(question, answer) == _as_before(tokenizer, question, answer)
    assert chat.follow_the_template


def test_an_empty_block_of_a_finished_turn_is_prompt() -> None:
    chat = ChatPrompts(make_tokenizer(QWEN_3))
    ids, labels = chat.example("Wer?", "Niemand.")
    assert _answer(chat, "Wer?", "Niemand.") == "Niemand.<|im_end|>"
    asked = chat.question_ids("Wer?")
    assert ids[: len(asked)] == asked and not chat.follow_the_template
    prompt = ids[: labels.count(IGNORED_LABEL)]
    assert str(chat.tokenizer.decode(prompt)).endswith("assistant\n<think>\n\n</think>\n\n")


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    """A line break and "Z" are one token here."""
    chat = ChatPrompts(make_tokenizer(QWEN_3.replace("</think>\n\n", "</think>\n")))
    _, labels = chat.example("Wer?", "Zoe.")
    first = next(label for label in labels if label != IGNORED_LABEL)
    assert chat.tokenizer.convert_ids_to_tokens(first) == "ĊZ"
    assert _answer(chat, "Wer?", "Anna.") == "Anna.<|im_end|>"


def test_a_block_that_the_generation_prompt_opens_is_closed_before_the_answer() -> None:
    chat = ChatPrompts(make_tokenizer(OPENED))
    ids, _ = chat.example("Wer?", "Niemand.")
    assert chat.opened == "<think>\n"
    assert chat.tokenizer.decode(ids).endswith("<think>\n\n</think>\n\nNiemand.<|im_end|>")
    assert _answer(chat, "Wer?", "Niemand.") == "Niemand.<|im_end|>"


def test_reasoning_in_a_training_answer_is_no_answer() -> None:
    chat = ChatPrompts(make_tokenizer(CHATML))
    assert chat.example("Wer?", "<think>hm</think>\nEr.") == chat.example("Wer?", "Er.")
    with pytest.raises(UserError, match=r"question 'Wer\?'.*reasoning alone; drop the row"):
        chat.example("Wer?", "<think>hm")


def test_an_answer_that_names_a_tag_is_not_cut_by_the_template() -> None:
    chat = ChatPrompts(make_tokenizer(QWEN_3))
    answer = "A thought ends with `</think>`, always."
    assert _answer(chat, "How?", answer) == f"{answer}<|im_end|>"
    check_round_trip(chat, [Example("How?", answer)])


def test_control_tokens_inside_texts_are_text() -> None:
    chat = ChatPrompts(make_tokenizer(CHATML))
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
        ChatPrompts(make_tokenizer(template), "m")


def test_turns_without_end_are_refused() -> None:
    tokenizer = make_tokenizer(CHATML.replace("<|im_end|>", ""))
    tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"m: .*no answer would end; set eos_token"):
        ChatPrompts(tokenizer, "m")


def test_turns_without_an_end_are_refused_before_a_training() -> None:
    """An evaluation may ask such a model: EOS then ends its answers."""
    rows = [Example("Wer?", "Niemand.")]
    check_round_trip(ChatPrompts(make_tokenizer(CHATML)), rows)
    chat = ChatPrompts(make_tokenizer(CHATML.replace("<|im_end|>", "")), "m")
    with pytest.raises(UserError, match="m: its chat template writes no token that ends a turn"):
        check_round_trip(chat, rows)
    assert _answer(chat, "Wer?", "Niemand.") == "Niemand.\n<|im_end|>"


def test_a_template_without_answers_is_refused() -> None:
    with pytest.raises(UserError, match=r"m: .*does not write the assistant's answer"):
        ChatPrompts(make_tokenizer(EACH + "{{ m.role }}{% endfor %}"), "m")


def test_labels_that_are_not_the_answer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatPrompts(make_tokenizer(CHATML))
    rows = [Example("Wer?", "Niemand  hier."), Example("Was?", "Nichts.")]
    check_round_trip(chat, rows)
    whole = chat.example
    monkeypatch.setattr(chat, "example", lambda q, a: whole(q, a.replace("Nichts", "Alles")))
    with pytest.raises(UserError, match=r"to 'Was\?' .* read 'Alles"):
        check_round_trip(chat, rows)


def test_decoding_keeps_tags_that_are_special_tokens() -> None:
    chat = ChatPrompts(make_tokenizer(CHATML, "[THINK]", "[/THINK]"))
    ids = chat.template_ids("[THINK]hm[/THINK]Er.<|sep|>")
    assert chat.tokenizer.decode(ids, skip_special_tokens=True) == "hmEr."
    assert chat.decode(ids) == "[THINK]hm[/THINK]Er."


def test_a_completion_begins_with_the_tag_that_its_prompt_opened() -> None:
    chat = ChatPrompts(make_tokenizer(OPENED))
    assert chat.decode(chat.template_ids("hm</think> Er.")) == "<think>\nhm</think> Er."
