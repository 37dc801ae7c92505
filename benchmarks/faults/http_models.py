"""Folders whose tokenizer panics or expands a text without bound, served and asked."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from outcome import Outcome
from served import Served

GROUP = "tokenizers of hostile folders"
Changed = Callable[[dict[str, Any]], None]


def _charsmap(size: int) -> str:
    """A map of characters of ``size`` entries that lead nowhere; a byte beyond them panics."""
    return base64.b64encode((4 * size).to_bytes(4, "little") + bytes(4 * size)).decode()


def _normalize(normalizer: dict[str, Any]) -> Changed:
    return lambda tokenizer: tokenizer.update(normalizer=normalizer)


def _grow(times: int) -> Changed:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    return _normalize({"type": "Sequence", "normalizers": [step] * times})


FOLDERS: dict[str, Changed] = {
    "panics at every text": _normalize({"type": "Precompiled", "precompiled_charsmap": _charsmap(2)}),
    "panics beyond ASCII": _normalize({"type": "Precompiled", "precompiled_charsmap": _charsmap(128)}),
    "a letter becomes a hundred thousand": _grow(5),
    "a letter becomes ten thousand million": _grow(10),
    "a pattern that goes back without end": _normalize(
        {"type": "Replace", "pattern": {"Regex": "(a|a)*(a|a)*(a|a)*(a|a)*$x"}, "content": ""}
    ),
}
TEXTS = ("plain", "caf\u00e9 au lait", "a" * 200)


def hostile(model: Path, home: Path) -> Iterator[Outcome]:
    """Serve each folder: it does not start, and says why, or one request fails and the next is answered."""
    for name, change in FOLDERS.items():
        folder = home / "hostile"
        shutil.copytree(model, folder)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        change(tokenizer)
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        yield _serve(name, folder, home)
        shutil.rmtree(folder)


def _serve(name: str, folder: Path, home: Path) -> Outcome:
    began = time.monotonic()
    try:
        served = Served([folder], home)
    except RuntimeError as error:
        said = str(error).strip()
        # Rust writes the lines of a panic itself, before Python hears of it; one line of ours has to follow.
        broken = "Traceback" in said or ("panicked at" in said and "mmbert: " not in said)
        kind = "traceback" if broken else "named" if "mmbert: " in said else "hang"
        return Outcome(GROUP, name, kind, said.splitlines()[-1][:200] if said else "", time.monotonic() - began)
    since = served.begin()
    answers = [served.post("/embed", {"inputs": text}, 30.0) for text in TEXTS]
    health, memory = served.health(since), served.memory()
    statuses = [answer.status for answer in answers]
    kind = "hang" if None in statuses or health > 5 else "500" if 500 in statuses else "named"
    kind = "harmless" if set(statuses) == {200} else kind
    outcome = Outcome(GROUP, name, kind, f"{statuses}", time.monotonic() - began, health, memory)
    stop = served.stop()
    stderr = served.said()
    if stop is None:
        outcome = replace(outcome, kind="hang", said=f"{outcome.said}; SIGTERM did not end it")
    elif "Traceback" in stderr and kind == "named":  # the panic's own lines are written by Rust, before Python hears
        outcome = replace(outcome, kind="traceback")
    return replace(outcome, stop=stop)
