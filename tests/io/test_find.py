"""A path is taken as it is, then as a glob; what other programs leave beside data is left out; the order is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmbert.errors import DataError
from mmbert.io.find import bare_name, find_files, packed, walk


def names(place: Path | str, root: Path, suffixes: tuple[str, ...] = (".jsonl",)) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_files(str(place), suffixes, "data.path")[1]]


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("{}")


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    make(tmp_path, "b.jsonl", "a/c.jsonl", "._b.jsonl", ".ipynb_checkpoints/b.jsonl", "__MACOSX/b.jsonl",
         "a/__MACOSX/._c.jsonl", ".DS_Store", "a/.hidden/d.jsonl", "_a.jsonl")  # fmt: skip
    assert names(tmp_path, tmp_path) == ["_a.jsonl", "a/c.jsonl", "b.jsonl"]
    assert names(f"{tmp_path}/**/*.jsonl", tmp_path) == ["_a.jsonl", "a/c.jsonl", "b.jsonl"]
    assert names(f"{tmp_path}/*/*.jsonl", tmp_path) == ["a/c.jsonl"]
    assert names(f"{tmp_path}/__MACOSX/*", tmp_path) == ["__MACOSX/b.jsonl"]  # asked for by name
    assert names(tmp_path / "._b.jsonl", tmp_path) == ["._b.jsonl"]
    hidden = tmp_path / ".cache" / "data"
    make(hidden, "e.jsonl")
    assert names(hidden, hidden) == ["e.jsonl"]  # what is above the folder does not hide it


def test_suffixes_in_any_case(tmp_path: Path) -> None:
    make(tmp_path, "a.JSONL", "b.Jsonl.GZ", "c.jsonl.bz2", "d.json", "e.jsonl.xz", "f.jsonl.zst")
    expected = ["a.JSONL", "b.Jsonl.GZ", "c.jsonl.bz2", "e.jsonl.xz", "f.jsonl.zst"]
    assert names(tmp_path, tmp_path, packed(".jsonl")) == expected
    assert [bare_name(name) for name in ("A.CSV.GZ", "a.tsv", "b.gz", "c.zstd")] == ["a.csv", "a.tsv", "b", "c"]


@pytest.mark.parametrize("folder", ["[2024] corpus", "a*b", "what?", "[ab]", "[!a]", "x[1", "deep/[1]/[2]"])
def test_wild_characters_in_names_of_folders(tmp_path: Path, folder: str) -> None:
    make(tmp_path, f"{folder}/a.jsonl", f"{folder}/sub/b.jsonl", "ab/other.jsonl", "1/other.jsonl")
    place = tmp_path / folder
    assert names(place / "a.jsonl", place) == ["a.jsonl"]
    assert names(place, place) == ["a.jsonl", "sub/b.jsonl"]
    assert names(f"{place}/*.jsonl", place) == ["a.jsonl"]
    assert names(f"{place}/**/*.jsonl", place) == ["a.jsonl", "sub/b.jsonl"]


def test_brackets_behind_a_wild_character(tmp_path: Path) -> None:
    make(tmp_path, "x/[v1] a.jsonl", "y/[v1] a.jsonl")
    assert names(f"{tmp_path}/*/[v1] a.jsonl", tmp_path) == ["x/[v1] a.jsonl", "y/[v1] a.jsonl"]
    make(tmp_path, "x/1.jsonl", "x/2.jsonl", "x/3.jsonl")
    assert names(f"{tmp_path}/x/[12].jsonl", tmp_path) == ["x/1.jsonl", "x/2.jsonl"]


def test_a_relative_glob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.jsonl", "b/c.jsonl")
    monkeypatch.chdir(tmp_path)
    root, found = find_files("*.jsonl", (".jsonl",), "data.path")
    assert (root, found) == (Path(), [Path("a.jsonl")])
    assert find_files("b/*", (), "data.path") == (Path("b"), [Path("b/c.jsonl")])


def test_links(tmp_path: Path) -> None:
    make(tmp_path, "store/one.jsonl", "data/a.jsonl")
    (tmp_path / "data/linked").symlink_to(tmp_path / "store")
    (tmp_path / "data/b.jsonl").symlink_to(tmp_path / "store/one.jsonl")
    (tmp_path / "data/up").symlink_to(tmp_path / "data")  # a circle
    assert names(tmp_path / "data", tmp_path) == ["data/a.jsonl", "data/b.jsonl", "data/linked/one.jsonl"]
    (tmp_path / "data/c.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl is a link to .*gone\.jsonl, which is not there: fix or remove"):
        walk(tmp_path / "data", (".jsonl",))


def test_the_order_is_that_of_names(tmp_path: Path) -> None:
    make(tmp_path, "b.jsonl", "a/z.jsonl", "a.jsonl", "B.jsonl", "a-b.jsonl", "é.jsonl")
    assert names(tmp_path, tmp_path) == sorted(["b.jsonl", "a/z.jsonl", "a.jsonl", "B.jsonl", "a-b.jsonl", "é.jsonl"])


def test_nothing_there(tmp_path: Path) -> None:
    for place, said in (
        ("none", "no such file or folder"),
        ("*.jsonl", "no file matches"),
        ("", "holds no file ending"),
    ):
        with pytest.raises(DataError, match=rf"{said}.*\(data\.path\)"):
            names(f"{tmp_path}/{place}", tmp_path)
