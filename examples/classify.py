"""Classes of the lines on standard input, in bounded memory however many they are.

    python examples/classify.py MODEL < texts.txt

MODEL is a folder or hub name of a ModernBertForSequenceClassification, such as a fine-tuned sentiment model.
"""

import sys

import mmbert

classify = mmbert.Classifier.load(sys.argv[1])
texts = (line.rstrip("\n") for line in sys.stdin)  # an iterator: predictions come while texts are still read

for prediction in classify(texts):
    print(f"{prediction.score:.3f}\t{', '.join(prediction.labels) or 'none'}")
