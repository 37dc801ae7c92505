"""Tokenizers of older encoders in small: a Unigram one in the form of XLM-R, WordPiece ones in that of BERT."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Regex as Pattern

XLMR = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
BERT = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "mask": "[MASK]"}
"""Role -> content, in the order of the ids. XLM-R has its mask at the end of the vocabulary."""

FORMS = ("unigram", "wordpiece", "cased")


def older_json(form: str, texts: Iterable[str], *, size: int = 1500) -> str:
    """Return the ``tokenizer.json`` of one of the :data:`FORMS`, trained on ``texts``."""
    return unigram_json(texts, size=size) if form == "unigram" else wordpiece_json(texts, size=size, form=form)


def unigram_json(texts: Iterable[str], *, size: int = 1500) -> str:
    """Return the form of XLM-R: NFKC, one space for many, Metaspace, two ``</s>`` between two texts."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Pattern(" {2,}"), " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    ends = list(XLMR.values())[:-1]
    made.train_from_iterator(
        texts,
        trainers.UnigramTrainer(vocab_size=size, special_tokens=ends, unk_token="<unk>", show_progress=False),
    )
    values: dict[str, Any] = json.loads(made.to_str())
    values["model"]["vocab"].append(["<mask>", 0.0])
    made = Tokenizer.from_str(json.dumps(values))
    made.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return made.to_str()


def wordpiece_json(texts: Iterable[str], *, size: int = 1500, form: str = "wordpiece") -> str:
    """Return the form of BERT, which lower-cases and drops accents but for ``cased``; type ids tell two texts apart."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=form != "cased")
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(BERT.values()), show_progress=False)
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made.to_str()


def write_older(folder: Path, content: str, roles: dict[str, str] | None = None) -> Path:
    """Write a ``tokenizer.json``, and beside it what names the special tokens, if ``roles`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(content, encoding="utf-8")
    if roles is not None:
        names = {f"{role}_token": token for role, token in roles.items()}
        names |= {"cls_token": roles["bos"], "sep_token": roles["eos"], "tokenizer_class": "PreTrainedTokenizerFast"}
        (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder
