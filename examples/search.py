"""Search the lines of a file by meaning and by words, with a query in any language.

    python examples/search.py runs/nano/final texts.txt "good morning"

The index is written to texts.txt.index in this folder. The next call opens it and adds new lines.
"""

import argparse
import sys
from pathlib import Path

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/nano/final", help="default: what `make demo` trains")
parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("texts.txt"))
parser.add_argument("query", nargs="?", default="good morning")
options = parser.parse_args()

try:
    index = mmbert.SearchIndex.create(f"{options.file.name}.index", options.model, resume=True)
    lines = options.file.read_text(encoding="utf-8").splitlines()
    index.add({"id": number, "text": text} for number, text in enumerate(lines, 1) if text.strip())
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

for hit in index(options.query, top_k=5, hybrid=True):
    print(f"{hit.score:.3f}  {options.file}:{hit.id}  {hit.text}")
