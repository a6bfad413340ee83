"""Puts the stand-in of vLLM where an installed one would be."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_FOLDER = Path(__file__).with_name("vllm_stand_in")


def install_vllm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module ``vllm`` for one test, and for the processes that it starts."""
    monkeypatch.syspath_prepend(_FOLDER)
    spec = importlib.util.spec_from_file_location("vllm", _FOLDER / "vllm.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "vllm", module)
    spec.loader.exec_module(module)
    return module
