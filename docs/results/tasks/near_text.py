"""Text near the sentences of the tasks, to pretrain on: what the published sets hold beside their test rows.

    python docs/results/tasks/near_text.py EVAL NEAR

EVAL holds ``<task>/<language>/{train,test}.jsonl.gz``. Of training rows the text alone is taken, no label; of the sets
of questions the passages, which are those of the test questions too, so that a model that has read NEAR is not to be
scored on XQuAD or AfriQA. Neighbouring short rows make a document of RUN rows. Written is ``NEAR/<language>.jsonl``.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections import defaultdict
from pathlib import Path

TRAIN = ("sib200", "masakhaner", "masakhapos", "udpos", "afrisenti")
PASSAGES = ("xquad", "jsquad", "afriqa")
PIVOTS = {"en": "eng_Latn", "fr": "fra_Latn"}
"""Languages of AfriQA's passages."""
RUN = 8


def read(path: Path) -> list[dict]:
    """The rows of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main(data: Path, out: Path) -> None:
    documents: dict[str, dict[str, None]] = defaultdict(dict)  # as sets that keep their order
    for task in TRAIN:
        for path in sorted(data.glob(f"{task}/*/train.jsonl.gz")):
            texts = [row.get("text") or " ".join(row["tokens"]) for row in read(path)]
            documents[path.parent.name] |= dict.fromkeys(
                "\n".join(texts[start : start + RUN]) for start in range(0, len(texts), RUN)
            )
    for task in PASSAGES:
        for path in sorted(data.glob(f"{task}/*/*.jsonl.gz")):
            for row in read(path):
                language = row.get("context_lang", path.parent.name)
                documents[PIVOTS.get(language, language)][row["context"]] = None
    out.mkdir(parents=True, exist_ok=True)
    for language, texts in sorted(documents.items()):
        with (out / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for number, text in enumerate(texts):
                file.write(json.dumps({"id": f"{language}-{number}", "text": text}, ensure_ascii=False) + "\n")
        print(f"{language}: {len(texts):,} documents, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
