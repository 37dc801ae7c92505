"""How many words a tokenizer leaves whole, in SIB-200's training sentences.

    python docs/results/tasks/whole_tokens.py EVAL eng_Latn,swh_Latn,hau_Latn TOKENIZER [TOKENIZER ...]

Of all words, and of those of LONG letters and more: tokens a word, and the part that is one token (with its space).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from layer_probe import read

from mmbert.tokenizer.tokenizer import Tokenizer

LONG = 6


def main(data: Path, languages: list[str], names: list[str]) -> None:
    for name in names:
        tokenizer = Tokenizer.load(name)
        for language in languages:
            texts, _ = read(data / "sib200" / language / "train.jsonl.gz")
            words = [word for text in texts for word in re.findall(r"[^\W\d_]+", text)]
            for kind, chosen in (("all", words), (f"{LONG} letters", [word for word in words if len(word) >= LONG])):
                counts = [len(ids) for ids in tokenizer.encode_batch([f" {word}" for word in chosen])]
                whole = sum(count == 1 for count in counts) / len(counts)
                print(f"{name} {language} {kind}: {sum(counts) / len(counts):.2f} tokens, {whole:.0%} whole")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
