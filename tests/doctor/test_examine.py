"""``mmbert doctor MODEL``: what folders are, what was broken in them, and the readers' own word for the verdicts."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from typer.testing import CliRunner

from mmbert import MaskedLM, ModelConfig, train_tokenizer
from mmbert.cli.main import app
from mmbert.doctor.model import Examination, examine
from mmbert.errors import MMBertError
from mmbert.extras import extras
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import SequenceClassifier, TokenClassifier
from mmbert.model.weights import save_state
from mmbert.recipe import TokenizerTraining

TEXTS = ["All human beings are born free and equal in dignity and rights.", "Watu wote wamezaliwa huru."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``masks``, ``classes``, ``tags`` as written here; ``theirs`` by sentence-transformers 6 on transformers 5."""
    root = tmp_path_factory.mktemp("models")
    words = train_tokenizer([("eng_Latn", text) for text in TEXTS * 4], TokenizerTraining(vocab_size=512))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=words.vocab_size, hidden_size=16, intermediate_size=24, num_layers=4, num_heads=2, max_context=64,
        rope_theta=160_000.0, local_rope_theta=160_000.0, initializer_range=0.3,
    )  # fmt: skip
    MaskedLM(config).save(root / "masks")
    SequenceClassifier(Encoder(config), 2, pooling="mean").save(root / "classes", ["no", "yes"])
    TokenClassifier(Encoder(config), 3).save(root / "tags", ["O", "B-X", "I-X"])
    for folder in list(root.iterdir()):
        words.save(folder, max_tokens=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformer = Transformer(str(root / "masks"))
        made = SentenceTransformer(modules=[transformer, Pooling(16, "mean"), Dense(16, 8), Normalize()], device="cpu")
        made.prompts = {"query": "Q: "}
        made.save(str(root / "theirs"), create_model_card=False)
    return root


@pytest.fixture
def copy(models: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(models / name, tmp_path / name))


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None deletes one."""
    stated = json.loads(path.read_text())
    stated = {key: value for key, value in {**stated, **values}.items() if value is not None}
    path.write_text(json.dumps(stated))


def reads(found: Examination) -> dict[str, str]:
    return {verdict.reader: verdict.reads for verdict in found.readers}


def said(found: Examination) -> str:
    return "\n".join(map(str, found.problems))


def test_facts_of_a_folder_of_ours(models: Path) -> None:
    found = examine(str(models / "masks"), device="cpu")
    assert not found.problems
    reference = transformers.ModernBertForMaskedLM.from_pretrained(models / "masks")
    assert found.facts["size"]["parameters"] == sum(parameter.numel() for parameter in reference.parameters())
    assert found.facts["size"]["bytes"] == (models / "masks" / "model.safetensors").stat().st_size
    assert found.facts["class"] == type(reference).__name__
    assert found.facts["shape"]["layers"] == 4
    assert found.facts["rope bases"] == {"global": "160,000", "local": "160,000"}
    assert found.facts["spaces"] == "kept; none is put before a text; decoding gives the text back"
    assert "never for embeddings" in found.facts["tuned"]
    assert reads(found)["transformers 4"] == reads(found)["transformers 5"] == reads(found)["mmbert"] == "rightly"
    assert reads(found)["vLLM"] == "not its kind"


def test_what_todays_libraries_write_is_told_to_yesterdays(models: Path) -> None:
    found = examine(str(models / "theirs"), device="cpu")
    assert found.facts["kind"].startswith("sentence")
    assert found.facts["pooling"]["then"] == ["Dense 16 to 8", "Normalize"]
    assert found.facts["prompts"]["query"] == "'Q: '"
    assert found.facts["tuned"] == "for embeddings"
    verdicts = reads(found)
    assert verdicts["sentence-transformers 6"] == verdicts["transformers 5"] == verdicts["mmbert"] == "rightly"
    older = ("transformers 4", "sentence-transformers 5", "text-embeddings-inference", "vLLM")
    assert {verdicts[reader] for reader in older} == {"not"}
    assert '"local_rope_theta": 160000.0' in said(found)
    assert '"global_rope_theta": 160000.0' in said(found)
    assert found.portable == "sentence-transformers"
    assert examine(str(models / "masks"), device="cpu").portable is None


def test_an_angle_that_transformers_4_would_take_otherwise(copy: Callable[[str], Path]) -> None:
    folder = copy("masks")
    change(folder / "config.json", local_rope_theta=None)
    assert transformers.AutoConfig.from_pretrained(folder).rope_parameters["sliding_attention"]["rope_theta"] == 160_000
    found = examine(str(folder), device="cpu")
    assert reads(found)["transformers 4"] == "wrongly"
    assert reads(found)["transformers 5"] == "rightly"
    assert 'write "local_rope_theta": 160000' in said(found)
    change(folder / "config.json", rope_parameters=None)  # nothing says it any more: 10,000 for everybody
    assert transformers.AutoConfig.from_pretrained(folder).rope_parameters["sliding_attention"]["rope_theta"] == 10_000
    found = examine(str(folder), device="cpu")
    assert found.facts["rope bases"]["local"] == "10,000"
    assert "not written" in found.facts["rope bases"]
    assert reads(found)["transformers 4"] == "rightly"
    assert reads(found)["text-embeddings-inference"] == "not"


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _nan(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.final_norm.weight"][3] = float("nan")
    save_state({name: value.clone() for name, value in state.items()}, folder / "model.safetensors")


def _other_config(folder: Path) -> None:
    change(folder / "config.json", intermediate_size=32)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_cut, "is cut short, damaged or no safetensors file"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
            "is cut short, damaged or no safetensors file",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors"),
        (_nan, "1 weights hold NaN or infinite values (model.final_norm.weight)"),
        (_other_config, "layers.0.mlp.Wi.weight is (48, 16), the config says (64, 16)"),
        (lambda folder: change(folder / "config.json", num_hidden_layers=5, layer_types=None), "json: 6 missing: "),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (
            lambda folder: (folder / "config.json").write_text("\ufeff" + (folder / "config.json").read_text()),
            "config.json begins with a byte order mark: other libraries refuse it",
        ),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is not a JSON object"),
        (lambda folder: change(folder / "config.json", rope_parameters="x"), "rope_parameters is not a table"),
        (lambda folder: change(folder / "config.json", hidden_size=15), "hidden_size 15 is not an even multiple"),
        (lambda folder: change(folder / "config.json", architectures=["BertModel"]), "BertModel is not supported"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "is not a tokenizer.json"),
        (
            lambda folder: change(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend"),
            "only version 5",
        ),
        (lambda folder: change(folder / "tokenizer_config.json", model_max_length=-1), "model_max_length is -1"),
        (lambda folder: (folder / "model.safetensors").chmod(0o600), "chmod 644 model.safetensors"),
    ],
)
def test_damage_is_named_with_its_fix(copy: Callable[[str], Path], damage: Callable[[Path], Any], told: str) -> None:
    folder = copy("masks")
    damage(folder)
    result = CliRunner().invoke(app, ["doctor", str(folder), "--device", "cpu"], catch_exceptions=False)
    problems = [line for line in result.stdout.splitlines() if line.startswith("problem: ")]
    assert any(told in line for line in problems), result.stdout
    assert all(line.count(": ") >= 2 for line in problems), "a problem comes with its fix"
    assert result.exit_code == 1


def test_several_classes_need_their_number_in_servers(copy: Callable[[str], Path], models: Path) -> None:
    folder = copy("classes")
    change(folder / "config.json", num_labels=None)
    assert '"num_labels": 2' in said(examine(str(folder), device="cpu"))
    change(folder / "config.json", num_labels=2)
    assert transformers.AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 2
    found = examine(str(folder), device="cpu")
    assert not found.problems
    assert found.facts["labels"] == ["no", "yes"]
    assert reads(examine(str(models / "tags"), device="cpu"))["sentence-transformers 6"] == "not its kind"


def test_json_says_the_same(models: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", str(models / "theirs"), "--json"], catch_exceptions=False)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    found = examine(str(models / "theirs"))
    assert told["model"] == json.loads(json.dumps(found.facts))
    assert len(told["problems"]) == len(found.problems)
    assert {reader["reader"] for reader in told["readers"]} == set(reads(found))
    assert {f"extra {name}" for name in extras()} < set(told["machine"])


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(MMBertError, match="no such model folder"):
        examine(str(tmp_path / "nowhere"))
    with pytest.raises(MMBertError, match=r"no config\.json"):
        examine(str(tmp_path))
