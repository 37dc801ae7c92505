"""Print the similarities of texts in any language.

    python examples/embed.py runs/nano/final "Good morning" "Habari ya asubuhi" "The train is late"

The model is a folder or a hub name. A model that was only pretrained works too, with a warning.
"""

import argparse
import sys

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/nano/final", help="default: what `make demo` trains")
parser.add_argument("texts", nargs="*", default=["Good morning", "Habari ya asubuhi", "The train is late"])
options = parser.parse_args()

try:
    embed = mmbert.Embedder.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))
vectors = embed(options.texts)  # (texts, dimensions) float32, of unit length

for text, row in zip(options.texts, embed.similarity(vectors, vectors), strict=True):
    print("  ".join(f"{number:5.2f}" for number in row), f"  {text}")
