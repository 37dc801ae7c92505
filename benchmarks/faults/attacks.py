"""All attacks with one command: over HTTP, on files, with two processes at once, and with kills.

    python benchmarks/faults/attacks.py [--model runs/nano/final] [--json FILE] [--before FILE]

Takes 20 minutes on two cores that also do other work. Prints the table of docs/faults.md, with ``--before`` beside the
figures of an earlier run's ``--json``, and below it each try that did not end as it must; ends with 1 if there is one.
The parts by themselves, with options: ``http_attacks.py``, ``corrupt.py``, ``races.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from outcome import failures, keep, processor, read, table

PARTS = ("http_attacks.py", "corrupt.py", "races.py")


def main() -> None:
    """Run the parts one after another, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/nano/final"), help="a masked language model")
    parser.add_argument("--json", type=Path, help="write each outcome as a line of JSON")
    parser.add_argument("--before", type=Path, help="what --json wrote on another version")
    options = parser.parse_args()
    began, outcomes = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="attacks-") as temporary:
        for part in PARTS:
            record = Path(temporary) / f"{part}.jsonl"
            command = [sys.executable, str(Path(__file__).parent / part), "--model", str(options.model.absolute())]
            subprocess.run([*command, "--json", str(record)], stdout=subprocess.DEVNULL)
            if not record.is_file():
                raise SystemExit(f"{part} did not come to its end")
            outcomes += read(record)
    keep(outcomes, options.json)
    before = [] if options.before is None else read(options.before)
    spent = f"{len(outcomes)} tries in {(time.monotonic() - began) / 60:.0f} minutes, {processor()}"
    print(f"{table(outcomes, before)}\n\n{spent}")
    for outcome in failures(outcomes):
        print(f"{outcome.kind}: {outcome.group}: {outcome.name}: {outcome.said}")
    sys.exit(bool(failures(outcomes)))


if __name__ == "__main__":
    main()
