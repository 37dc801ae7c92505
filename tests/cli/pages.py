"""The commands of README and guides, and ``make guides``: run them all, line by line, in an empty folder.

    python tests/cli/pages.py [PAGE.md ...]

Fenced blocks in no language, sh or bash are run, and indented lines with a prompt. The lines under a prompt are
compared with what the command prints on a terminal of 200 columns: each must be printed, in this order. Numbers may
differ, since they do between processors, and so may times before lines of the log. A line ``...`` stands for any
others, ``...`` at the end of a line for its rest.

A block behind a comment ``<!-- not run: REASON -->`` is left out: it needs the hub, a GPU, a cluster or data that is
not in the repository. The folder has the examples, links to ``benchmarks``, ``docs`` and ``deploy``, and a copy of the
demo's run, ``runs/nano``. A page may use the models of pages that stand before it in ``ORDER``.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
ORDER = (
    "README", "embed", "search", "classify", "tag", "qa", "choose", "tune-embeddings", "distil", "rerank", "tasks",
    "trim", "data", "settings", "adapt", "serve", "clients",
)  # fmt: skip
"""Pages whose models others use come first; the others follow by name."""


_BEFORE = ("pip install", "source ", "make ")
"""What the reader has done before."""

_ENDS = (0, 141)
"""Good ends; 141: `head` closed the pipe."""

_CLOSED = 1
"""What Click ends with when `head` closed the pipe before all was written."""

_SERVES = re.compile(r"(\w+=\S+ )*mmbert serve ")


@dataclass
class Block:
    """Commands that stand together, what the page shows under each, and why they are not run, if they are not."""

    page: str
    number: int
    reason: str | None
    session: bool
    """Whether the commands stand behind prompts."""
    lines: list[str] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)


def pages() -> list[Path]:
    """README and guides, in the order in which they are run."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
    return sorted(found, key=lambda page: ORDER.index(page.stem) if page.stem in ORDER else len(ORDER))


def blocks(page: Path) -> Iterator[Block]:
    """Blocks of commands, lines that end in ``\\`` and here-documents joined."""
    fence: str | None = None
    reason: str | None = None
    block: Block | None = None
    held = ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        note = re.match(r"\s*<!-- not run: (.+) -->", line)
        mark = re.match(r"\s*```(\w*)", line)
        if block is not None and fence is None and (note or mark):  # a session ends where another block begins
            yield block
            block = reason = None
        if note:
            reason = note[1]
        if mark:
            fence = mark[1] if fence is None else None
            if fence is None and block is not None:
                yield block
                block = reason = None
            continue
        prompt = re.match(r"    \$ (.*)", line)
        command = prompt[1] if prompt else line if fence in ("", "sh", "bash") or held else None
        if command is None or not (command.strip() or held):
            if fence is None and line.strip() and not line.startswith(("    ", "<!--")):
                if block is not None:
                    yield block
                    block = None
                reason = None
            elif fence is None and block is not None and line.startswith("    "):
                block.shown[-1].append(line[4:])
            continue
        held += command
        end = re.search(r"<<'(\w+)'", held)
        if command.endswith("\\") and not end:
            held = held[:-1]
            continue
        if end and command.strip() != end[1]:
            held += "\n"
            continue
        block = block or Block(page.name, number, reason, session=prompt is not None)
        block.lines.append(held.strip())
        block.shown.append([])
        held = ""
    if block is not None:
        yield block


def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="guides-"))
    for name in ("benchmarks", "docs", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "mmbert", "examples"], cwd=folder, check=True)
    shutil.copytree(ROOT / "runs" / "nano", folder / "runs" / "nano")
    return folder


def _serve(line: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a server and wait until it is ready."""
    server = subprocess.Popen(
        ["bash", "-c", f"exec {line}" if "=" not in line.split()[0] else line], cwd=folder, env=environment
    )
    for _ in range(240):
        if server.poll() is not None:
            raise SystemExit(f"{line} ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{_port(line)}/health", timeout=5)
            return server
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise SystemExit(f"{line}: not ready after two minutes")


def _port(line: str) -> str:
    stated = re.search(r"--port (\d+)", line)
    return stated[1] if stated else "8000"


def _end(server: subprocess.Popen[bytes] | None) -> None:
    if server is not None:
        subprocess.run(["pkill", "-TERM", "-P", str(server.pid)], check=False)
        server.terminate()
        server.wait(60)


def _scripts(block: Block) -> Iterator[str]:
    """The block as scripts: what starts a server stands alone; what the reader did before is left out."""
    lines = [line for line in block.lines if not line.startswith(_BEFORE)]
    for serves, group in groupby(lines, key=lambda line: _SERVES.match(line) is not None):
        together = list(group)
        yield from together if serves else ["\n".join(together)]


def _on_terminal(script: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """The exit status of a script and what it prints on a terminal, without colours and bars that were drawn over."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, 200))
    with subprocess.Popen(
        ["bash", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
    ) as process:
        os.close(its)
        printed = b""
        while True:
            try:
                some = os.read(ours, 65536)
            except OSError:  # EIO: the other end is closed
                break
            printed += some
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", printed.decode("utf-8", "replace")).replace("\r\n", "\n")
    return process.returncode, "\n".join(line.rpartition("\r")[2] for line in text.split("\n"))


def _masked(line: str) -> str:
    return " ".join(re.sub(r"\d[\d,]*(\.\d+)?(e[-+]\d+)?", "0", line).split())


def not_printed(shown: list[str], printed: str) -> list[str]:
    """Lines of a page that a command does not print, or not in this place."""
    screen = [_masked(re.sub(r"^\d\d:\d\d:\d\d ", "", line)) for line in printed.splitlines()]
    missing, rest = [], iter(screen)
    for line in shown:
        wanted = _masked(line)
        if wanted in ("", "..."):
            continue
        start = wanted.removesuffix("...")
        if not any(seen.startswith(start) if start != wanted else seen == wanted for seen in rest):
            missing.append(line)
            rest = iter(screen)
    return missing


def _ended_well(status: int, command: str) -> bool:
    return status in _ENDS or (status == _CLOSED and "| head" in command)


def _session(block: Block, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Run commands behind prompts one by one; yields what differs from the page."""
    for command, shown in zip(block.lines, block.shown, strict=True):
        if command.startswith(_BEFORE):
            continue
        print(f"$ {command}", flush=True)
        status, printed = _on_terminal(command, folder, environment)
        print(printed, end="", flush=True)
        fails = any(line.startswith("mmbert: ") for line in shown)  # the page shows an error
        if _ended_well(status, command) == fails:
            yield f"{block.page}:{block.number} ended with {status}: {command}"
        yield from (f"{block.page}:{block.number} not on the screen: {line}" for line in not_printed(shown, printed))


def run(page: Path, folder: Path) -> list[str]:
    """Run a page's blocks; returns what failed or differs."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    servers: dict[str, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    for block in blocks(page):
        if block.reason is not None:
            print(f"-- {block.page}:{block.number} not run: {block.reason}")
            continue
        if block.session:
            failed += _session(block, folder, environment)
            continue
        for script in _scripts(block):
            print(f"$ {script}", flush=True)
            if _SERVES.match(script):
                port = _port(script)
                _end(servers.pop(port, None))  # a page may ask several servers, each at a port of its own
                servers[port] = _serve(script, folder, environment)
                continue
            ended = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", script], cwd=folder, env=environment, check=False
            )
            if not _ended_well(ended.returncode, script):
                failed.append(f"{block.page}:{block.number} ended with {ended.returncode}: {script}")
    for server in servers.values():
        _end(server)
    return failed


def main() -> None:
    """Run the pages that are named, or all."""
    if not (ROOT / "runs" / "nano" / "final").is_dir():
        raise SystemExit("guides are run with the demo's model: make demo")
    wanted = set(sys.argv[1:])
    folder = _scratch()
    failed = [line for page in pages() if not wanted or page.name in wanted for line in run(page, folder)]
    shutil.rmtree(folder)
    print("\n".join(failed) or "every line ran")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
