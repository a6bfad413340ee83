"""What the trials of a search have taken, beside them: for later plans (issue 15)."""

from collections.abc import Iterable
from pathlib import Path

from merge.common.files import atomic_write_json, read_json

_SUFFIX = ".cost.json"
_BY_MARGINS = f".margins{_SUFFIX}"


def add_cost(journal: Path, seconds: float) -> None:
    """Count one more trial of the journal ``NAME.jsonl`` into ``NAME.cost.json``.

    Raises:
        UserError: the file cannot be written.
    """
    file = journal.with_suffix(_SUFFIX)
    before = read_json(file) if file.is_file() else {"count": 0, "seconds": 0.0}
    after = {"count": before["count"] + 1, "seconds": round(before["seconds"] + seconds, 3)}
    atomic_write_json(file, after)


def mean_costs(folder: Path) -> tuple[float | None, float | None]:
    """Seconds of a trial by answers, and of one by margins; ``None`` where there was none.

    Args:
        folder: of a search.
    """
    files = sorted(folder.glob(f"*{_SUFFIX}"))
    by_margins = [file for file in files if file.name.endswith(_BY_MARGINS)]
    return _mean(set(files) - {*by_margins}), _mean(by_margins)


def _mean(files: Iterable[Path]) -> float | None:
    found = [read_json(file) for file in files]
    count = sum(each["count"] for each in found)
    return sum(each["seconds"] for each in found) / count if count else None
