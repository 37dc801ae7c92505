"""The raw requests of benchmarks/http_servers.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_path = Path(__file__).parents[2] / "benchmarks" / "http_servers.py"
_spec = importlib.util.spec_from_file_location("http_servers", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)

GET: bytes = _module.GET
HEAD: bytes = _module.HEAD
REFUSED: dict[str, bytes] = _module.REFUSED
send = _module.send
