"""A little real text (Universal Declaration of Human Rights, articles 1 and 3) in several languages and scripts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from mmbert.recipe import Recipe

SENTENCES = {
    "eng_Latn": [
        "All human beings are born free and equal in dignity and rights.",
        "They are endowed with reason and conscience and should act towards one another in a spirit of brotherhood.",
        "Everyone has the right to life, liberty and security of person.",
    ],
    "fra_Latn": [
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Ils sont doués de raison et de conscience et doivent agir dans un esprit de fraternité.",
        "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne.",
    ],
    "fao_Latn": [
        "Øll menniskju eru fødd fræls og jøvn til virðingar og mannarættindi.",
        "Tey hava skil og samvitsku og eiga at fara hvørt um annað í bróðuranda.",
        "Ein og hvør hevur rætt til lív, frælsi og persónliga trygd.",
    ],
    "rus_Cyrl": [
        "Все люди рождаются свободными и равными в своем достоинстве и правах.",
        "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
        "Каждый человек имеет право на жизнь, на свободу и на личную неприкосновенность.",
    ],
    "hin_Deva": [
        "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
        "उन्हें बुद्धि और अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिए।",
        "प्रत्येक व्यक्ति को जीवन, स्वाधीनता और वैयक्तिक सुरक्षा का अधिकार है।",
    ],
}


def documents(language: str, count: int) -> list[dict[str, str]]:
    """So many different documents, each of a number and one to four sentences."""
    sentences = SENTENCES[language]
    return [
        {"id": f"udhr/{language}/{i}", "text": "\n".join([f"{i}.", *sentences[i % 3 :], *sentences[: i % 2]])}
        for i in range(count)
    ]


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    """JSON lines, compressed if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_corpus(folder: Path, count: int = 30) -> Path:
    """One file a language."""
    for language in SENTENCES:
        write_jsonl(folder / f"{language}.jsonl.gz", documents(language, count))
    return folder


def recipe_for(sources: dict[str, dict[str, object]], **cleaning: object) -> Recipe:
    """A recipe of these sources, with a tiny tokenizer and as little else as it needs."""
    return Recipe.model_validate(
        {
            "name": "little",
            "sources": sources,
            "cleaning": cleaning,
            "tokenizer": {"vocab_size": 600, "sample_characters": 20_000},
            "model": {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2},
            "phases": {
                "only": {
                    "tokens": 1000,
                    "data": {"temperature": 0.5},
                    "context": 64,
                    "mask_rate": 0.3,
                    "batch": 1024,
                    "micro_batch": 1024,
                    "peak_lr": 1e-3,
                }
            },
        }
    )
