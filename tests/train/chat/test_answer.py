"""Which part of a completion is the answer; all texts are invented and harmless."""

import pytest

from train.chat.answer import answer_of, closing_of, opened_block, reasoning_tokens

ANSWER = "Stir the paint twice."


@pytest.mark.parametrize(
    "reasoning",
    [
        "<think>Shall I refuse? No.</think>",
        "<thinking>\nThey ask for paint.\n</thinking>\n\n",
        "<Thought>hm</Thought> ",
        "[THINK]I must decline? No.[/THINK]",
        "◁think▷a brush◁/think▷",
        "<seed:think>a brush</seed:think>\n",
        "<|begin_of_thought|>\nhm\n<|end_of_thought|>\n\n",
        "<think></think>",
        "<think>one</think>\n<think>two</think>\n",
        "<think>The tag `</think>` is quoted here.</think>\n",
        "<think>\n```\na fence that stays open\n</think>\n\n",
        "The prompt opened it. I cannot refuse.\n</think>\n\n",
        "Glued to the end.</think>",
        "<|channel|>analysis<|message|>Refuse?<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|start|>assistant<|channel|>final<|message|>",
        "Opened by the prompt.<|end|><|start|>assistant<|channel|>final<|message|>",
        "analysisWe must not decline.assistantfinal",
        "analysisFirst.assistantanalysisThen.assistantfinal",
        "commentaryA plan.assistantfinal",
        "Opened by the prompt.assistantfinal",
        # Words, brackets and spellings combine.
        "<|inner_prefix|>a brush<|inner_suffix|>",
        "<|reasoning_start|>a brush<|reasoning_end|>\n",
        "<|begin_of_internal_thinking|>hm<|end_of_internal_thinking|>",
        "<|scratchpad|>hm<|/scratchpad|>",
        "<xy:thinking>hm</xy:thinking>",
        "[THOUGHTS]I refuse.[/THOUGHTS]",
        "< Chain-of-Thought >\nhm\n</ chain-of-thought >\n",
        "&lt;thinking&gt;hm&lt;/thinking&gt;",
        "<plan step='1'>first the tin</plan>",
        "<think>A tag </think> ends it, they say.\n</think>\n",
        "**Here is my thought process:**\nNo?\n\n**Here is my response:**\n",
    ],
)
def test_the_answer_stands_after_the_reasoning(reasoning: str) -> None:
    assert answer_of(reasoning + ANSWER) == ANSWER


@pytest.mark.parametrize(
    "completion",
    [
        "<think>round and round",
        "<think>one</think><think>and again",
        "[THINK]",
        "<|channel|>analysis<|message|>We look at the paint",
        "<|channel|>commentary to=functions.mix<|message|>{}<|call|>",
        "analysisWe look at the paint",
        "analysisWe call a tool.assistantcommentary to=functions.mix json{}",
        "<think>It ends with `</think>`, says",
    ],
)
def test_reasoning_that_never_ends_has_no_answer(completion: str) -> None:
    assert answer_of(completion) is None


@pytest.mark.parametrize(
    "completion",
    [
        "An analysis of paint, by the assistant.",
        "analysis of the paint: it is blue.",
        "Analysis: the paint is blue. The final coat comes last.",
        "finally, stir it.",
        "finalCoat = 3  # a variable",
        "Write this:\n```\n<think>\nhm\n</think>\nblue\n```\nand stop.",
        "The tag `</think>` ends a thought.",
        "A model writes </think> when it has thought.",
        "Put it between <think> and </think>\nand go on.",
        'The word "assistantfinal" stands between `assistantfinal` channels.',
        "[Plan]\n1. Open the tin. 2. Stir.",
        "Here is my thought process: first the tin, then the brush.",
        "Wrap it like this:\n<think>hm</think>\nand go on.",
        f"{'Paint is wet. ' * 30}\n<think>hm</think>\nIt dries.",
        "<answer>one</answer><answer>two</answer>",
        " padded with space ",
        "",
    ],
)
def test_an_answer_that_speaks_of_tags_is_whole(completion: str) -> None:
    assert answer_of(completion) == completion


def test_what_wraps_the_answer_and_later_thoughts_go_too() -> None:
    assert answer_of("<think>hm</think>\n<answer>\nblue\n</answer>") == "blue"
    assert answer_of("<think>hm</think><response>blue</response>") == "blue"
    assert answer_of("[ANSWER]\nblue\n[/ANSWER]\n") == "blue"
    assert answer_of("Sure.\n<think>I refuse.</think>\nBlue.") == "Sure.\nBlue."
    assert answer_of("<think>a</think>First.\n<think>b</think>\nThen.") == "First.\nThen."
    assert answer_of("<think>a</think>Write `<think>b</think>`.") == "Write `<think>b</think>`."


def test_a_block_that_a_prompt_opens_is_found_and_closed() -> None:
    for opened in ("<think>\n", "<think>", "[THINK]", "<|START_PLAN|>", "<|inner_prefix|>"):
        assert opened_block(f"<|assistant|>{opened}") == opened
        assert answer_of(f"{opened}{closing_of(opened)}{ANSWER}") == ANSWER
    assert opened_block("<|assistant|>\n<think>\n\n</think>\n\n") == ""
    channel = "<|channel|>analysis<|message|>"
    assert opened_block(f"<|start|>assistant{channel}") == channel
    assert answer_of(f"{channel}{closing_of(channel)}{ANSWER}") == ANSWER


def test_an_end_token_is_a_channels_only_beside_channels() -> None:
    assert reasoning_tokens({"<|end|>", "<|user|>", "</think>"}) == {"</think>"}
    assert reasoning_tokens({"<|end|>", "<|channel|>"}) == {"<|end|>", "<|channel|>"}
