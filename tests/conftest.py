"""Little models; property tests draw new examples on a developer's machine and the same ones on every run of CI."""

from __future__ import annotations

import gzip
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tokenizers
from hypothesis import settings
from tokenizers.pre_tokenizers import Metaspace
from tokenizers.processors import TemplateProcessing

from little_s3 import s3, s3_server

if TYPE_CHECKING:
    from mmbert import Tokenizer

__all__ = ["s3", "s3_server"]  # fixtures

# torch's compiler works in this process: its workers would outlive the tests, as unclosed pipes and processes.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[None]:
    """The command line sends log lines to the stderr of its time; a test must not leave that to the next ones."""
    yield
    logging.getLogger("mmbert").handlers.clear()
    logging.getLogger("mmbert").propagate = True


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Return the folder of real data that some tests read: ``../shared/data`` beside the clone. It is no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data, ../shared/data, is not beside this clone")
    return folder


@pytest.fixture(scope="session")
def e5() -> Path:
    """Return the folder of multilingual-e5-small that MMBERT_TEST_E5 names; ``../shared/tools/e5_small.py`` makes one.

    Not to be changed.
    """
    folder = Path(os.environ.get("MMBERT_TEST_E5") or "nowhere")
    if not (folder / "tokenizer.json").is_file():
        pytest.skip("MMBERT_TEST_E5 names no folder of multilingual-e5-small")
    return folder


@pytest.fixture(scope="session")
def gemma2(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the real Gemma 2 tokenizer, which mmBERT's configurations name; not to be changed."""
    folder = tmp_path_factory.mktemp("gemma2")
    for packed in (test_data / "tokenizers" / "gemma2").glob("*.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    return folder


@pytest.fixture(scope="session")
def released(gemma2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with that tokenizer as the released mmBERT has it; not to be changed.

    Metaspace puts a space before every text, ``<bos>`` and ``<eos>`` stand around it, and the decoder is still Gemma's,
    which leaves that space.
    """
    made = tokenizers.Tokenizer.from_file(str(gemma2 / "tokenizer.json"))
    made.normalizer = None
    made.pre_tokenizer = Metaspace(replacement="\u2581", prepend_scheme="always", split=True)
    made.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    folder = tmp_path_factory.mktemp("released")
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def real_tokenizers(gemma2: Path, released: Path) -> dict[str, Tokenizer]:
    """Return the Gemma 2 tokenizer as it is and as the released mmBERT has it."""
    from mmbert import Tokenizer

    return {"gemma2": Tokenizer.load(gemma2), "released": Tokenizer.load(released)}


@pytest.fixture(scope="session")
def real_models(gemma2: Path, released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a masked language model with each of the two, trimmed to a little text in five languages."""
    import torch

    from mmbert import MaskedLM, ModelConfig, Tokenizer
    from mmbert.surgery.bpe import Bpe
    from mmbert.surgery.trim import count_tokens, select

    folders = {}
    for name, source in (("gemma2", gemma2), ("released", released)):
        bpe = Bpe.load(source)
        kept = select(bpe, count_tokens(bpe, FIVE)[1])
        folders[name] = tmp_path_factory.mktemp("real") / name
        torch.manual_seed(0)
        config = ModelConfig(
            vocab_size=len(kept), hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2, max_context=256
        )
        MaskedLM(config).save(folders[name])
        Tokenizer(bpe.restricted(kept), name).save(folders[name], max_tokens=256)
    return folders


@pytest.fixture(scope="session")
def older_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a masked language model with each of the tokenizers of older encoders; not to be changed."""
    import torch

    from mmbert import MaskedLM, ModelConfig, Tokenizer
    from older_tokenizers import FORMS, older_json

    folders = {}
    for form in FORMS:
        words = Tokenizer(older_json(form, FIVE * 3, size=700), form)
        folders[form] = tmp_path_factory.mktemp("older") / form
        torch.manual_seed(0)
        config = ModelConfig(
            vocab_size=words.vocab_size, hidden_size=32, intermediate_size=32, num_layers=2, num_heads=2,
            max_context=128, initializer_range=0.3, **{f"{role}_id": index for role, index in words.role_ids.items()},
        )  # fmt: skip
        MaskedLM(config).save(folders[form])
        words.save(folders[form], max_tokens=128, as_written=True)
    return folders


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ours for each head, with random weights: masks, classes, ranks, tags, spans. They read 64 tokens."""
    import torch

    from mmbert import MaskedLM, ModelConfig, train_tokenizer
    from mmbert.model.encoder import Encoder
    from mmbert.model.tasks import SequenceClassifier, SpanClassifier, TokenClassifier
    from mmbert.recipe import TokenizerTraining

    root = tmp_path_factory.mktemp("heads")
    words = train_tokenizer([("eng_Latn", text) for text in RIGHTS * 4], TokenizerTraining(vocab_size=512))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=words.vocab_size, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2, max_context=64,
        initializer_range=0.3,
    )  # fmt: skip
    MaskedLM(config).save(root / "masks")
    SequenceClassifier(Encoder(config), 2, pooling="mean").save(root / "classes", ["no", "yes"])
    SequenceClassifier(Encoder(config), 1, pooling="cls").save(root / "ranks", ["score"])
    TokenClassifier(Encoder(config), 3).save(root / "tags", ["O", "B-X", "I-X"])
    SpanClassifier(Encoder(config), 2).save(root / "spans", ["start", "end"])
    for folder in root.iterdir():
        words.save(folder, max_tokens=64)
    return root


RIGHTS = [
    "All human beings are born free and equal in dignity and rights.",
    "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "Watu wote wamezaliwa huru, hadhi na haki zao ni sawa.",
]

FIVE = [
    *RIGHTS,
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "人人生而自由，在尊严和权利上一律平等。",
]
