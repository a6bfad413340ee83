"""What a library's error becomes in a message of one line."""

import pytest

from merge.common.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such file\n  at line 3"), "no such file"),
        (OSError("\n\n  gated repository \r\nlog in"), "gated repository "),
        (AssertionError(), "AssertionError"),
        (RuntimeError(" \n"), "RuntimeError"),
    ],
)
def test_the_first_line_that_says_something_else_the_type(error: Exception, line: str) -> None:
    assert first_line(error) == line
