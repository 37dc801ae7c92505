"""Little models with random weights, and real servers around them on sockets of this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mmbert import MaskedLM, ModelConfig, SearchIndex, train_tokenizer
from mmbert.model.encoder import Encoder
from mmbert.model.tasks import SequenceClassifier, SpanClassifier, TokenClassifier
from mmbert.recipe import TokenizerTraining
from mmbert.serving.server import Server

LONGEST = 512


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, by its name in the guides; they read 512 tokens, so that bytes of any script fit."""
    import torch

    root = tmp_path_factory.mktemp("served")
    texts = ["All human beings are born free and equal in dignity.", "Watu wote wamezaliwa huru, hadhi na haki."]
    words = train_tokenizer([("eng_Latn", text) for text in texts * 8], TokenizerTraining(vocab_size=512))
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=words.vocab_size, hidden_size=16, intermediate_size=16, num_layers=2, num_heads=2,
        max_context=LONGEST, initializer_range=0.3,
    )  # fmt: skip
    Encoder(config).save(root / "tuned")
    MaskedLM(config).save(root / "pretrained")
    SequenceClassifier(Encoder(config), 3, pooling="mean").save(root / "sentiment", ["bad", "fair", "good"])
    SequenceClassifier(Encoder(config), 1, pooling="cls").save(root / "reranker", ["score"])
    TokenClassifier(Encoder(config), 3).save(root / "names", ["O", "B-PER", "I-PER"])
    SpanClassifier(Encoder(config), 2).save(root / "answers", ["start", "end"])
    for folder in root.iterdir():
        words.save(folder, max_tokens=LONGEST)
    return {folder.name: folder for folder in root.iterdir()}


@contextmanager
def serving(*folders: Path, indexes: Sequence[Path] = ()) -> Iterator[str]:
    """The address of a server."""
    server = Server(folders, indexes=indexes, port=0, precision="fp32", quiet=True)
    server.start()
    try:
        server.load()
        yield f"{server.url}/"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def indexes(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two indexes of the tuned model: one of lines, and an empty one."""
    root = tmp_path_factory.mktemp("indexes")
    lines = [
        {"id": 1, "text": "Born free", "metadata": {"language": "eng_Latn", "year": 1948, "tags": ["udhr"]}},
        {"id": 2, "text": "يولد جميع الناس أحرارا", "metadata": {"lang": "arb_Arab", "english": "All are born free"}},
        {"id": 3, "text": "Watu wote ni huru", "metadata": {"language": "not a code", "<b>": "<i>bold</i>"}},
        {"id": 4, "text": "Tous naissent libres"},
    ]
    for name, records in (("lines", lines), ("empty", [])):
        with SearchIndex.create(root / name, models["tuned"], precision="fp32") as index:
            index.add(records)
    return root


@pytest.fixture(scope="session")
def served(models: dict[str, Path], indexes: Path) -> Iterator[str]:
    """All models behind one address; the one for masks and vectors comes first, and the next one has indexes."""
    names = ["pretrained", "tuned", "sentiment", "names", "reranker", "answers"]
    with serving(*(models[name] for name in names), indexes=[indexes / "lines", indexes / "empty"]) as url:
        yield url


@pytest.fixture(scope="session")
def guided(served: str) -> str:
    """The server of the guides, without a slash at its end."""
    return served.rstrip("/")


@pytest.fixture(scope="module")
def served_head(models: dict[str, Path]) -> Iterator[Callable[[str], str]]:
    """A server of one model, by its name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(serving(models[name]))
