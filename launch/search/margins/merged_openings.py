"""Whether merges refuse as the backbone does; their refusals may open in other ways (issue 14).

A fit lowers the margins of harmless questions, which know the backbone's openings alone. Where a
merge goes over to another way to refuse, margins predict too few refusals; so the openings are
learned again, from the answers of that merge as well, and the search begins again by these.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from launch.prepare.false_refusals import REFUSED
from launch.prepare.openings import answer_ids
from train.chat.prompts import ChatPrompts
from train.guards.openings_file import write_openings
from train.guards.refusal_margin import RefusalOpenings, coverage_of, learn_openings

logger = logging.getLogger(__name__)

_LEAST_COVERAGE = 0.9
"""Share of a merge's refusals that the openings must cover."""


def learn_from_merge(
    chat: ChatPrompts,
    openings: RefusalOpenings,
    backbone: Iterable[Mapping[str, Any]],
    merge: Iterable[Mapping[str, Any]],
    file: Path,
) -> bool:
    """Learn openings from a merge's answers where those that are known miss its refusals.

    Args:
        openings: those by which the merge was found.
        backbone: the backbone's judged answers, as in completions.jsonl.
        merge: the merge's.
        file: where more openings are written.

    Returns:
        Whether more openings were found and written.
    """
    own = _split(chat, merge)
    coverage = coverage_of(openings.tokens, own[0])
    if not own[0] or coverage >= _LEAST_COVERAGE:
        return False
    others = _split(chat, backbone)
    refusals, answers = ([*theirs, *mine] for theirs, mine in zip(others, own, strict=True))
    more = learn_openings(refusals, answers, openings.tokens)
    reached = coverage_of(more.tokens, own[0])
    if reached <= coverage:
        logger.warning(
            "search: %.0f %% of a merge's refusals open as the backbone's do, and no other "
            "beginning tells them from answers: margins predict too few refusals", 100 * coverage,
        )  # fmt: skip
        return False
    texts = [str(chat.tokenizer.decode(list(ids))) for ids in more.tokens]
    logger.info(
        "search: %.0f %% of a merge's refusals open as the backbone's do, %.0f %% with one of %s; "
        "begins again by the margins of these", 100 * coverage, 100 * reached,
        ", ".join(map(repr, texts)),
    )  # fmt: skip
    write_openings(file, more, texts=texts)
    return True


def _split(
    chat: ChatPrompts, answers: Iterable[Mapping[str, Any]]
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of refusals, and of other answers; what is neither judged nor asked is left out."""
    refusals, others = [], []
    for answer in answers:
        if answer["refusal"] is not None:
            (refusals if answer["refusal"] in REFUSED else others).append(answer_ids(chat, answer))
    return refusals, others
