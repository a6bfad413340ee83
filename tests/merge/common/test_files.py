"""Locks, also where a filesystem has none; folders that cannot go; hashes of values."""

import errno
import fcntl
import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.search.settings import SearchSettings
from launch.search.storage import Trials
from merge.common.errors import UserError
from merge.common.files import file_lock, remove_folder, sha256_json

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def no_locks(request, monkeypatch):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(request.param, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_folder_without_locks_is_worked_in_with_a_warning(tmp_path, no_locks, caplog):
    with caplog.at_level(logging.WARNING), file_lock(tmp_path / ".lock", "busy"):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()
    assert f"{tmp_path}: its filesystem has no file locks" in caplog.text


def test_a_folder_that_cannot_be_deleted_is_told_of(tmp_path, caplog, monkeypatch):
    """In it may be checkpoints of a model that answers anything."""
    folder = tmp_path / "work"
    (folder / "step").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
        remove_folder(folder)
    assert f"{folder}: could not be deleted" in caplog.text
    caplog.clear()
    remove_folder(folder)
    remove_folder(folder)  # what is not there
    assert not folder.exists() and not caplog.records


def test_a_held_lock_is_still_refused(tmp_path):
    file = tmp_path / ".lock"
    with (
        file_lock(file, "first"),
        pytest.raises(UserError, match="second"),
        file_lock(file, "second"),
    ):
        pass


def test_a_killed_process_holds_nothing_back(tmp_path):
    """Refused in one line while the other process lives, free at once when it was killed."""
    file = tmp_path / ".lock"
    code = (
        "import sys, time; from pathlib import Path; from merge.common.files import file_lock\n"
        "with file_lock(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, file]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"^in use$"), file_lock(file, "in use"):
            pass
        assert file.exists()
        other.kill()
    assert file.exists()
    with file_lock(file, "in use"):
        pass
    assert not file.exists()


def test_workers_of_a_search_need_locks(tmp_path, no_locks):
    settings = SearchSettings.model_validate({"suite": "s.yaml", "workers": 2})
    with pytest.raises(UserError, match=r"set search\.workers to 1"):
        Trials(tmp_path, "dense", settings, 0, shared=True)


def test_hashes_of_values_are_those_that_files_on_disk_hold():
    """The hash of the JSON text as earlier versions wrote it, else finished answers are lost."""
    value = {"b": [1, None, "\u00e9"], "a": 0.5}
    for text, sort_keys in (
        (rb'{"b": [1, null, "\u00e9"], "a": 0.5}', False),
        (rb'{"a": 0.5, "b": [1, null, "\u00e9"]}', True),
    ):
        assert sha256_json(value, sort_keys) == hashlib.sha256(text).hexdigest()
