"""Parallel lines of a corpus whose documents are units that several languages share: chapters, articles, stories.

    python docs/results/tasks/parallel_lines.py CORPUS OUT.jsonl

CORPUS holds ``<language>.jsonl.gz`` with ``text``, ``source`` and ``id`` (``bible/Swahili-NT/1CO.1``: the last part
names the unit). Two documents of one source and unit with equally many lines are taken to be parallel line by line.
Each language gets at most PAIRS pairs, each with the same line in another language.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections import defaultdict
from pathlib import Path

SOURCES = ("bible", "udhr", "asp", "pb", "osguide")
PAIRS = 400
PIVOTS = 12
"""Every second pair is with one of the unit's so many largest languages, so that small ones meet at the same places."""
SHORTEST, LONGEST = 12, 220
"""Characters of a line."""


def read_units(corpus: Path) -> dict[tuple[str, str, int], dict[str, list[str]]]:
    """(source, unit, number of lines) -> language -> lines."""
    units: dict[tuple[str, str, int], dict[str, list[str]]] = defaultdict(dict)
    for path in sorted(corpus.glob("*.jsonl.gz")):
        language = path.name.removesuffix(".jsonl.gz")
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                row = json.loads(line)
                if row["source"] in SOURCES:
                    lines = row["text"].split("\n")
                    units[row["source"], row["id"].rpartition("/")[2], len(lines)][language] = lines
    return {key: unit for key, unit in units.items() if len(unit) > 1}


def main(corpus: Path, out: Path) -> None:
    draw = random.Random(0)
    units = read_units(corpus)
    places: dict[str, list[tuple[tuple[str, str, int], int]]] = defaultdict(list)
    for key, unit in units.items():
        for language, lines in unit.items():
            places[language] += [(key, number) for number, line in enumerate(lines) if SHORTEST <= len(line) <= LONGEST]
    rows = []
    for language, there in sorted(places.items()):
        for index, (key, number) in enumerate(draw.sample(there, min(PAIRS, len(there)))):
            others = sorted((each for each in units[key] if each != language), key=lambda each: -len(places[each]))
            other = draw.choice(others[:PIVOTS] if index % 2 else others)
            line, match = units[key][language][number], units[key][other][number]
            if SHORTEST <= len(match) <= LONGEST and match != line:
                rows.append({"query": line, "positive": match, "language": language})
    draw.shuffle(rows)
    with out.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows):,} pairs, {len(places)} languages", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
