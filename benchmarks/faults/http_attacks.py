"""Attacks on a running server: what one client, a page of another origin or a hostile folder may send it.

    python benchmarks/faults/http_attacks.py [--model runs/nano/final] [--json FILE] [--before FILE] [name ...]

Each attack is tried for real on ``mmbert serve`` with default options. While it runs, ``/health`` is asked every 50 ms
and the server's memory is measured; at the end the server gets SIGTERM. Prints the table of docs/faults.md.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import http_bodies
import http_connections
import http_framing
import http_fuzz
import http_models
import http_search
from outcome import Outcome, failures, keep, table
from served import Answer, Served

TESTS = Path(__file__).parents[2] / "tests"
sys.path[:0] = [str(TESTS / "serving"), str(TESTS)]  # models of every kind


@dataclass(frozen=True)
class Group:
    """Attacks that are counted together."""

    name: str
    attacks: dict[str, Callable[[Served], Answer | tuple[str, str]]]
    own: bool = False
    """Whether each gets a server of its own: those that may leave it broken."""
    beside: bool = False
    """Whether they run at once, on one server: those that only wait."""


GROUPS = (
    Group("large and expensive bodies", http_bodies.ATTACKS, own=True),
    Group("connections", http_connections.ATTACKS, own=True),
    Group("slow clients", http_connections.SLOW, beside=True),
    Group("origins and hosts", http_framing.ORIGINS),
    Group("framing", http_framing.FRAMING),
    Group(http_search.GROUP, http_search.ATTACKS),
)


def judge(answer: Answer | tuple[str, str]) -> tuple[str, str]:
    """Return (kind, what was said) of an answer to what may be answered or refused."""
    if isinstance(answer, tuple):
        return answer
    if answer.status is None:
        return ("hang", "no answer in time") if answer.timed_out else ("silent", "closed without an answer")
    said = f"{answer.status} {answer.body[:200].decode(errors='replace')}"
    if answer.status in (500, 502, 504):
        return "500", said
    if answer.status >= 400:
        line = answer.body.strip().replace(b"\\\\", b"")  # without escaped backslashes
        short = len(line) <= 2000 and b"\n" not in line and b"\\n" not in line
        return ("named" if short else "silent"), said
    return "harmless", said[:40]


def attack(group: Group, name: str, served: Served, *, quiet: bool = False) -> Outcome:
    """Try one attack on a server. ``quiet``: its stderr belongs to several attacks."""
    since = served.begin()
    kind, said = judge(group.attacks[name](served))
    seconds = time.monotonic() - since
    time.sleep(0.1)
    after = served.post("/embed", {"inputs": "still there"}, 30.0)
    if after.status != 200 and kind in ("named", "harmless"):
        kind, said = "hang", f"{said}; afterwards a text is answered by {after.status}"
    kind, said = _with_stderr(kind, said, "" if quiet else served.said())
    return Outcome(group.name, name, kind, said, seconds, served.health(since), served.memory())


def run_group(group: Group, start: Callable[..., Served]) -> Iterator[Outcome]:
    """Try all attacks of a group; the last outcome of each server has its SIGTERM."""
    if group.own:
        for name in group.attacks:
            served = start(**http_connections.SERVERS.get(name, {}))
            yield _stopped(served, attack(group, name, served))
        return
    served = start()
    names = list(group.attacks)
    with ThreadPoolExecutor(len(names) if group.beside else 1) as pool:
        found = list(pool.map(lambda name: attack(group, name, served, quiet=group.beside), names))
    yield from found[:-1]
    kind, said = _with_stderr(found[-1].kind, found[-1].said, served.said())
    yield _stopped(served, replace(found[-1], kind=kind, said=said))


def run_all(model: Path, names: Iterable[str] = ()) -> Iterator[Outcome]:
    """Try all attacks, or those of which a group's or their own name holds one of ``names``."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    wanted = list(names)
    with tempfile.TemporaryDirectory(prefix="attacks-") as temporary:
        home = Path(temporary)
        for group in GROUPS:
            chosen = {
                name: act for name, act in group.attacks.items()
                if not wanted or any(part in f"{group.name}: {name}" for part in wanted)
            }  # fmt: skip
            if chosen:
                served: dict[str, Any] = {}
                if group.name == http_search.GROUP:
                    served["index"] = http_search.build(model, home)
                start = partial(Served, [model], home, **served)
                yield from _told(run_group(replace(group, attacks=chosen), start))
        if not wanted or "models" in wanted:
            yield from _told(http_models.hostile(model, home))
        if not wanted or "fuzz" in wanted:
            yield from _told(http_fuzz.fuzz(home))


def _told(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    for outcome in outcomes:
        if outcome.kind not in ("named", "harmless") or outcome.group != http_fuzz.GROUP:
            figures = f"health {outcome.health or 0:.2f} s, memory {outcome.memory or 0:.1f}x, SIGTERM {outcome.stop}"
            said = f"{outcome.group}: {outcome.name}: {outcome.seconds:.1f} s, {figures}: {outcome.said}"
            sys.stderr.write(f"{outcome.kind:9} {said}\n")
        yield outcome


def _with_stderr(kind: str, said: str, stderr: str) -> tuple[str, str]:
    """What a try ended in, with what the server wrote meanwhile taken into account."""
    for mark in ("Traceback (most recent call last)", "panicked at"):
        if mark in stderr and kind not in ("500", "hang"):
            return "traceback", f"{said}; {stderr.count(mark)} on stderr"
    return kind, said


def _stopped(served: Served, outcome: Outcome) -> Outcome:
    seconds = served.stop()
    if seconds is None:
        return replace(outcome, kind="hang", said=f"{outcome.said}; SIGTERM did not end it")
    kind, said = _with_stderr(outcome.kind, outcome.said, served.said())
    return replace(outcome, kind=kind, said=said, stop=seconds)


def main() -> None:
    """Try what is asked for, all without names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of groups or attacks; models; fuzz")
    parser.add_argument("--model", type=Path, default=Path("runs/nano/final"), help="a masked language model")
    parser.add_argument("--json", type=Path, help="write each outcome as a line of JSON")
    options = parser.parse_args()
    outcomes = keep(run_all(options.model.absolute(), options.names), options.json)
    print(table(outcomes))
    sys.exit(bool(failures(outcomes)))


if __name__ == "__main__":
    main()
