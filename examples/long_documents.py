"""Find the sentences of a long document that match a query, by late chunking.

    python examples/long_documents.py runs/nano/final "a storm at sea" novel.txt

The model encodes the whole text; the token vectors of each sentence are averaged afterwards.
"""

import argparse
import sys
from pathlib import Path

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/nano/final", help="default: what `make demo` trains")
parser.add_argument("query", nargs="?", default="when does the train leave?")
parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("texts.txt"))
options = parser.parse_args()

try:
    text = options.file.read_text(encoding="utf-8")
    embed = mmbert.Embedder.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))
document = embed.passages(text, chunking="late", by="sentence", prompt="document")
scores = embed.similarity(embed(options.query, prompt="query"), document.vectors)[0]

for place in scores.argsort()[::-1][:5]:
    start, end = document.spans[place]
    print(f"{scores[place]:.3f}  characters {start:,} to {end:,}: {document.texts[place][:80]!r}")
