"""An index of the lines of a file, searched by meaning and by words, in whatever language the query is.

    python examples/search.py runs/nano/final texts.txt "good morning"

The index lies in texts.txt.index; the second time it is only opened. Lines that were added are added.
"""

import sys
from pathlib import Path

import mmbert

model, file, query = sys.argv[1:]
folder = Path(f"{file}.index")
lines = Path(file).read_text(encoding="utf-8").splitlines()

index = mmbert.SearchIndex.load(folder) if folder.exists() else mmbert.SearchIndex.create(folder, model)
index.add({"id": number, "text": text} for number, text in enumerate(lines, 1) if text.strip())

for hit in index(query, top_k=5, hybrid=True):
    print(f"{hit.score:.3f}  {file}:{hit.id}  {hit.text}")
