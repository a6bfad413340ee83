"""The files that make weights a model: configuration, tokenizer, chat template."""

from pathlib import Path

from merge.errors import UserError
from merge.files import atomic_writer
from merge.layout import INDEX_NAME

_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".py")
_NOT_COPIED = (INDEX_NAME, "merge.json", "README.md")
_BLOCK_BYTES = 1 << 20


def companion_files(backbone: Path) -> list[Path]:
    """All files beside the backbone's weights that its loading may need, sorted."""
    return sorted(
        path
        for path in backbone.iterdir()
        if path.suffix in _SUFFIXES and path.name not in _NOT_COPIED and path.is_file()
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy content and nothing else: permissions follow the umask.

    Raises:
        UserError: the source cannot be read, or the target cannot be written.
    """
    try:
        file = source.open("rb")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror})") from None
    with file, atomic_writer(target) as out:
        while block := file.read(_BLOCK_BYTES):
            out.write(block)
