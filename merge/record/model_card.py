"""The README.md of a patched model, as a model card of the Hugging Face hub.

What the backbone's own card or licence file says of its licence is handed on; what they do not
say is left out. An evaluation that comes later is put between ``BEFORE`` and ``AFTER``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from merge.common.files import atomic_write_json, atomic_write_text, read_json, sha256_file
from merge.engine.journal import RECORD
from merge.io.companions import BACKBONE_CARD, CARD
from merge.io.patch_directory import LETTERS
from merge.record.erasure import erased_share, percent
from merge.settings import MergeSettings

BEFORE, AFTER = "<!-- evaluation -->", "<!-- end of evaluation -->"
_SHOWN = 8
"""Entries of one setting, such as the rules of fitted scales, that the card lists."""
_NOT_EVALUATED = "No evaluation was made of this model yet."
_HEAD = re.compile(r"\A---[ \t]*\n(.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_LICENCE_FILES = re.compile(r"(licen[cs]e|copying)(\.txt|\.md)?", re.IGNORECASE)
_KNOWN_LICENCES = (
    ("apache-2.0", re.compile(r"Apache License\s+Version 2\.0\b")),
    ("mit", re.compile(r"\AMIT License\b|\APermission is hereby granted, free of charge\b")),
)
_CACHED = "models--"
"""How a model's folder in the hub's cache begins; its owner and name follow, with "--" between."""


def model_card(backbone: Path, settings: MergeSettings, summary: Mapping[str, float]) -> str:
    """The card of what a merge has made of a backbone.

    Args:
        summary: of ``merge.record.merge_json.totals``.
    """
    name, licence = base_model(backbone), backbone_licence(backbone)
    head = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": name,
        "base_model_relation": "finetune",
        **licence,
        "tags": ["safepatching", "model-merge", "safety"],
    }
    rows = "\n".join(f"| {key} | {_cell(value)} |" for key, value in settings.model_dump().items())
    size = summary["elements"] or 1
    patches = "\n".join(
        f"| {role} | {100 * summary[f'kept_{patch}'] / size:.4f} % "
        f"| {percent(erased_share(summary, patch))} | {int(summary[f'changed_{patch}']):,} |"
        for role, patch in LETTERS.items()
    )
    terms = licence.get("license_name") or licence.get("license")
    known = (
        f"Its licence still applies: {terms}."
        if terms
        else "Its licence still applies; look it up there."
    )
    is_drawn = settings.rounding == "stochastic"
    drawn = " It was stochastic, so that the others moved by as much more." if is_drawn else ""
    body = f"""# {backbone.resolve().name}, patched

Post safety alignment by SafePatching (arXiv 2405.13820) of the backbone `{name}`: a safety patch
and an over-safety patch, merged into its weights. {known}
{BACKBONE_CARD}, where it is there, is the backbone's own card.

## Intended use

Chat, as with the backbone: with fewer harmful answers, and fewer refusals of harmless requests that
only look harmful. The evaluation says what was measured. Other languages, attacks that were not
tried and kinds of harm that no prompt asks for may differ. It is no guarantee, and does not replace
safeguards around the model. The backbone's terms of use hold.

## Evaluation

{BEFORE}
{_NOT_EVALUATED}
{AFTER}

## What was changed

Entries of {int(summary["elements"]):,} covered values, by the two patches. All other tensors and
the tokenizer are the backbone's. {RECORD} holds the hashes of all inputs and outputs, and what was
changed in every tensor; density.svg, where it is there, shows it by layer.

Erased by rounding is a share of the kept entries whose delta is not 0.{drawn}

| patch | entries kept, of those covered | erased by rounding | changed |
|---|---|---|---|
{patches}

| setting | value |
|---|---|
{rows}

## How to revert

By the delta file of the merge (`merge build --delta-file`; in a continual run `RUN/deltas/`), bit
for bit; the same `merge apply` makes this model of the backbone again:

    python -m merge apply --model THIS_MODEL --delta FILE.safepatch --out BACKBONE
    python -m launch revert RUN --to backbone --out DIR        # of a continual run, all stages

Without a delta file take the backbone itself: its folder was not changed.
"""
    return with_head(head, body)


def with_head(head: Mapping[str, Any], body: str) -> str:
    """A card of its front matter and the text after it."""
    text = yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)
    return f"---\n{text}---\n{body}"


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """The front matter of a card, and the text after it; an unreadable one is empty."""
    text = text.replace("\r\n", "\n").lstrip("\ufeff")
    match = _HEAD.match(text)
    if match is None:
        return {}, text
    try:
        head = yaml.safe_load(match[1])
    except yaml.YAMLError:
        head = None
    return (head if isinstance(head, dict) else {}), text[match.end() :]


def base_model(backbone: Path) -> str:
    """The backbone's name on the hub where its folder tells it, else its folder's name.

    A backbone that was patched before has the name of the first backbone.
    """
    if (backbone / RECORD).is_file():
        first = _card_of(backbone).get("base_model")
        if isinstance(first, str) and first:
            return first
    parts = backbone.resolve().parts
    if "snapshots" in parts:
        cached = parts[parts.index("snapshots") - 1]
        if cached.startswith(_CACHED):
            return "/".join(cached.removeprefix(_CACHED).split("--", 1))
    return backbone.resolve().name


def backbone_licence(backbone: Path) -> dict[str, Any]:
    """The front matter's keys of the backbone's licence; none where the folder does not tell it."""
    card = _card_of(backbone)
    licence = card.get("license")
    if isinstance(licence, str) or (isinstance(licence, list) and licence):
        keys = ("license", "license_name", "license_link")
        return {key: card[key] for key in keys if isinstance(card.get(key), str | list)}
    files = sorted(path for path in backbone.iterdir() if _LICENCE_FILES.fullmatch(path.name))
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        return {}
    text = file.read_text(encoding="utf-8", errors="replace").strip()
    for known, pattern in _KNOWN_LICENCES:
        if pattern.search(text):
            return {"license": known}
    words = re.findall(r"[a-z0-9.]+", text.partition("\n")[0].lower())
    name = "-".join(words)[:80] or "unnamed"
    return {"license": "other", "license_name": name, "license_link": file.name}


def _card_of(folder: Path) -> dict[str, Any]:
    file = folder / CARD
    if not file.is_file():
        return {}
    return split_card(file.read_text(encoding="utf-8", errors="replace"))[0]


def put_evaluation(card: str, section: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The card with an evaluation in the place of an earlier one, and in its front matter.

    Args:
        section: Markdown, for people.
        results: a hub's ``model-index``; see its model card specification.
    """
    head, body = split_card(card)
    before, separator, rest = body.partition(BEFORE)
    _, ended, after = rest.partition(AFTER)
    if not separator or not ended:  # an older card, or one that someone has written anew
        before, after = f"{body.rstrip()}\n\n## Evaluation\n\n".lstrip(), "\n"
    head = {**head, "model-index": [dict(result) for result in results]}
    return with_head(head, f"{before}{BEFORE}\n{section.strip()}\n{AFTER}{after}")


def rewrite_card(folder: Path, card: str) -> None:
    """Give a patched model another card, and its record the card's hash.

    A process that ends between both leaves a model of which ``merge verify`` says that the card has
    changed; the same call again puts it right.

    Raises:
        UserError: a file cannot be read or written.
    """
    record = read_json(folder / RECORD)
    atomic_write_text(folder / CARD, card)
    record["outputs"][CARD] = sha256_file(folder / CARD)
    atomic_write_json(folder / RECORD, record)


def _cell(value: object) -> str:
    if isinstance(value, tuple) and len(value) > _SHOWN:
        return f"{len(value)} entries, see {RECORD}"
    return " ".join(str(value).replace("|", "\\|").split())
