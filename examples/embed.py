"""Vectors of texts in any language, and how similar they are.

    python examples/embed.py runs/nano/final "Good morning" "Habari ya asubuhi" "The train is late"

MODEL is a folder or a hub name; a checkpoint that was only pretrained gives vectors too, and warns.
"""

import sys

import mmbert

model, *texts = sys.argv[1:]
embed = mmbert.Embedder.load(model)
vectors = embed(texts)  # (texts, dimensions) float32, of unit length

for text, row in zip(texts, embed.similarity(vectors, vectors), strict=True):
    print("  ".join(f"{number:5.2f}" for number in row), f"  {text}")
