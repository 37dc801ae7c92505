"""Classify the lines of a file, in bounded memory for any number of lines.

    python examples/classify.py MODEL texts.txt

MODEL is a folder with a ModernBertForSequenceClassification; `mmbert finetune classify` tunes one.
"""

import argparse
import sys
from pathlib import Path

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("texts.txt"))
options = parser.parse_args()

try:
    classify = mmbert.Classifier.load(options.model)
    file = options.file.open(encoding="utf-8")
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

with file:  # an iterator of lines: predictions arrive before all lines are read
    for prediction in classify(line.rstrip("\n") for line in file):
        print(f"{prediction.score:.3f}\t{', '.join(prediction.labels) or 'none'}")
