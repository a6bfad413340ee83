"""The files that make weights a model, and their copies beside the merged weights.

Configuration, tokenizer, chat templates, code and licences: all that is no weights.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from merge.common.errors import UserError
from merge.common.files import atomic_writer, fsync_directory, make_directory
from merge.io.model_files import is_companion

logger = logging.getLogger(__name__)

CARD = "README.md"
BACKBONE_CARD = "BACKBONE_README.md"
"""The backbone's own model card, whose attribution its licence may ask for: ``README.md`` is the
patched model's. Of a model that was patched before, that of the first backbone stays."""

_RECORD = "merge.json"
_MERGE_FILES = (_RECORD, "density.svg", CARD)
"""What a merge writes itself; of a backbone that is a merged model it is not this merge's."""
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Companion:
    """One file to copy."""

    source: Path
    name: str
    """Path of the file in the output folder, relative, with ``/``."""


def companion_files(backbone: Path, out: Path) -> list[Companion]:
    """All files of the backbone's folder but weights and what is no part of a model, sorted.

    Folders are looked through and kept. A link to a file is that file, as in the hub's cache; a
    link to a folder is not followed, so nothing comes from elsewhere by the folder.

    Args:
        out: the merge's output; a subfolder in which it lies, a run's for example, is left out.

    Raises:
        UserError: a folder cannot be read, a link leads nowhere, or a name is not UTF-8.
    """
    names = sorted(_names(backbone, out.resolve()))
    companions = [Companion(backbone / name, name) for name in names if name not in _MERGE_FILES]
    # The card of a patched model is not the backbone's own, and may be rewritten.
    if CARD in names and BACKBONE_CARD not in names and _RECORD not in names:
        companions.append(Companion(backbone / CARD, BACKBONE_CARD))
    for companion in companions:
        if not companion.source.exists():
            raise UserError(f"{companion.source}: is a link to nothing; fetch the model again")
    return [companion for companion in companions if companion.source.is_file()]


def _names(backbone: Path, out: Path) -> Iterable[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from None

    for place, folders, files in os.walk(backbone, onerror=refuse):
        folder = Path(place)
        for name in folders:
            if (folder / name).is_symlink() and not name.startswith("."):
                logger.warning("%s: is a link to a folder; it is not copied", folder / name)
        folders[:] = [name for name in folders if not out.is_relative_to((folder / name).resolve())]
        for name in files:
            relative = (folder / name).relative_to(backbone).as_posix()
            if not is_companion(relative):
                continue
            try:
                relative.encode()
            except UnicodeEncodeError:
                raise UserError(
                    f"{backbone}: a file's name is not UTF-8 ({relative!a}); rename it"
                ) from None
            yield relative


def copy_companions(companions: Iterable[Companion], out: Path) -> dict[str, str]:
    """Copy all of them into ``out``, each whole or not at all; the SHA-256 of each copy by name.

    Raises:
        UserError: a source cannot be read, or the output cannot be written.
    """
    hashes = {}
    for companion in companions:
        target = out / companion.name
        if not target.parent.is_dir():
            make_directory(target.parent)
            fsync_directory(target.parent.parent)
        hashes[companion.name] = _copy_file(companion.source, target)
    return hashes


def _copy_file(source: Path, target: Path) -> str:
    """Copy content and nothing else, as permissions follow the umask; its SHA-256."""
    digest = hashlib.sha256()
    try:
        file = source.open("rb")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    with file, atomic_writer(target) as out:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()
