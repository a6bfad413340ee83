"""What a library's error becomes: a message of one line, and an exit status."""

import pytest
import torch

from merge.common.errors import first_line, run_command


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


def test_a_full_gpu_is_told_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    """The error as PyTorch raised it on a GPU that three trainings shared."""
    text = (
        "CUDA out of memory. Tried to allocate 2.35 GiB. GPU 0 has a total capacity of 79.18 GiB "
        "of which 2.14 GiB is free. Process 875 has 2.81 GiB memory in use. If reserved but "
        "unallocated memory is large try setting PYTORCH_ALLOC_CONF"
    )

    def fail() -> None:
        raise torch.OutOfMemoryError(text)

    assert run_command(fail) == 2
    told = capfd.readouterr().err
    assert told.startswith(
        "error: the GPU's memory is full (Tried to allocate 2.35 GiB. GPU 0 has a total capacity "
        "of 79.18 GiB of which 2.14 GiB is free); free it of other programs, or take less at once"
    )
    assert told.count("\n") == 1


def test_other_errors_keep_their_traceback() -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        run_command(fail)
