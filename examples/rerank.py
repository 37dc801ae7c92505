"""Rank the lines of a file by how well they answer a query; the model reads query and line together.

    python examples/rerank.py MODEL "when does the train leave?" passages.txt

MODEL is a cross-encoder with one label; `mmbert finetune rerank` tunes one.
"""

import argparse
import sys
from pathlib import Path

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("query", nargs="?", default="when does the train leave?")
parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("texts.txt"))
options = parser.parse_args()

try:
    passages = options.file.read_text(encoding="utf-8").splitlines()
    rerank = mmbert.Reranker.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

for ranked in rerank(options.query, passages, top_k=5):
    print(f"{ranked.score:.3f}  {options.file}:{ranked.index + 1}  {ranked.text}")
