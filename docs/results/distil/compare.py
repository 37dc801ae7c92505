r"""Score sentence encoders on topics (SIB-200, zero-shot from English) and translations (Tatoeba, to and from English).

    python docs/results/distil/compare.py EVAL teacher=TEACHER student=runs/distil/final static=static:TEACHER \
        ngrams=ngrams:

EVAL      folder with sib200/<language>/{train,test}.jsonl.gz and tatoeba/<language>/test.jsonl.gz
NAME=...  a folder for our Embedder or, if that is no mmBERT, for sentence-transformers; `static:FOLDER`: the mean of a
          model's token embeddings, without any layer; `ngrams:`: counts of one to four characters, hashed

Topics: logistic regression (scikit-learn, C chosen by five-fold cross-validation) on vectors of the 800 English
sentences for training and development, accuracy on the 204 test sentences of each language. Translations: of each of
the first 300 pairs the nearest of the other side by cosine, mean of both directions. ``--save`` keeps all scores as
JSON, and what is kept there is not computed again; ``--groups`` names a table ``languages.tsv`` whose ``tier`` and
``script`` the means are taken over, ``--known`` a file with the languages of the teacher.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.preprocessing import normalize

from mmbert.io.delimited import read_tsv
from mmbert.io.rows import read_rows

Encode = Callable[[Sequence[str]], "np.ndarray | csr_matrix"]
PAIRS = 300
ENGLISH = "eng_Latn"


def read(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def make_encoder(name: str) -> Encode:
    kind, colon, folder = name.partition(":")
    if colon and kind == "ngrams":
        hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(1, 4), n_features=2**18)
        return hashing.transform
    if colon and kind == "static":
        return static(folder)
    from mmbert import Embedder
    from mmbert.errors import MMBertError

    try:
        embedder = Embedder.load(name, precision="fp32")
        return lambda texts: embedder(list(texts))
    except MMBertError:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(name, device="cpu")
        prompt = str(model.prompts.get("query") or "")
        return lambda texts: model.encode(list(texts), prompt=prompt, normalize_embeddings=True)


def static(folder: str) -> Encode:
    """The mean of the token embeddings of a text, centred by the mean over the vocabulary."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    table = model[0].model.get_input_embeddings().weight.detach().numpy()
    table = table - table.mean(0)

    def encode(texts: Sequence[str]) -> np.ndarray:
        ids = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return np.stack([table[row].mean(0) if row else np.zeros(table.shape[1], np.float32) for row in ids])

    return encode


def topics(encode: Encode, data: Path) -> dict[str, float]:
    folder = data / "sib200"
    english = [row for split in ("train", "dev") for row in read(folder / ENGLISH / f"{split}.jsonl.gz")]
    # Of the 99 of the dev part alone, the choice would be chance: their accuracy has a standard error of 3 points.
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    best = GridSearchCV(LogisticRegression(max_iter=3000), {"C": [1, 3, 10, 30, 100]}, cv=folds)
    best.fit(normalize(encode([row["text"] for row in english])), [row["label"] for row in english])
    found = {}
    for language in sorted(place.name for place in folder.iterdir()):
        rows = read(folder / language / "test.jsonl.gz")
        found[language] = 100 * best.score(normalize(encode([row["text"] for row in rows])), [r["label"] for r in rows])
    return found


def translations(encode: Encode, data: Path) -> dict[str, float]:
    found = {}
    for path in sorted(data.glob("tatoeba/*/test.jsonl.gz")):
        rows = read(path)[:PAIRS]
        own, english = (normalize(encode([row[side] for row in rows])) for side in ("text", "english"))
        similar = np.asarray((own @ english.T).todense() if isinstance(own, csr_matrix) else own @ english.T)
        right = np.arange(len(rows))
        found[path.parent.name] = 50 * float((similar.argmax(1) == right).mean() + (similar.argmax(0) == right).mean())
    return found


TASKS = {"topics": topics, "translations": translations}


def groups(path: Path | None) -> dict[str, list[str]]:
    """Language -> its groups: tier and script."""
    if path is None:
        return {}
    return {row["code"]: [f"tier {row['tier']}", row["script"]] for _, row in read_tsv(path)}


def means(scores: dict[str, float], of: dict[str, list[str]], known: set[str]) -> dict[str, tuple[float, int]]:
    """Group -> mean and number of languages, English left out."""
    kept = {code: score for code, score in scores.items() if code != ENGLISH}
    parts: dict[str, list[float]] = {}
    for code, score in kept.items():
        inside = not known or code in known
        parts.setdefault("all" if inside else "not known to the teacher", []).append(score)
        for group in of.get(code, []) if inside else []:
            parts.setdefault(group, []).append(score)
    return {group: (float(np.mean(values)), len(values)) for group, values in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eval", type=Path)
    parser.add_argument("systems", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--groups", type=Path)
    parser.add_argument("--known", type=Path)
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    known = set(options.known.read_text().split()) if options.known else set()
    of = groups(options.groups)
    kept = json.loads(options.save.read_text()) if options.save and options.save.is_file() else {}
    for system in options.systems:
        name, _, place = system.partition("=")
        missing = [task for task in TASKS if task not in kept.get(name, {})]
        if missing:
            encode = make_encoder(place)
            kept.setdefault(name, {}).update({task: TASKS[task](encode, options.eval) for task in missing})
            if options.save:
                options.save.write_text(json.dumps(kept, indent=1) + "\n")
        for task, scores in kept[name].items():
            said = ", ".join(f"{group} {mean:.1f} ({n})" for group, (mean, n) in means(scores, of, known).items())
            english = f", English {scores[ENGLISH]:.1f}" if ENGLISH in scores else ""
            sys.stdout.write(f"{name} {task}: {said}{english}\n")


if __name__ == "__main__":
    main()
