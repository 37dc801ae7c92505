"""The Gemma 2 tokenizer, and the released form of it, with fewer and with more tokens: any text is still spelled."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import load_file
from transformers import AutoTokenizer

from all_scripts import texts
from mmbert import FillMask, MaskedLM, ModelConfig, Tokenizer
from mmbert.errors import TokenizerError
from mmbert.recipe import Merge
from mmbert.surgery.bpe import Bpe
from mmbert.surgery.extend import extend
from mmbert.surgery.merge import merge
from mmbert.surgery.trim import trim

thorough = settings(max_examples=200, deadline=None, database=None)
TAGGED = "<h1>Wote</h1>\n\n\n\tborn    free, \U0001e900 人 <mask>"
CHEROKEE = ["ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ᎠᎴ ᎤᏂᎶᏱ ᎤᎾᏕᎿ ᏚᏳᎧᏛ ᎨᏒᎢ.", "ᏂᎦᏓ ᎠᏂᏴᏫ ᎨᏥᏁᎳ ᎠᎴ ᎨᏒ ᎠᏓᏅᏙ ᎬᏗ. \U0001e900\U0001e901\U0001e900"]


@pytest.fixture(scope="module")
def extended_models(real_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("extended")
    for name, folder in real_models.items():
        report = extend(folder, CHEROKEE, root / name, tokens=40)
        assert "\U0001e900" in report.characters
        assert report.merges
    return {name: root / name for name in real_models}


@pytest.fixture(scope="module")
def loaded(
    real_models: dict[str, Path], extended_models: dict[str, Path], real_tokenizers: dict[str, Tokenizer]
) -> list[tuple[Tokenizer, np.ndarray, list[tuple[Tokenizer, np.ndarray]]]]:
    """Each of the two with the bytes of its tokens, and so its trimmed and its extended form."""
    found = []
    for name, whole in real_tokenizers.items():
        changed = [Tokenizer.load(models[name]) for models in (real_models, extended_models)]
        found.append((whole, whole.token_bytes(), [(tokenizer, tokenizer.token_bytes()) for tokenizer in changed]))
    return found


@thorough
@given(text=texts)
def test_trimmed_and_extended_any_text_is_spelled(
    loaded: list[tuple[Tokenizer, np.ndarray, list[tuple[Tokenizer, np.ndarray]]]], text: str
) -> None:
    for whole, counts, changed in loaded:
        (ids,) = whole.encode_batch([text])
        for tokenizer, own in changed:
            (fewer,) = tokenizer.encode_batch([text])
            assert not set(fewer.tolist()) & set(tokenizer.special_ids), "no <unk>"
            assert tokenizer.decode(fewer) == whole.decode(ids)
            assert own[fewer].sum() == counts[ids].sum()


@pytest.mark.parametrize("form", ["gemma2", "released"])
def test_ids_are_those_of_transformers(
    form: str, real_models: dict[str, Path], extended_models: dict[str, Path]
) -> None:
    for folder in (real_models[form], extended_models[form]):
        ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
        assert len(theirs) == ours.vocab_size
        for text in [TAGGED, "", " ", "a\nb", CHEROKEE[1], "<start_of_turn>\t\t  x"]:
            assert theirs(text)["input_ids"] == ours.encode(text, specials=True)
        assert (theirs.mask_token_id, theirs.pad_token_id) == (4, 0)
        added = {token.content for token in theirs.added_tokens_decoder.values()}
        assert {"<h1>", "\n\n\n", "\t\t", "<mask>", "<start_of_turn>"} <= added


def test_a_model_of_256_000_tokens(released: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=256_000, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=1, max_context=64
    )
    model = MaskedLM(config).eval()
    model.save(tmp_path / "whole")
    (tmp_path / "whole" / "tokenizer.json").symlink_to(released / "tokenizer.json")
    roles = {"mask_token": "<mask>", "additional_special_tokens": ["▁unbelievable", {"content": "nowhere"}]}
    (tmp_path / "whole" / "tokenizer_config.json").write_text(json.dumps(roles))
    sentences = ["All human beings are born free.", TAGGED]
    report = trim(tmp_path / "whole", sentences, tmp_path / "less")
    assert 600 < report.after.tokens < 1200
    before, after = Tokenizer.load(released), Tokenizer.load(tmp_path / "less")
    assert [after.id_to_token(index) for index in after.byte_ids] == [before.id_to_token(i) for i in before.byte_ids]
    assert "▁unbelievable" in Bpe.load(tmp_path / "less").ids, "a reader would add it beyond the last row"
    kept = [before.written.token_to_id(after.id_to_token(index) or "") for index in range(after.vocab_size)]
    old, new = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "less"))
    embedding = "model.embeddings.tok_embeddings.weight"
    assert torch.equal(new[embedding], old[embedding][kept])
    less = MaskedLM.load(tmp_path / "less").eval()
    with torch.no_grad():
        assert torch.equal(model.encode(before.pack(sentences).to()), less.encode(after.pack(sentences).to()))


def test_merged_models_keep_the_tokenizer(real_models: dict[str, Path], tmp_path: Path) -> None:
    for name, base in real_models.items():
        variants = {}
        for seed in (1, 2):
            torch.manual_seed(seed)
            model = MaskedLM.load(base)
            for parameter in model.parameters():
                parameter.data += 0.01 * torch.randn_like(parameter)
            place = tmp_path / f"{name}-{seed}"
            model.save(place)
            Tokenizer.load(base).save(place, max_tokens=256)
            variants[f"phase_{seed}"] = [place]
        out = tmp_path / f"{name}-merged"
        merge(Merge(phases=dict.fromkeys(variants, 1.0), base="base"), variants, base, out)
        before, after = Tokenizer.load(base), Tokenizer.load(out)
        assert after.fingerprint == before.fingerprint
        assert after.encode(TAGGED) == before.encode(TAGGED)
        assert torch.isfinite(load_file(out / "model.safetensors")["model.final_norm.weight"]).all()
        assert len(FillMask.load(out)("Watu wote <mask> huru.")) == 5


def test_a_folder_with_gemmas_own_template_says_how_it_is_mended(
    real_models: dict[str, Path], gemma2: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(real_models["gemma2"], folder)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["post_processor"] = json.loads((gemma2 / "tokenizer.json").read_text())["post_processor"]
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(TokenizerError, match=r"not as <bos> a <eos>: .* mmbert.Tokenizer.load\(.*\).save\("):
        FillMask.load(folder)
    Tokenizer.load(folder).save(folder)
    assert len(FillMask.load(folder)("Watu wote <mask> huru.")) == 5
