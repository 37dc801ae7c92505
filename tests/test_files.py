from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from mmbert.errors import DataError, MMBertError
from mmbert.files import (
    PARTIAL,
    atomic_file,
    atomic_folder,
    read_checked_json,
    read_json,
    sha256,
    write_checked_json,
    write_json,
    write_text,
)


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "one")
    with suppress(RuntimeError), atomic_file(path) as file:
        file.write(b"two, cut sh")
        raise RuntimeError
    assert path.read_text() == "one"
    assert os.listdir(path.parent) == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044, "others may read it, as the umask says"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, number: float) -> None:
    with pytest.raises(MMBertError, match=r"file\.json would hold a number that is NaN or infinite"):
        write_json(tmp_path / "file.json", {"scores": [1.0, number]})
    assert not os.listdir(tmp_path)


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for number in range(2):
        with atomic_folder(path) as partial:
            assert not any(partial.iterdir())
            (partial / f"{number}.txt").write_text("x")
        assert os.listdir(path) == [f"{number}.txt"]
    with suppress(RuntimeError), atomic_folder(path) as partial:
        (partial / "2.txt").write_text("x")
        raise RuntimeError
    assert os.listdir(path) == ["1.txt"]
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    left = tmp_path / ("folder" + PARTIAL)
    left.mkdir()
    (left / "half").write_text("x")
    with atomic_folder(tmp_path / "folder") as partial:
        (partial / "whole").write_text("x")
    assert os.listdir(tmp_path / "folder") == ["whole"]


@pytest.mark.parametrize(("code", "says"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose another folder")])
def test_a_full_or_closed_disk_is_one_line(tmp_path: Path, code: int, says: str) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(MMBertError, match=says), atomic_file(path):
        raise OSError(code, os.strerror(code))
    assert path.read_text() == "old"


def test_a_changed_figure_of_a_file_of_ours_is_named(tmp_path: Path) -> None:
    path, values = tmp_path / "a.json", {"b": [1, 2.5, None], "a": {"ሰላም": 1e-9}}
    write_checked_json(path, values)
    assert read_checked_json(path) == values
    path.write_text(path.read_text().replace("2.5", "2.6"))
    with pytest.raises(DataError, match="does not match"):
        read_checked_json(path)
    write_json(path, values)  # as older versions wrote it
    assert read_checked_json(path) == values


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"ሰላም": [1, 2.5, None]})
    assert read_json(path) == {"ሰላም": [1, 2.5, None]}
    assert sha256(path) == sha256(path)
    path.write_text("{")
    with pytest.raises(MMBertError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(MMBertError, match="no such file"):
        read_json(tmp_path / "b.json")
