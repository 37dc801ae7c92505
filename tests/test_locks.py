"""Locks among real processes: one that writes, one that comes second, one that is killed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmbert.errors import MMBertError
from mmbert.files import PARTIAL, atomic_file, atomic_folder
from mmbert.locks import LOCK, lock_folder

HOLD = """
import sys
from pathlib import Path
from mmbert.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run Python code until it prints a line; it ends with its standard input, at the end of the block."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.communicate(timeout=30)


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    with (
        another_process(HOLD, folder) as holder,
        pytest.raises(MMBertError, match=rf"{folder} is being written by process {holder.pid} on .* since 20"),
    ):
        lock_folder(folder).__enter__()
    with lock_folder(folder):
        assert (folder / LOCK).is_file()
    assert list(folder.iterdir()) == []


def test_a_killed_holder_is_taken_over_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with another_process(HOLD, tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    with caplog.at_level(logging.INFO), lock_folder(tmp_path):
        assert f"not given back by process {holder.pid}" in caplog.text


FORK = """
import os, sys, time
from pathlib import Path
from mmbert.locks import lock_folder
with lock_folder(Path(sys.argv[1])):
    ready, told = os.pipe()
    if os.fork() == 0:  # what a fork runs in the child has let go of the lock by now
        os.close(1)
        Path(sys.argv[1], "child").write_text(str(os.getpid()))
        os.write(told, b"1")
        time.sleep(600)
    os.read(ready, 1)
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_ends_with_its_process_and_not_with_its_children(tmp_path: Path) -> None:
    with another_process(FORK, tmp_path) as holder:
        child = int((tmp_path / "child").read_text())
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
        try:
            with lock_folder(tmp_path):
                os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_who_waits_gets_it(tmp_path: Path) -> None:
    with another_process(HOLD, tmp_path) as holder:
        assert holder.stdin is not None
        holder.stdin.close()
        with lock_folder(tmp_path, wait=30):
            pass
        holder.wait(timeout=30)


def test_a_call_inside_passes_through_and_an_error_gives_back(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock_folder(tmp_path), lock_folder(tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_removes_its_folder_does_not_lock_out_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "pieces"
    with lock_folder(folder):
        (folder / LOCK).unlink()
        folder.rmdir()
    with lock_folder(folder), another_process("print()"):
        assert (folder / LOCK).is_file()


WRITE = """
import sys
from pathlib import Path
from mmbert.files import atomic_file, atomic_folder
path, content = Path(sys.argv[1]), sys.argv[2]
for number in range(200):
    if sys.argv[3] == "file":
        with atomic_file(path) as file:
            for _ in range(50):
                file.write(content.encode())
    else:
        with atomic_folder(path) as folder:
            for name in range(3):
                (folder / str(name)).write_text(content)
print("done", flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_writers_at_once_leave_one_whole_result(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "result"
    command = [sys.executable, "-c", WRITE, str(path)]
    writers = [subprocess.Popen([*command, content, kind], stderr=subprocess.PIPE) for content in "abc"]
    for writer in writers:
        _, said = writer.communicate(timeout=120)
        assert writer.returncode == 0, said.decode()
    found = [path.read_text()] if kind == "file" else [(path / str(name)).read_text() * 50 for name in range(3)]
    assert set(found) <= {content * 50 for content in "abc"}
    assert len(set(found)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_in_use_is_left_to_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic_file(path) as first:
        first.write(b"first")
        with atomic_file(path) as second:
            second.write(b"second")
            assert {found.name for found in tmp_path.iterdir()} == {"x" + PARTIAL, "x.2" + PARTIAL}
        assert path.read_bytes() == b"second"
    assert path.read_bytes() == b"first"
    with atomic_folder(tmp_path / "f") as outer, atomic_folder(tmp_path / "f") as inner:
        assert outer != inner
    assert sorted(found.name for found in tmp_path.iterdir()) == ["f", "x"]
