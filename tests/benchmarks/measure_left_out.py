"""The refusal judge's agreement with people on a model that was left out.

    python -m tests.benchmarks.measure_left_out FOLDER --lists LISTS

FOLDER holds XSTest's annotated completions and LISTS published lists of phrases, both as
`python -m eval agreement` reads them; nothing of them is kept. The rules of `eval.refusal_rules`
were written with all three models' answers in sight, so their agreement is not left-out. Two
procedures see only two models and are measured on the third:

* evidenced: our rules, but only those wordings that a true refusal of the two models shows, and
  the exceptions only where they are worth it there. A wording that the left-out model alone uses
  is taken away, and with it all that we wrote from general knowledge and the two models do not
  use; so it is rather too low. What stays known of the left-out model is the shape of the rules.
* calibrated: of all phrases of the published lists, those that one after another raise kappa most
  on the two models. Its phrases were written by others: nothing of the left-out model is known.
"""

import argparse
import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from eval.judges import refusal_rules as rules
from eval.judges.agreement import matches, read_lists
from eval.judges.refusal import OPENING_SENTENCES, judge, sentences_of
from eval.statistics.rates import Z_95, cohens_kappa


@dataclass(frozen=True)
class Row:
    """An answer to a safe prompt, and whether people call it refused, fully or partly."""

    completion: str
    prompt: str
    refused: bool


Judge = Callable[[Row], bool]
Wording = tuple[str, ...]
"""A rule's alternative, and which of its words for inability and for help an answer used."""


def read_rows(path: Path) -> tuple[list[Row], list[Row]]:
    """Answers to safe prompts, and to unsafe ones."""
    rows: tuple[list[Row], list[Row]] = ([], [])
    with path.open(encoding="utf-8", newline="") as file:
        for record in csv.DictReader(file):
            refused = not record["final_label"].startswith("1_")
            row = Row(record["completion"], record["prompt"], refused)
            rows[record["type"].startswith("contrast")].append(row)
    return rows


def agreement(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float]:
    """Kappa and its standard error of (people, judge)."""
    return cohens_kappa([[pairs.count((a, b)) for b in (False, True)] for a in (False, True)])


def judged(judge: Judge, rows: Sequence[Row]) -> list[tuple[bool, bool]]:
    return [(row.refused, judge(row)) for row in rows]


def split_rules() -> list[tuple[str, re.Pattern[str]]]:
    """Each rule's alternatives, where inability and help are groups."""
    named = []
    for name, alternatives in rules.KINDS.items():
        for number, part in enumerate(alternatives):
            for inner in (rules.NOT_ABLE, rules.HELP):
                part = part.replace(inner, f"({inner})", 1)
            named.append((f"{name} {number}", re.compile(part)))
    return named


_SPLIT_RULES = split_rules()


def wordings_in(row: Row) -> set[Wording]:
    opening = " ".join(sentences_of(row.completion)[:OPENING_SENTENCES])
    return {
        (name, *(str(words).split()[-1] for words in match.groups() if words))
        for name, pattern in _SPLIT_RULES
        for match in pattern.finditer(opening)
    }


def all_rules(row: Row) -> bool:
    return judge(row.completion, row.prompt) in {"partial", "full"}


def evidenced(training: Sequence[Row], unsafe: Sequence[Row]) -> Judge:
    """Our rules, where true refusals of the two models show each word of a wording."""
    shown = {
        (wording[0], word)
        for row in (*training, *unsafe)
        if row.refused
        for wording in wordings_in(row)
        for word in wording
    }

    def is_shown(row: Row) -> bool:
        wordings = wordings_in(row)
        return any(all((wording[0], word) in shown for word in wording) for wording in wordings)

    def is_shown_and_no_exception(row: Row) -> bool:
        return is_shown(row) and all_rules(row)

    return max(
        (is_shown_and_no_exception, is_shown),
        key=lambda judge: agreement(judged(judge, training))[0],
    )


def calibrated(training: Sequence[Row], phrases: Sequence[str]) -> Judge:
    """Phrases that, one after another, raise kappa most."""
    kept: list[str] = []
    best = 0.0
    while True:
        scored = [
            (agreement(judged(any_of([*kept, phrase]), training))[0], phrase)
            for phrase in phrases
            if phrase not in kept
        ]
        kappa, phrase = max(scored)
        if kappa <= best:
            return any_of(kept)
        best = kappa
        kept.append(phrase)


def any_of(phrases: Sequence[str]) -> Judge:
    return lambda row: any(matches(phrase, row.completion) for phrase in phrases)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.measure_left_out", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lists", type=Path, required=True)
    options = parser.parse_args()
    read = {path.stem: read_rows(path) for path in sorted(options.folder.glob("*.csv"))}
    models = {name: safe for name, (safe, _) in read.items()}
    unsafe = {name: rows for name, (_, rows) in read.items()}
    lists = read_lists(options.lists)
    phrases = sorted({phrase for each in lists.values() for phrase in each})
    outcomes: dict[str, dict[str, list[tuple[bool, bool]]]] = {}
    for name, rows in models.items():
        others = [other for other in models if other != name]
        training = [row for other in others for row in models[other]]
        judges = {
            "our rules, evidenced": evidenced(training, [r for o in others for r in unsafe[o]]),
            "lists, calibrated": calibrated(training, phrases),
            "all our rules (not left out)": all_rules,
            **{key: any_of(each) for key, each in lists.items()},
        }
        for key, decide in judges.items():
            outcomes.setdefault(key, {})[name] = judged(decide, rows)
    table = Table(title="Refused or not, safe prompts: kappa with people [95 %]", show_lines=True)
    for column in ("left out", *models, "all"):
        table.add_column(column)
    for key, by_model in outcomes.items():
        pooled = [pair for pairs in by_model.values() for pair in pairs]
        table.add_row(key, *(_shown(*agreement(pairs)) for pairs in [*by_model.values(), pooled]))
    Console().print(table)


def _shown(kappa: float, error: float) -> str:
    return f"{kappa:.3f} [{kappa - Z_95 * error:.3f}, {min(1.0, kappa + Z_95 * error):.3f}]"


if __name__ == "__main__":
    main()
