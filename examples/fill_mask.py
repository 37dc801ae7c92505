"""What stands behind <mask>, most probable first.

    python examples/fill_mask.py runs/nano/final "Mji mkuu wa Ufaransa ni <mask>."

MODEL is a folder or hub name of a masked language model.
"""

import sys

import mmbert

model, *texts = sys.argv[1:]
fill = mmbert.FillMask.load(model)

for text in texts:
    print(text)
    for guess in fill(text, top_k=5):
        print(f"  {guess.score:6.1%}  {guess.token!r:16} {guess.text}")
