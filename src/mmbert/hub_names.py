"""Names as the hub's model cards have them: codes of languages, uses of models, and models by a link."""

from __future__ import annotations

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
    """Two letters that are not retired for two others, as iw was for he."""
    return len(code) == 2 and (langcodes.standardize_tag(code) == code or len(langcodes.standardize_tag(code)) > 2)


_TWO_LETTERS = {three: two for two, three in LANGUAGE_ALPHA3.items() if _is_current(two)}


def iso_codes(languages: Iterable[str]) -> list[str]:
    """Codes to look for on the hub, sorted, each once: ``fra_Latn`` -> fr, ``cmn_Hani`` -> zh, ``fao`` -> fo."""
    return sorted({_iso_code(code.partition("_")[0]) for code in languages})


def _iso_code(code: str) -> str:
    """Two letters if the language or its macrolanguage has them, else three."""
    if code in _TWO_LETTERS:
        return _TWO_LETTERS[code]
    wider = langcodes.Language.get(code, normalize=False).prefer_macrolanguage().language or code
    return wider.partition("-")[0]


def called(start: str) -> str:
    """A start as others may read it: a hub name as a link, of a folder only its name."""
    return f"[{start}](https://huggingface.co/{start})" if on_hub(start) else f"`{PurePath(start).name}`"


def on_hub(start: str) -> bool:
    """Whether a model's name is one of the hub, and no folder here."""
    return len(PurePath(start).parts) == 2 and not start.startswith((".", "/", "~")) and not Path(start).is_dir()
