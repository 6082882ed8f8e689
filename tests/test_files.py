"""Files that a user names: refused before any work, written in one step, and named as the user wrote them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tokscale import _files
from tokscale.errors import InputError


def test_a_path_that_can_be_written_is_given_back(tmp_path: Path) -> None:
    assert _files.writable(str(tmp_path / "a.csv")) == tmp_path / "a.csv"


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, text in (
        (tmp_path, f"{tmp_path} is a folder; name a file"),
        (tmp_path / "no" / "a", f"{tmp_path}/no/a: its folder {tmp_path}/no does not exist; make the folder, or "),
        (tmp_path / "file" / "a", f"{tmp_path}/file/a: its folder {tmp_path}/file is a file; make the folder, or "),
    ):
        with pytest.raises(InputError, match=f"^{re.escape(text)}"):
            _files.writable(path)
        with pytest.raises(InputError, match=f"^{re.escape(text)}"):
            _files.write_whole(path, "text")
    assert sorted(os.listdir(tmp_path)) == ["file"] and (tmp_path / "file").read_text() == "mine"


def test_a_failure_names_the_users_path_and_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.csv"
    _files.write_whole(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / ".s.csv.1"))

    monkeypatch.setattr(os, "fsync", full)
    text = f"{path} cannot be written: No space left on device; name another path"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        _files.write_whole(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["s.csv"]
