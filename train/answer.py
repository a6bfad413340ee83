"""Which part of a completion is the answer: what stands after the model's reasoning.

Judges, scores, harvest, MT-Bench and the labels of training all ask here (issue 13), so that a
thought about refusing is no refusal, and a refusal after a thought is one. Known are blocks between
two tags, in the spellings of ``_TAGS``, and the channels of harmony (gpt-oss), as they are written
and as decoding without special tokens leaves them ("analysis...assistantfinal...").

A completion reasons if it begins with an opening tag or a channel, or if it holds a closing tag
without an opening one, because the prompt opened the block. An answer may speak of tags, in code or
in a sentence, and loses nothing.
"""

import re

_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<reflection>", "</reflection>"),
    ("<analysis>", "</analysis>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|think|>", "<|/think|>"),
    ("<|thinking|>", "<|/thinking|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
)
_WRAPPERS = (
    ("<answer>", "</answer>"),
    ("<output>", "</output>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
"""What some models put around the answer after their reasoning."""

_CHANNEL_TOKENS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>")
_CLOSING_OF = {start.lower(): end for start, end in _TAGS}
_OPENING = re.compile("|".join(re.escape(start) for start, _ in _TAGS), re.IGNORECASE)
_CLOSING = re.compile("|".join(re.escape(end) for _, end in _TAGS), re.IGNORECASE)

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
    opened = _OPENING.match(text)
    if opened is None:
        end = _unopened_end(text)
        if end is None:
            return completion
        text = text[end:].lstrip()
        opened = _OPENING.match(text)
    while opened is not None:
        end = _end_of_block(text, opened)
        if end is None:
            return None
        text = text[end:].lstrip()
        opened = _OPENING.match(text)
    return _unwrapped(_without_later_blocks(text)).strip()


def opened_block(prompt_end: str) -> str:
    """The reasoning that the end of a generation prompt opens, from its tag on; else an empty text.

    Args:
        prompt_end: what the template writes after the question.
    """
    channel = _ANALYSIS_OPENED.search(prompt_end)
    if channel:
        return channel[0]
    starts = list(_OPENING.finditer(prompt_end))
    if not starts or _end_of_block(prompt_end, starts[-1]) is not None:
        return ""
    return prompt_end[starts[-1].start() :]


def closing_of(opened: str) -> str:
    """What closes a block of ``opened_block`` that stays empty, up to where the answer begins.

    Qwen's and DeepSeek's form: tags on lines of their own, and an empty line before the answer.
    """
    if _ANALYSIS_OPENED.search(opened):
        return "<|end|><|start|>assistant<|channel|>final<|message|>"
    start = _OPENING.match(opened)
    assert start is not None
    empty = "\n" if opened.endswith("\n") else "\n\n"
    return f"{empty}{_CLOSING_OF[start[0].lower()]}\n\n"


def without_blocks(text: str) -> str:
    """A template's text without whole blocks of reasoning, such as an empty one."""
    for start, end in _TAGS:
        text = re.sub(f"{re.escape(start)}.*?{re.escape(end)}", "", text, flags=re.DOTALL)
    return text


def reasoning_tokens(vocabulary: set[str]) -> set[str]:
    """Of a tokenizer's special tokens those that tell reasoning from the answer.

    A decoder must not drop them. "<|end|>" is one only beside harmony's channels.
    """
    tags = {tag.lower() for pair in (*_TAGS, *_WRAPPERS) for tag in pair}
    tags |= {"<|channel>", "<unused94>"}
    known = {token for token in vocabulary if token.lower() in tags}
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
    for found in _CLOSING.finditer(text):
        before, after = text[: found.start()], text[found.end() :]
        opening = next(start for start, end in _TAGS if end.lower() == found[0].lower())
        if opening.lower() in before.lower() or _in_code(text, found.start()):
            continue
        inside_sentence = before[-1:] in {" ", "\t", '"', "'", "“", "("} and after[:1] not in {
            "",
            "\n",
        }
        if not inside_sentence or before.rstrip()[-1:] in {"", ".", "!", "?"}:
            return found.end()
    return None


def _end_of_block(text: str, opened: re.Match[str]) -> int | None:
    """Where a block ends; a tag that its own text quotes as code does not end it."""
    closing = re.compile(re.escape(_CLOSING_OF[opened[0].lower()]), re.IGNORECASE)
    found = list(closing.finditer(text, opened.end()))
    for end in found:
        if not _in_code(text[opened.end() :], end.start() - opened.end()):
            return end.end()
    # A thought may leave a code fence open: then a tag on a line of its own is the end.
    for end in found:
        if text[: end.start()].endswith("\n") and text[end.end() :][:1] in {"", "\n"}:
            return end.end()
    return None


def _without_later_blocks(text: str) -> str:
    """Some models go back to reasoning between two parts of an answer."""
    place = 0
    while (opened := _OPENING.search(text, place)) is not None:
        line = text[: opened.start()].rpartition("\n")[2]
        end = _end_of_block(text, opened)
        if line.strip() or end is None or _in_code(text, opened.start()):
            place = opened.end()
            continue
        text, place = text[: opened.start()] + text[end:].lstrip(), opened.start()
    return text


def _unwrapped(text: str) -> str:
    for start, end in _WRAPPERS:
        if text.lower().startswith(start.lower()):
            inner = text[len(start) :]
            place = inner.lower().rfind(end.lower())
            return inner if place < 0 else inner[:place] + inner[place + len(end) :]
    return text


def _outside_code(pattern: re.Pattern[str], text: str) -> bool:
    return any(not _in_code(text, found.start()) for found in pattern.finditer(text))


def _in_code(text: str, place: int) -> bool:
    """Whether a place is inside a fence of ``` or between two backticks of one line."""
    before = text[:place]
    if before.count("```") % 2:
        return True
    line = before.rpartition("\n")[2]
    return line.replace("```", "").count("`") % 2 == 1
