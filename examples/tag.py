"""Print the entities of a text with their character spans.

    python examples/tag.py MODEL "Kofi Annan left Accra for New York."

MODEL is a folder with a ModernBertForTokenClassification; `mmbert finetune ner` tunes one.
"""

import argparse
import sys

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("texts", nargs="*", default=["Kofi Annan left Accra for New York."])
options = parser.parse_args()

try:
    tag = mmbert.Tagger.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

for text, entities in zip(options.texts, tag(options.texts), strict=True):
    print(text)
    for entity in entities:
        print(f"  {entity.start:4}-{entity.end:<4} {entity.label:8} {entity.score:.2f}  {entity.text}")
