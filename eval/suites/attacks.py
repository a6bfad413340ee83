"""Attack files of other tools: the kinds that are known, and how each file is read (issue 17).

A suite row of axis harm says ``attack: KIND``. Where it names no ``columns.prompt`` itself, the
kind says which columns hold what. The names are those of the tools' own releases:

- DeRTa's test files (key ``question``), one kind each;
- ReNeLLM's results and responses (``nested_prompt``);
- GCG: lines of a goal and its suffix, its logs (``params.goals`` with ``controls``), or whole
  prompts; nanoGCG's ``best_string`` is a suffix;
- PAIR and TAP: their tables of attempts (also as wandb exports them: ``columns`` with ``data``),
  lines, or JailbreakBench's artifacts (``goal``, ``prompt``, ``jailbroken``); EasyJailbreak's
  ``jailbreak_prompt`` holds the ``{query}``.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from merge.common.errors import UserError
from train.data.cells import as_number
from train.data.tables import Row

logger = logging.getLogger(__name__)

PROMPT, GOAL = "prompt", "goal"
"""The columns that a row of an attack has when it is read."""
PREFILL = "prefill"
"""The kind of an attack that needs no file: the answer's beginning is given."""

_GOALS = ("goal", "query", "behavior", "original_prompt", "instruction")
_WHOLE = ("jailbreak_prompt", "attack_prompt", "adv_prompt", "jailbreak", "prompt", "question")
_SUFFIXES = ("suffix", "adv_suffix", "control", "best_string", "adv_string", "best_control",
             "adversarial_suffix", "final_suffix")  # fmt: skip
_SCORES = ("judge_scores", "judge_score", "score", "is_jailbroken", "jailbroken")
_TEXTS = {*_WHOLE, *_GOALS, "nested_prompt"}
_TRUTH = {"true": 1.0, "false": 0.0}


class AttackKind(NamedTuple):
    """Where the files of one tool keep what is asked; of columns the first that holds something.

    Attributes:
        prompts: columns of the whole attack, or of the question to which a suffix is added.
        goals: columns of the plain question, to which it is added where they are there.
        suffixes: columns of what stands behind the goal.
        scores: columns of the tool's own score: of several attempts at one goal the best is asked.
        losses: columns of a loss, likewise; the lowest is best.
        in_template: whether the attack stands in the user's turn; else the model continues the text
            itself, as DeRTa asks its completion attacks.
    """

    prompts: tuple[str, ...] = ("question", "prompt")
    goals: tuple[str, ...] = ("goal",)
    suffixes: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    in_template: bool = True


_ATTEMPTS = AttackKind(_WHOLE, _GOALS, scores=_SCORES)

KINDS: dict[str, AttackKind] = {
    "codeattack": AttackKind(),
    "jailbreakchat": AttackKind(),
    "selfcipher": AttackKind(),
    "completionattack": AttackKind(in_template=False),
    "renellm": AttackKind(("nested_prompt", *_WHOLE), ("original_harm_behavior", *_GOALS)),
    "gcg": AttackKind(_WHOLE, _GOALS, _SUFFIXES, _SCORES, ("loss", "best_loss", "final_loss")),
    "pair": _ATTEMPTS,
    "tap": _ATTEMPTS,
}
"""By the name that a suite row gives to ``attack``."""


def asked_columns(kind: AttackKind) -> tuple[str, ...]:
    """All columns that a kind knows; they tell a row from an object that holds the rows."""
    return (*kind.prompts, *kind.goals, *kind.suffixes, "nested_prompt", "controls", "data")


def attack_rows(kind: AttackKind, rows: Iterable[Row], where: str) -> list[Row]:
    """The attacks of a file, each with the columns ``prompt`` and, where it is known, ``goal``.

    Attempts that the file marks by scores or losses are one attack per goal. A row without a prompt
    (a goal for which the tool found no attack) is left out, and counted in a warning.

    Raises:
        UserError: a row has none of the columns that the kind knows, or a table or log is torn.
    """
    try:
        unfolded = [each for record in rows for each in _unfolded(record)]
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: holds a table or log that is torn ({error}); fix it") from None
    scored: list[tuple[Row, float | None]] = []
    lacking = 0
    for number, row in enumerate(unfolded, start=1):
        known = {str(name).strip().lower(): value for name, value in row.items()}
        if not any(name in known for name in (*kind.prompts, *kind.goals)):
            raise UserError(
                f"{where} row {number}: no column {', '.join(dict.fromkeys(kind.prompts))} "
                f"(it has {', '.join(map(str, row))}); name columns.prompt"
            )
        prompt, goal = _prompt(kind, known), _first(known, kind.goals)
        if not prompt:
            lacking += 1
            continue
        attack: dict[str, Any] = {**row, PROMPT: prompt}
        if goal:
            attack[GOAL] = goal
        scored.append((attack, _score(kind, known)))
    if lacking:
        logger.warning("%s: %d rows hold no attack, and are not asked", where, lacking)
    return _best(scored)


def _prompt(kind: AttackKind, row: Mapping[str, Any]) -> str:
    """The whole attack; a suffix stands a space behind the goal, as in GCG's own prompts."""
    suffix = _first(row, kind.suffixes, stripped=False)
    whole, plain = _first(row, kind.prompts), _first(row, kind.goals)
    if tail := suffix.strip():
        # A short suffix may stand in a goal by chance.
        has_suffix = whole.endswith(f" {tail}") or (plain not in ("", whole) and tail in whole)
        whole = whole if has_suffix else f"{plain or whole} {suffix.lstrip()}"
    elif any(name in row for name in kind.suffixes):
        return ""
    return whole.replace("{query}", str(row.get("query") or "{query}"))


def _first(row: Mapping[str, Any], names: Sequence[str], stripped: bool = True) -> str:
    """The first text that is not empty; of a list of candidates its last one."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list) and value:
            value = value[-1]
        if isinstance(value, str) and value.strip():
            return value.strip() if stripped else value
    return ""


def _score(kind: AttackKind, row: Mapping[str, Any]) -> float | None:
    """How good an attempt is: higher is better; None where the row does not say."""
    for names, sign in ((kind.scores, 1.0), (kind.losses, -1.0)):
        for name in names:
            value = row.get(name)
            number = _TRUTH.get(str(value).strip().lower(), as_number(value))
            if number is not None:
                return sign * float(number)
    return None


def _best(attempts: Sequence[tuple[Row, float | None]]) -> list[Row]:
    """One attempt per goal, the first of the best, where goals and scores are known."""
    if any(score is None or GOAL not in row for row, score in attempts):
        return [row for row, _ in attempts]
    best: dict[str, tuple[Row, float]] = {}
    for row, score in attempts:
        assert score is not None
        if row[GOAL] not in best or score > best[row[GOAL]][1]:
            best[row[GOAL]] = row, score
    return [row for row, _ in best.values()]


def _unfolded(record: Row) -> Iterator[Row]:
    """The rows that one object of a file holds: a table, a log, or the row itself."""
    names, data, params = (record.get(key) for key in ("columns", "data", "params"))
    if isinstance(names, list) and isinstance(data, list):
        yield from (dict(zip(map(str, names), cells, strict=True)) for cells in data)
    elif isinstance(record.get("controls"), list) and isinstance(params, Mapping):
        yield from _log_rows(params, record)
    else:
        attempts = next(filter(_holds_attempts, record.values()), [])
        yield from ({**record, **attempt} for attempt in attempts or ({},))


def _holds_attempts(value: Any) -> bool:
    """Whether a column holds the attempts at its row's goal, or all rows."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, Mapping) and not _TEXTS.isdisjoint(item) for item in value)
    )


def _log_rows(params: Mapping[str, Any], log: Row) -> Iterator[Row]:
    """The attacks of one of GCG's logs: per goal the suffix of the lowest loss, else the last.

    A log of single attacks holds the steps of one goal after the other; one of an attack on all
    goals at once (``progressive_goals``) those of one suffix, whose last is for all.
    """
    goals, controls = list(params.get("goals") or ()), list(log["controls"])
    losses = list(log.get("losses") or ())
    if "progressive_goals" in params or not goals or len(controls) % len(goals):
        yield from ({GOAL: goal, "suffix": controls[-1] if controls else ""} for goal in goals)
        return
    steps = len(controls) // len(goals)
    for place, goal in enumerate(goals):
        part = range(place * steps, (place + 1) * steps)
        best = part[-1] if part else None
        if best is not None and len(losses) == len(controls):
            best = min(part, key=losses.__getitem__)
        yield {GOAL: goal, "suffix": "" if best is None else controls[best]}
