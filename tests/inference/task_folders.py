"""Folders as transformers writes them: random weights of a small shape under any head, and a tokenizer of any form."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from older_tokenizers import BERT, FORMS, XLMR, older_json

SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
OLDER = FORMS
"""Forms of tokenizers that older encoders have."""

PAIR = "<bos> $A <eos> $B <eos>"

TEXTS = [
    "All human beings are born free and equal in dignity and rights. They are endowed with reason.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa. Wote wamejaliwa akili na dhamiri.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。",
    "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ",
    "Kofi Annan left Accra.",
    "Yes!",
]
"""Of many lengths and scripts."""


@cache
def tokenizer_json(form: str = "ours", pair: str = PAIR) -> str:
    """``ours``: the space stays a space. ``metaspace``: the released mmBERT's, ``gemma``: Gemma 2's; ▁ in both.

    ``pair`` names the special tokens as Gemma's are called; one of the ``OLDER`` forms takes its own for them.
    """
    if form in OLDER:
        return _older(form, pair)
    sign = " " if form == "ours" else "▁"
    made = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIALS + [f"<0x{byte:02X}>" for byte in range(256)], show_progress=False
    )
    made.pre_tokenizer = pre_tokenizers.Split(sign, "merged_with_next")
    made.train_from_iterator([text.replace(" ", sign) for text in TEXTS[:8] * 3], trainer)
    if form == "gemma":
        made.normalizer = normalizers.Replace(" ", sign)
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        made.decoder = decoders.Sequence([decoders.Replace(sign, " "), decoders.ByteFallback(), decoders.Fuse()])
    elif form == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=sign, prepend_scheme="always", split=True)
        made.decoder = decoders.Sequence(
            [decoders.Replace(sign, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(t, special=True, normalized=False, lstrip=t == "<mask>") for t in SPECIALS])
    ends = [(token, made.token_to_id(token)) for token in ("<bos>", "<eos>")]
    made.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", pair=pair, special_tokens=ends)
    values = json.loads(made.to_str())  # bytes were special for the trainer only
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] in SPECIALS]
    return json.dumps(values)


def roles_of(form: str) -> dict[str, str]:
    """Return role -> content of the special tokens of a form."""
    if form in OLDER:
        return XLMR if form == "unigram" else BERT
    return {token.strip("<>"): token for token in SPECIALS}


def mask_of(form: str) -> str:
    """Return what stands for a mask in a text."""
    return roles_of(form)["mask"]


def _older(form: str, pair: str) -> str:
    made = tokenizers.Tokenizer.from_str(older_json(form, TEXTS[:8] * 3, size=700))
    roles = roles_of(form)
    ends = [(roles[role], made.token_to_id(roles[role])) for role in ("bos", "eos")]
    single, pair = (
        template.replace("<bos>", roles["bos"]).replace("<eos>", roles["eos"]) for template in ("<bos> $A <eos>", pair)
    )
    made.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return made.to_str()


def save_theirs(
    folder: Path, name: str, *, form: str = "ours", pair: str = PAIR, max_tokens: int = 256, **config: Any
) -> tuple[Any, Any]:
    """Write a folder as transformers does; returns its model and tokenizer.

    name  what follows ModernBertFor. Weights are drawn large, so that answers differ and errors show.
    """
    made = tokenizers.Tokenizer.from_str(tokenizer_json(form, pair))
    own = roles_of(form)
    roles = {f"{role}_token": token for role, token in own.items()}
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=max_tokens, cls_token=own["bos"], sep_token=own["eos"], **roles
    )
    ids = {f"{role}_token_id": made.token_to_id(token) for role, token in own.items()}
    shape = transformers.ModernBertConfig(
        vocab_size=made.get_vocab_size(), hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=256, local_attention=16,
        cls_token_id=ids["bos_token_id"], sep_token_id=ids["eos_token_id"], **ids, **config,
    )  # fmt: skip
    torch.manual_seed(0)
    model = getattr(transformers, f"ModernBertFor{name}")(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
            elif not bool((parameter == 1).all()):
                parameter.normal_()
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return model, words


def their_logits(model: Any, words: Any, *texts: str, **options: Any) -> torch.Tensor:
    """What transformers says of one text or pair."""
    encoded = words(*texts, return_tensors="pt", truncation=True, **options)
    encoded.pop("token_type_ids", None)
    with torch.inference_mode():
        out: torch.Tensor = model(**encoded).logits[0]
    return out
