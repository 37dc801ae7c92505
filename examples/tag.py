"""Names, places and what else a model tags, as characters of the raw text.

    python examples/tag.py MODEL "Kofi Annan left Accra for New York."

MODEL is a folder or hub name of a ModernBertForTokenClassification. Long texts go in windows; nothing is cut off.
"""

import sys

import mmbert

model, *texts = sys.argv[1:]
tag = mmbert.Tagger.load(model)

for text, entities in zip(texts, tag(texts), strict=True):
    print(text)
    for entity in entities:
        print(
            f"  {entity.start:4}-{entity.end:<4} {entity.label:8} {entity.score:.2f}  {text[entity.start : entity.end]}"
        )
