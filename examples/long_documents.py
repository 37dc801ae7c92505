"""Where in a long document a query is met: late chunking.

    python examples/long_documents.py runs/nano/final "a storm at sea" novel.txt

The whole text goes through the model, as much at once as it reads, and only then tokens are averaged sentence by
sentence: "it" in one sentence knows the ship in another.
"""

import sys
from pathlib import Path

import mmbert

model, query, file = sys.argv[1:]
embed = mmbert.Embedder.load(model)
document = embed.passages(Path(file).read_text(encoding="utf-8"), chunking="late", by="sentence", prompt="document")
scores = embed.similarity(embed(query, prompt="query"), document.vectors)[0]

for place in scores.argsort()[::-1][:5]:
    start, end = document.spans[place]
    print(f"{scores[place]:.3f}  characters {start:,} to {end:,}: {document.texts[place][:80]!r}")
