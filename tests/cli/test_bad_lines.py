"""Commands that use a model, given what they cannot read: one line, exit code 2, and no file that is half written."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mmbert.cli.main import main

COMMANDS: dict[str, tuple[str, ...]] = {
    "embed": ("masks",), "classify": ("classes",), "tag": ("tags",), "fill-mask": ("masks",),
    "answer": ("spans", "-q", "Who is free?", "--context-field", "text"), "rerank": ("ranks", "-q", "Who is free?"),
}  # fmt: skip
GOOD = "All human beings are born <mask>.\n"


Command = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def mmbert(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, list[str]]:
        """Exit code, standard output, and the lines of stderr that are errors, or name an empty file."""
        monkeypatch.setattr(sys, "argv", ["mmbert", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        lines = said.err.splitlines()
        return (
            int(end.value.code or 0),
            said.out,
            [line for line in lines if "mmbert: " in line or line.endswith(" is empty")],
        )

    return call


def _missing(folder: Path) -> Path:
    return folder / "missing.txt"


def _file(name: str, content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (_missing, "no such file"),
    "folder": (lambda folder: folder, "is a folder, not a file"),
    "invalid UTF-8": (_file("a.txt", GOOD.encode() + b"caf\xe9\n"), "a.txt:2: not UTF-8 at byte 4"),
    "UTF-16": (_file("a.txt", GOOD.encode("utf-16-le")), "a.txt:1: this is UTF-16 without a byte order mark"),
    "wrong JSON": (_file("a.jsonl", b'{"text": "<mask>"}\n{"text": \n'), "a.jsonl:2: not JSON"),
    "no object": (_file("a.jsonl", b'{"text": "<mask>"}\n[1]\n'), "a.jsonl:2: [1] is not a JSON object"),
    "deep JSON": (_file("a.jsonl", b"[" * 100_000 + b"\n"), "a.jsonl is not a JSON list"),
    "no field": (_file("a.jsonl", b'{"body": "<mask>"}\n'), "a.jsonl:1 has no field 'text'"),
    "number": (_file("a.jsonl", b'{"text": 3}\n'), "a.jsonl:1: text is int, not text"),
    "null": (_file("a.jsonl", b'{"text": null}\n'), "a.jsonl:1: text is NoneType, not text"),
    "surrogate": (_file("a.jsonl", b'{"text": "<mask> \\ud800"}\n'), "a.jsonl:1: text holds a lone surrogate"),
    "large id": (_file("a.jsonl", b'{"text": "<mask>", "id": 1' + b"0" * 30 + b"}\n"), "id cannot be written as JSON"),
    "no gzip": (_file("a.txt.gz", b"\x1f\x8c\x08"), "a.txt.gz is corrupt"),
    "cut gzip": (_file("a.txt.gz", gzip.compress(GOOD.encode() * 99)[:-9]), "a.txt.gz is cut short"),
    "no zstd": (_file("a.txt.zst", b"PAR1\x15\x04"), "a.txt.zst is a Parquet file"),
    "cut zstd": (_file("a.txt.zst", zstandard.compress(GOOD.encode())[:-9]), "a.txt.zst is cut short"),
}


@pytest.mark.parametrize("bad", list(BAD))
@pytest.mark.parametrize("command", list(COMMANDS))
def test_bad_files(heads: Path, tmp_path: Path, mmbert: Command, command: str, bad: str) -> None:
    make, told = BAD[bad]
    folder, *options = COMMANDS[command]
    out = tmp_path / "out" / "answers.jsonl"
    if bad == "large id" and command == "rerank":
        return  # one query: ids of documents are not repeated
    code, _, errors = mmbert(command, heads / folder, make(tmp_path), *options, "-o", out)
    assert code == 2
    assert len(errors) == 1
    assert told in errors[0]
    assert not out.exists()


@pytest.mark.parametrize("command", list(COMMANDS))
def test_odd_files_that_can_be_read(heads: Path, tmp_path: Path, mmbert: Command, command: str) -> None:
    folder, *options = COMMANDS[command]
    for name in ("empty.txt", "empty.jsonl"):  # it may have been cut, so it is told
        path = _file(name, b"")(tmp_path)
        code, answers, said = mmbert(command, heads / folder, path, *options)
        assert (code, answers) == (0, "")
        assert said[0].endswith(f" {path} is empty")
    assert mmbert(command, heads / folder, *options)[:2] == (0, "")
    nul = _file("nul.txt", b"a\0b <mask>\r\n\x01\x7f\xef\xbf\xbf <mask>")(tmp_path)
    code, answers, _ = mmbert(command, heads / folder, nul, *options)
    assert code == 0
    assert answers.count("\n") == 2
    code, answers, _ = mmbert(command, heads / folder, *options, stdin=b'\xef\xbb\xbf{"text": "<mask>"}\n\n')
    assert code == 0
    assert answers.count("\n") == 1


@pytest.mark.parametrize("command", list(COMMANDS))
def test_bad_models_and_options(heads: Path, tmp_path: Path, mmbert: Command, command: str) -> None:
    folder, *options = COMMANDS[command]
    source = _file("a.txt", GOOD.encode())(tmp_path)
    cut = Path(shutil.copytree(heads / folder, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-1])
    for arguments, told in (
        ([tmp_path / "nowhere", source], "no such model folder"),
        ([tmp_path, source], "no config.json"),
        ([source, source], "no such model folder"),
        ([cut, source], "model.safetensors cannot be read"),
        ([heads / folder, source, "--device", "gpu"], "no device"),
        ([heads / folder, source, "--device", "cuda:99"], "CUDA devices"),
        ([heads / folder, source, "--precision", "fp8"], "precision 'fp8'"),
        ([heads / folder, source, "-o", source.with_name("a.txt") / "out.jsonl"], "cannot write"),
        ([heads / folder, source, "-o", tmp_path / ("n" * 300 + ".jsonl")], "cannot write"),
        ([heads / folder, source, "-o", source.rename(tmp_path / "there.jsonl")], "exists already"),
    ):
        (tmp_path / "a.txt").write_text(GOOD)
        code, out, errors = mmbert(command, *arguments, *options)
        assert (code, out, len(errors)) == (2, "", 1)
        assert told in errors[0]
