"""Print the most probable tokens for each <mask>.

    python examples/fill_mask.py runs/nano/final "Mji mkuu wa Ufaransa ni <mask>."

The model is a folder or hub name of a masked language model.
"""

import argparse
import sys

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", nargs="?", default="runs/nano/final", help="default: what `make demo` trains")
parser.add_argument("texts", nargs="*", default=["Mji mkuu wa Ufaransa ni <mask>."])
options = parser.parse_args()

try:
    fill = mmbert.FillMask.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

for text in options.texts:
    print(text)
    for guess in fill(text, top_k=5):
        print(f"  {guess.score:6.1%}  {guess.token!r:16} {guess.text}")
