"""Which files the graphs of a server's clients may touch, by the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import config
from runtime.errors import PermissionDenied
from runtime.master.plane import file_access


def access(**options: object):
    return file_access(config.load({"insecure": True, **options}, {}, user_file=False, flag_origin="argument").settings)


def test_a_listener_of_this_machine_allows_every_file(tmp_path: Path) -> None:
    for listen in ("127.0.0.1:0", "unix:/x", "localhost:0"):
        assert access(listen=listen).check(tmp_path / "file") == str(tmp_path / "file")


def test_a_listener_that_others_reach_allows_none_unless_told(tmp_path: Path) -> None:
    with pytest.raises(PermissionDenied, match="files_allow"):
        access(listen="0.0.0.0:0").check(tmp_path / "file")
    access(listen="0.0.0.0:0", files_allow="all").check(tmp_path / "file")


def test_directories_confine_after_links_are_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    files = access(listen="127.0.0.1:0", files_allow=str(inside))
    files.check(inside / "file")
    for path in (outside / "file", inside / "link" / "file", inside / ".." / "out" / "file"):
        with pytest.raises(PermissionDenied, match="outside the directories"):
            files.check(path)


def test_none_and_a_wrong_value() -> None:
    with pytest.raises(PermissionDenied):
        access(listen="127.0.0.1:0", files_allow="none").check("/x")
    with pytest.raises(config.ConfigError, match="expected auto, all, none"):
        access(files_allow=7)
