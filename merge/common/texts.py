"""Whether a text can be written, hashed and tokenized."""

from merge.common.errors import UserError


def usable(text: str, what: str) -> str:
    """The text itself, once it is seen to be one.

    Raises:
        UserError: it holds half of a surrogate pair, which is no character, or a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{what} holds a lone surrogate (U+{ord(text[error.start]):04X}), half of a "
            "character; replace it"
        ) from None
    if "\0" in text:
        raise UserError(f"{what} holds a NUL character; remove it, or fetch the file again")
    return text
