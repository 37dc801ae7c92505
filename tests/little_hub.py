"""A little hub of data sets on this machine, which huggingface-hub and ``datasets`` ask themselves."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from loopback import address, listen

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONVERTED = "89abcdef0123456789abcdef0123456789abcdef"
"""The commit of the branch ``refs/convert/parquet``."""

REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "refs/convert/parquet": CONVERTED, CONVERTED: CONVERTED}


class Hub:
    """Answers what huggingface-hub asks for datasets: their commit, their files, and parts of a file's bytes."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Dataset -> path -> content."""
        self.converted: dict[str, dict[str, bytes]] = {}
        """The same of the branch ``refs/convert/parquet``."""
        self.gated: set[str] = set()
        """Datasets whose files are kept back."""
        self.asked: list[str] = []
        self.closed = False
        self.server = listen(self.answer)
        self.address = address(self.server)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        if self.closed:  # a connection of before, which the client keeps open
            request.close_connection = True
            return
        path = unquote(urlsplit(request.path).path)
        self.asked.append(path)
        pattern = r"(?:/api)?/datasets/([\w.-]+/[\w.-]+)(?:/(revision|tree|resolve)/(refs/convert/parquet|\w+)/?(.*))?$"
        match = re.match(pattern, path)
        name, revision = (match[1], match[3] or "main") if match else ("", "")
        files = (self.converted if REVISIONS.get(revision) == CONVERTED else self.files).get(name)
        if match is None or name not in self.files:
            self.refuse(request, 404, "RepoNotFound")
        elif files is None or revision not in REVISIONS:
            self.refuse(request, 404, "RevisionNotFound")
        elif match[2] == "resolve" and name in self.gated:
            self.refuse(request, 401, "GatedRepo")
        elif match[2] == "resolve":
            self.send_file(request, files.get(match[4]), REVISIONS[revision])
        else:
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
                if match[4] == "" or name.startswith(f"{match[4]}/")
            ]
            values: Any = listing if match[2] == "tree" else {"id": name, "sha": REVISIONS[revision]}
            request.send_response(200)
            request.send_header("Content-Type", "application/json")
            self.send(request, json.dumps(values).encode())

    def refuse(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        """An error as the hub names it."""
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        self.send(request, b"{}")

    def send_file(self, request: BaseHTTPRequestHandler, data: bytes | None, commit: str) -> None:
        """A file, or the part that is asked for."""
        if data is None:
            self.refuse(request, 404, "EntryNotFound")
            return
        wanted = re.match(r"bytes=(\d+)-(\d+)", request.headers.get("Range") or "")
        part = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted else data
        request.send_response(206 if wanted else 200)
        request.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        request.send_header("X-Repo-Commit", commit)
        self.send(request, part)

    def send(self, request: BaseHTTPRequestHandler, data: bytes) -> None:
        """The end of a response."""
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)

    def close(self) -> None:
        """From now on nobody answers."""
        self.closed = True
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def little_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that huggingface-hub sees."""
    from huggingface_hub import HfFileSystem, constants

    little = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", little.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", little.address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    HfFileSystem.clear_instance_cache()
    yield little
    HfFileSystem.clear_instance_cache()
    little.close()
