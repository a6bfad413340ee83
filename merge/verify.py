"""Whether a model folder is still what its merge.json says."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from merge.common.errors import UserError
from merge.common.files import sha256_file
from merge.common.pools import run_all
from merge.common.progress import Progress
from merge.engine.journal import RECORD
from merge.record.merge_json import read_merge_record

logger = logging.getLogger(__name__)

_THREADS = 2
_SHOWN = 5


def verify(directory: Path) -> None:
    """Check every SHA-256 of merge.json, and that no weights lie beside those it names.

    The inputs are checked too, where they are still at the paths they had.

    Raises:
        UserError: naming every file that is missing, changed, or of something else.
    """
    record = directory / RECORD
    content = read_merge_record(directory)
    outputs = content.get("outputs")
    if not isinstance(outputs, dict) or not all(map(_stays_inside, outputs)):
        raise UserError(f"{record}: 'outputs' must map file names to hashes; merge again")
    expected = {directory / name: digest for name, digest in outputs.items()}
    inputs = _input_hashes(content)
    gone = [path for path in inputs if not path.is_file()]
    expected |= {path: digest for path, digest in inputs.items() if path not in gone}
    size = sum(path.stat().st_size for path in expected if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool, Progress("verify", size, "B") as progress:
        digests = run_all(pool, lambda path: _hash_or_none(path, progress.advance), list(expected))
    problems = [
        f"{path}: {'is missing' if digest is None else 'has changed'}"
        for path, digest in zip(expected, digests, strict=True)
        if digest != expected[path]
    ]
    strangers = sorted({path.name for path in directory.glob("*.safetensors")} - set(outputs))
    problems += [f"{directory / name}: belongs to no file of this merge" for name in strangers]
    if problems:
        more = f" and {len(problems) - _SHOWN} more problems" if len(problems) > _SHOWN else ""
        raise UserError("; ".join(problems[:_SHOWN]) + more + "; merge again")
    logger.info(
        "%s: %d files of the output and %d of the inputs are unchanged%s",
        directory,
        len(outputs),
        len(inputs) - len(gone),
        f"; {len(gone)} files of the inputs are no longer there" if gone else "",
    )


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts


def _input_hashes(content: dict) -> dict[Path, str]:
    try:
        return {
            Path(item["path"]) / name: digest
            for item in content.get("inputs", {}).values()
            for name, digest in item["files"].items()
        }
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{RECORD}: 'inputs' is malformed; merge again") from None


def _hash_or_none(path: Path, advance: Callable[[int], None]) -> str | None:
    try:
        return sha256_file(path, advance)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
