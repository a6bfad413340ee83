"""`python -m eval judge`: the refusal judge over a file of answers."""

import json
import logging
from pathlib import Path

from eval.answering.completions import CompletionRecord, read_completions
from eval.judges.judged import Judge, judged, judged_by
from eval.text.language import count_languages, note
from merge.common.errors import UserError
from merge.common.files import atomic_write_text

logger = logging.getLogger(__name__)


def judge_file(source: Path, target: Path, refusal_judge: Judge | None = None) -> dict[str, int]:
    """Copy JSON lines with a "refusal" added: none, partial, full, degenerate or unfinished.

    Judged is what stands after the reasoning; unfinished is a reasoning that never ends. Each line
    needs "completion"; "prompt" helps where it is there, and "prefix" where the answer was given
    its beginning. Other keys are kept. The log says how many answers are not in English, where
    the rules recognise no refusal.

    Args:
        refusal_judge: a model that judges in place of the rules; it may also say "unparsed".

    Returns:
        How often each class was given.

    Raises:
        UserError: the file is missing or broken, or a line has no completion.
    """
    records = read_completions(source)
    counts: dict[str, int] = {}
    texts = [_text(record, number, source) for number, record in enumerate(records, start=1)]
    prompts = [str(record.get("prompt") or "") for record in records]
    prefixes = [str(record.get("prefix") or "") for record in records]
    by_rules = [judged(*each) for each in zip(texts, prompts, prefixes, strict=True)]
    for record, verdict in zip(records, judged_by(refusal_judge, by_rules, prompts), strict=True):
        record["refusal"] = verdict.refusal
        counts[record["refusal"]] = counts.get(record["refusal"], 0) + 1
    languages = count_languages(
        record["completion"] for record in records if record["refusal"] in {"none", "degenerate"}
    )
    if languages and refusal_judge is None:
        logger.warning("%s: %s", source, note(languages, len(records)))
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    atomic_write_text(target, "".join(f"{line}\n" for line in lines))
    return counts


def _text(record: CompletionRecord, number: int, source: Path) -> str:
    completion = record.get("completion")
    if not isinstance(completion, str):
        raise UserError(f"{source} line {number}: no text under 'completion'; add it")
    return completion
