"""Answer a question with spans of a file of any length.

    python examples/answer.py MODEL "Where was Kofi Annan born?" article.txt

MODEL is a folder with a ModernBertForQuestionAnswering; `mmbert finetune qa` tunes one.
"""

import argparse
import sys
from pathlib import Path

import mmbert

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("question", nargs="?", default="Where was Kofi Annan born?")
parser.add_argument("file", nargs="?", type=Path, default=Path(__file__).with_name("texts.txt"))
options = parser.parse_args()

try:
    context = options.file.read_text(encoding="utf-8")
    answer = mmbert.Answerer.load(options.model)
except (OSError, mmbert.MMBertError) as error:
    sys.exit(str(error))

for found in answer(options.question, context, top_k=3, no_answer=True):  # "" stands for no answer
    line = context.count("\n", 0, found.start) + 1
    print(f"{found.score:6.1%}  line {line}: {found.text!r}")
