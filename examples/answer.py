"""Answers to a question as pieces of a file, however long it is.

    python examples/answer.py MODEL "Who was born in Kumasi?" article.txt

MODEL is a folder or hub name of a ModernBertForQuestionAnswering. The text may not hold the answer: then "" is one.
"""

import sys
from pathlib import Path

import mmbert

model, question, file = sys.argv[1:]
context = Path(file).read_text(encoding="utf-8")
answer = mmbert.Answerer.load(model)

for found in answer(question, context, top_k=3, no_answer=True):
    line = context.count("\n", 0, found.start) + 1
    print(f"{found.score:6.1%}  line {line}: {found.text!r}")
