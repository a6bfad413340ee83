"""Which part of a completion is the answer: what stands after the model's reasoning.

Judges, scores, harvest, MT-Bench and the labels of training all ask here (issue 13), so that a
thought about refusing is no refusal, and a refusal after a thought is one. Known are blocks between
two tags (``train.chat.reasoning_tags``), Granite's phrases for tags, and the channels of harmony
(gpt-oss), as they are written and as decoding without special tokens leaves them
("analysis...assistantfinal...").

A completion reasons if it begins with an opening tag or a channel, if it holds a closing tag
without an opening one, because the prompt opened the block, or if a whole block follows a short
preamble. An answer may speak of tags, in code or in a sentence, and loses nothing.
"""

import re

from train.chat.reasoning_tags import (
    CLOSING,
    OPENING,
    closes,
    closing_of_tag,
    is_sure,
    is_tag_token,
    unwrapped,
)

_PREAMBLE = 200
"""Characters that may stand before a block that is not at the front ("Sure.")."""

# Granite 3.2 writes phrases for tags.
_IS = r"(?: is|'s|\u2019s)"
_PHRASES = re.compile(
    rf"\W{{0,4}}here{_IS} my thought process:.*?\bhere{_IS} my response:[*_]*",
    re.IGNORECASE | re.DOTALL,
)

_CHANNEL_TOKENS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>")

_CHANNELLED = re.compile(r"\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start|channel)\|>")
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final[^<]*<\|message\|>")
_ANALYSIS_OPENED = re.compile(r"<\|channel\|>\s*(?:analysis|commentary)[^<]*<\|message\|>\s*$")
# Without special tokens the channels' names stand glued to the texts.
_BARE_ANALYSIS = re.compile(r"(?:analysis|commentary)(?=[^\s.,:;!?/)\]'\u2019\-])")
_BARE_FINAL = re.compile(r"assistant[ \n]?final")
_GLUED_FINAL = re.compile(r"(?<=[^\s`])assistantfinal(?=[^\s`\"'.,)])")
_ONLY_FINAL = re.compile(r"final(?=(?:I|[A-Z][a-z]+)\b(?:['\u2019]|[,!.:]? [a-zA-Z0-9]))")


def answer_of(completion: str) -> str | None:
    """The answer in a completion; ``None`` where its reasoning never ends.

    A completion without reasoning comes back as it is, any other without space at its edges.
    """
    text = completion.lstrip()
    if _CHANNELLED.match(text) or _outside_code(_FINAL_CHANNEL, text):
        return _final_channel(text)
    bare = _bare_channels(text)
    if bare is not text:
        return bare
    rest = _without_reasoning(text)
    if rest is None:
        return None
    answer = unwrapped(rest, whole=rest == text)
    return completion if answer == text else answer.strip()


def _without_reasoning(text: str) -> str | None:
    """What stands after blocks and phrases; the ``text`` itself where there are none."""
    phrases = _PHRASES.match(text)
    if phrases:
        return text[phrases.end() :].lstrip()
    opened = OPENING.match(text)
    if opened is None:
        end = _unopened_end(text)
        if end is None:
            return _without_block_after_preamble(text)
        text = text[end:].lstrip()
        opened = OPENING.match(text)
    while opened is not None:
        end = _end_of_block(text, opened)
        if end is None:
            # A heading, "[Plan]", has no end either.
            return None if is_sure(opened[0]) or opened[0][0] != "[" else text
        text = text[end:].lstrip()
        opened = OPENING.match(text)
    return _without_later_blocks(text)


def _without_block_after_preamble(text: str) -> str | None:
    """ "Sure.", a block on a line of its own, and the answer: without the block."""
    opened = OPENING.search(text, 0, _PREAMBLE)
    if opened is None or not is_sure(opened[0]) or _in_code(text, opened.start()):
        return text
    before, _, line = text[: opened.start()].rpartition("\n")
    # A colon says that the tag is shown.
    if line.strip() or before.rstrip().endswith(":"):
        return text
    end = _end_of_block(text, opened)
    if end is None or not text[end:].strip():
        return text
    return _without_later_blocks(text)


def opened_block(prompt_end: str) -> str:
    """The reasoning that the end of a generation prompt opens, from its tag on; else an empty text.

    Args:
        prompt_end: what the template writes after the question.
    """
    channel = _ANALYSIS_OPENED.search(prompt_end)
    if channel:
        return channel[0]
    starts = list(OPENING.finditer(prompt_end))
    if not starts or _end_of_block(prompt_end, starts[-1]) is not None:
        return ""
    return prompt_end[starts[-1].start() :]


def closing_of(opened: str) -> str:
    """What closes a block of ``opened_block`` that stays empty, up to where the answer begins.

    Qwen's and DeepSeek's form: tags on lines of their own, and an empty line before the answer.
    """
    if _ANALYSIS_OPENED.search(opened):
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    start = OPENING.match(opened)
    assert start is not None
    empty = "\n" if opened.endswith("\n") else "\n\n"
    return f"{empty}{closing_of_tag(start[0])}\n\n"


def without_blocks(text: str) -> str:
    """A template's text without whole blocks of reasoning, such as an empty one."""
    place = 0
    while (opened := OPENING.search(text, place)) is not None:
        place = opened.end()
        end = _end_of_block(text, opened)
        if end is not None:
            text, place = text[: opened.start()] + text[end:], opened.start()
    return text


def reasoning_tokens(vocabulary: set[str]) -> set[str]:
    """The special tokens of a tokenizer that tell reasoning from the answer.

    A decoder must not drop them. "<|end|>" is one only beside harmony's channels.
    """
    known = set(filter(is_tag_token, vocabulary))
    return known | (vocabulary & {*_CHANNEL_TOKENS} if "<|channel|>" in vocabulary else set())


def _final_channel(text: str) -> str | None:
    """The body of harmony's channel "final"; its other channels are thoughts and tool calls."""
    for channel in _CHANNEL.finditer(text):
        if channel[1] == "final":
            body = text[channel.end() :]
            end = _CHANNEL_END.search(body)
            return (body[: end.start()] if end else body).strip()
    return None


def _bare_channels(text: str) -> str | None:
    """The answer of harmony without its tokens; the very ``text`` where there are no channels."""
    reasons = text.startswith(("analysis", "commentary"))
    final = (_BARE_FINAL if reasons else _GLUED_FINAL).search(text)
    if final and not _in_code(text, final.start()):
        return text[final.end() :].strip()
    if _BARE_ANALYSIS.match(text):
        return None
    only = _ONLY_FINAL.match(text)
    return text[only.end() :].strip() if only else text


def _unopened_end(text: str) -> int | None:
    """The end of reasoning that the prompt opened: after a closing tag that is not just named."""
    for closing in CLOSING.finditer(text):
        before, after = text[: closing.start()], text[closing.end() :]
        opened = any(closes(tag[0], closing[0]) for tag in OPENING.finditer(before))
        if opened or _in_code(text, closing.start()):
            continue
        inside_sentence = before[-1:] in {" ", "\t", '"', "'", "“", "("} and after[:1] not in {
            "",
            "\n",
        }
        if not inside_sentence or before.rstrip()[-1:] in {"", ".", "!", "?"}:
            return closing.end()
    return None


def _end_of_block(text: str, opened: re.Match[str]) -> int | None:
    """Where a block ends; a tag that its own text quotes as code does not end it."""
    tags = [tag for tag in CLOSING.finditer(text, opened.end()) if closes(opened[0], tag[0])]
    place = opened.end()
    outside = [tag for tag in tags if not _in_code(text[place:], tag.start() - place)]
    alone = next((tag for tag in tags if _on_its_own_line(text, tag)), None)
    if not outside:
        # A thought may leave a code fence open: then a tag on a line of its own is the end.
        return alone.end() if alone else None
    first = outside[0]
    # "I should write </think> here." in a thought is no end if one comes on a line of its own.
    if alone and alone.start() > first.start() and _is_named(text, first):
        between = OPENING.search(text, first.end(), alone.start())
        return first.end() if between else alone.end()
    return first.end()


def _on_its_own_line(text: str, tag: re.Match[str]) -> bool:
    return text[: tag.start()].endswith("\n") and text[tag.end() :][:1] in {"", "\n"}


def _is_named(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag stands in the middle of a sentence of its line."""
    before = text[: tag.start()].rpartition("\n")[2].rstrip()
    after = re.match(r"[\"'\u201d)]?[ ,]+[a-z]", text[tag.end() : tag.end() + 4])
    return before[-1:] not in {"", ".", "!", "?"} and after is not None


def _without_later_blocks(text: str) -> str:
    """Some models go back to reasoning between two parts of an answer."""
    place = 0
    while (opened := OPENING.search(text, place)) is not None:
        line = text[: opened.start()].rpartition("\n")[2]
        end = _end_of_block(text, opened)
        if line.strip() or end is None or _in_code(text, opened.start()):
            place = opened.end()
            continue
        text, place = text[: opened.start()] + text[end:].lstrip(), opened.start()
    return text


def _outside_code(pattern: re.Pattern[str], text: str) -> bool:
    return any(not _in_code(text, match.start()) for match in pattern.finditer(text))


def _in_code(text: str, place: int) -> bool:
    """Whether a place is inside a fence of ``` or between two backticks of one line."""
    before = text[:place]
    if before.count("```") % 2:
        return True
    line = before.rpartition("\n")[2]
    return line.replace("```", "").count("`") % 2 == 1
