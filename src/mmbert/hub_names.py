"""Names that model cards on the hub use: language codes, tasks, and models as links."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePath

import langcodes
from langcodes.data_dicts import LANGUAGE_ALPHA3

PIPELINES = {
    "encoder": "feature-extraction", "sentence": "sentence-similarity", "masked_lm": "fill-mask",
    "sequence": "text-classification", "tokens": "token-classification", "span": "question-answering",
    "choice": "multiple-choice",
}  # fmt: skip
"""What the hub calls the use of each kind of model."""


def _is_current(code: str) -> bool:
    """Return whether a two-letter code is not retired for another one, as iw was for he."""
    return len(code) == 2 and (langcodes.standardize_tag(code) == code or len(langcodes.standardize_tag(code)) > 2)


_TWO_LETTERS = {three: two for two, three in LANGUAGE_ALPHA3.items() if _is_current(two)}


def iso_codes(languages: Iterable[str]) -> list[str]:
    """Return the codes to search on the hub, sorted: ``fra_Latn`` -> fr, ``cmn_Hani`` -> zh, ``fao`` -> fo."""
    return sorted({_iso_code(code.partition("_")[0]) for code in languages})


def _iso_code(code: str) -> str:
    """Return the two-letter code of the language or its macrolanguage, else its three letters."""
    if code in _TWO_LETTERS:
        return _TWO_LETTERS[code]
    wider = langcodes.Language.get(code, normalize=False).prefer_macrolanguage().language or code
    return wider.partition("-")[0]


def called(start: str) -> str:
    """Return a start model for readers: a hub name as a link, a folder by its name."""
    return f"[{start}](https://huggingface.co/{start})" if on_hub(start) else f"`{PurePath(start).name}`"


def front_matter(
    languages: Iterable[str],
    start: str | None,
    pipeline: str,
    tags: Iterable[str],
    more: str = "",
    library: str = "transformers",
) -> str:
    """Return the YAML that begins a model card; ``start`` is named as its base model if it is on the hub."""
    # Codes are quoted: readers of YAML 1.1 take the Norwegian code no for false.
    codes = "".join(f"- {json.dumps(code)}\n" for code in iso_codes(languages))
    return (
        "---\n"
        + (f"language:\n{codes}" if codes else "")
        + more
        + (f"base_model: {json.dumps(start)}\n" if start and on_hub(start) else "")
        + f"library_name: {library}\npipeline_tag: {pipeline}\ntags:\n"
        + "".join(f"- {tag}\n" for tag in tags)
        + "---"
    )


def on_hub(start: str) -> bool:
    """Return whether a model's name is a hub name, and no folder here."""
    return len(PurePath(start).parts) == 2 and not start.startswith((".", "/", "~")) and not Path(start).is_dir()
