"""The lines of a file in the order in which they answer a query: query and line are read together.

    python examples/rerank.py MODEL "how do I renew a passport?" passages.txt

MODEL is a folder or hub name of a cross-encoder: a ModernBertForSequenceClassification with one label.
"""

import sys
from pathlib import Path

import mmbert

model, query, file = sys.argv[1:]
passages = Path(file).read_text(encoding="utf-8").splitlines()
rerank = mmbert.Reranker.load(model)

for ranked in rerank(query, passages, top_k=5):
    print(f"{ranked.score:.3f}  {file}:{ranked.index + 1}  {ranked.text}")
