"""Which tokens are special is found in a tokenizer's files, whatever they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmbert.errors import TokenizerError
from mmbert.tokenizer.specials import FAMILIES
from mmbert.tokenizer.tokenizer import Tokenizer
from older_tokenizers import BERT, FORMS, XLMR, older_json, write_older


@pytest.fixture(scope="module")
def files(texts: list[tuple[str, str]]) -> dict[str, str]:
    return {form: older_json(form, [text for _, text in texts]) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("named", [True, False])
def test_the_family_is_found(files: dict[str, str], form: str, named: bool, tmp_path: Path) -> None:
    roles = XLMR if form == "unigram" else BERT
    tokenizer = Tokenizer.load(write_older(tmp_path, files[form], roles if named else None))
    assert tokenizer.specials == roles
    assert tokenizer.has_mask
    spelled = [tokenizer.id_to_token(index) for index in tokenizer.encode("born free")]
    assert (spelled[0], spelled[-1]) == (roles["bos"], roles["eos"])
    assert tokenizer.role_ids == {role: getattr(tokenizer, f"{role}_id") for role in roles}
    assert tokenizer.pad_id == {"unigram": 1}.get(form, 0)


def changed(content: str, **parts: Any) -> str:
    return json.dumps({**json.loads(content), **parts})


def test_without_a_template_the_vocabulary_says_it(files: dict[str, str]) -> None:
    for form, family in (("unigram", "XLM-R"), ("wordpiece", "BERT")):
        assert Tokenizer(changed(files[form], post_processor=None), "tiny").specials == FAMILIES[family]


def test_gemma_has_the_tags_of_xlm_r_too(files: dict[str, str]) -> None:
    content = json.loads(changed(files["unigram"], post_processor=None))
    content["model"]["vocab"] += [["<bos>", -9.0], ["<eos>", -9.0]]
    assert Tokenizer(json.dumps(content), "tiny").specials == FAMILIES["Gemma"]
    written = json.loads(files["unigram"])["post_processor"]
    assert Tokenizer(json.dumps({**content, "post_processor": written}), "tiny").specials["bos"] == "<s>"


def test_other_names_are_taken_from_the_files(files: dict[str, str], tmp_path: Path) -> None:
    content = files["wordpiece"].replace("[PAD]", "<blank>").replace("[MASK]", "<hole>").replace("[UNK]", "<what>")
    content = changed(content.replace("[CLS]", "<start>"), post_processor=None)
    roles = {"pad": "<blank>", "unk": "<other>", "bos": "<start>", "eos": "[SEP]", "mask": "<hole>"}
    tokenizer = Tokenizer.load(write_older(tmp_path, content, roles))
    assert tokenizer.specials == {**roles, "unk": "<what>"}, "the model's own comes first; the other one does not exist"
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"has no \[PAD\], \[CLS\]: mmBERT needs \[PAD\] \[SEP\] \[CLS\] \[UNK\]"):
        Tokenizer.load(tmp_path)
    for wrong, said in (("[]", "not a JSON object"), ("{", "is not valid JSON")):
        (tmp_path / "tokenizer_config.json").write_text(wrong)
        with pytest.raises(TokenizerError, match=said):
            Tokenizer.load(tmp_path)


def test_a_mask_that_only_the_vocabulary_has_is_a_special_token(files: dict[str, str], tmp_path: Path) -> None:
    content = json.loads(files["unigram"])
    content["added_tokens"] = content["added_tokens"][:4]
    tokenizer = Tokenizer(json.dumps(content), "tiny")
    assert tokenizer.encode("born <mask>", specials=True).count(tokenizer.mask_id) == 1
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.specials, again.fingerprint) == (tokenizer.specials, tokenizer.fingerprint)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["mask_token"] == "<mask>"


def test_a_template_that_cannot_be_said_is_refused(files: dict[str, str]) -> None:
    content = changed(files["wordpiece"].replace("[CLS]", "[C:1:S]"), post_processor=None)
    with pytest.raises(TokenizerError, match="around a text are not supported"):
        Tokenizer(content, "tiny", config={"cls_token": "[C:1:S]"})
