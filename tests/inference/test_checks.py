"""What stands at the doors: texts of every container, options, and answers that are no numbers, named by their text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file

from mmbert import Answerer, Classifier, Embedder, FillMask, Reranker, SearchIndex, Tagger
from mmbert.errors import ConfigError, MMBertError, NotFiniteOutput
from mmbert.inference.bulk import embed_to_file
from mmbert.inference.checks import text_name, whole
from mmbert.model.weights import save_state
from mmbert.tokenizer.tokenizer import Tokenizer

GOOD = "All human beings"
BAD = "haki zao"
KINDS: dict[str, tuple[type[Any], str]] = {
    "Embedder": (Embedder, "masks"), "FillMask": (FillMask, "masks"), "Classifier": (Classifier, "classes"),
    "Tagger": (Tagger, "tags"), "Answerer": (Answerer, "spans"), "Reranker": (Reranker, "ranks"),
}  # fmt: skip


@pytest.fixture(scope="module")
def predictors(heads: Path) -> dict[str, Any]:
    return {name: kind.load(heads / folder, precision="fp32") for name, (kind, folder) in KINDS.items()}


@pytest.fixture(scope="module")
def broken(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders whose finite weights overflow on the tokens of BAD alone."""
    root = Path(shutil.copytree(heads, tmp_path_factory.mktemp("broken") / "heads"))
    for folder in root.iterdir():
        state = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
        words = Tokenizer.load(folder)
        spared = {token for text in (GOOD, f" {GOOD}") for token in words.encode(text)}
        rows = [token for token in words.encode(BAD)[1:-1] if token not in spared]
        assert rows
        state["model.embeddings.tok_embeddings.weight"][rows] = 3e38
        state["model.embeddings.tok_embeddings.weight"][rows, 0] = -3e38
        save_state(state, folder / "model.safetensors")
    return root


@pytest.fixture(scope="module")
def broken_predictors(broken: Path) -> dict[str, Any]:
    return {name: kind.load(broken / folder, precision="fp32") for name, (kind, folder) in KINDS.items()}


CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "tuple": tuple, "array": np.array, "array of objects": lambda texts: np.array(texts, dtype=object),
    "Series": pandas.Series, "Series in another order": lambda texts: pandas.Series(texts, index=[5, 3]),
    "Index": pandas.Index, "generator": lambda texts: (text for text in texts),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_any_column_of_texts_is_read_as_the_list(predictors: dict[str, Any], container: str) -> None:
    texts = [GOOD, "Watu wote"]
    given = CONTAINERS[container](texts)
    vectors = predictors["Embedder"](given)
    vectors = np.stack(list(vectors)) if isinstance(vectors, Iterator) else vectors
    np.testing.assert_array_equal(vectors, predictors["Embedder"](texts))
    if container != "generator":
        assert predictors["Tagger"](given) == predictors["Tagger"](texts)
        assert container == "tuple" or predictors["Classifier"](given) == predictors["Classifier"](texts)  # a pair
        assert predictors["Reranker"](GOOD, given) == predictors["Reranker"](GOOD, texts)
        assert predictors["Answerer"](given, given) == predictors["Answerer"](texts, texts)


@pytest.mark.parametrize("text", [np.array(GOOD), np.str_(GOOD), np.array(GOOD, dtype=object)])
def test_one_text_of_numpy_is_a_text(predictors: dict[str, Any], text: Any) -> None:
    np.testing.assert_array_equal(predictors["Embedder"](text), predictors["Embedder"](GOOD))
    np.testing.assert_array_equal(predictors["Embedder"].encode(text), predictors["Embedder"].encode(GOOD))
    assert predictors["Classifier"](text) == predictors["Classifier"](GOOD)
    assert predictors["Tagger"](text) == predictors["Tagger"](GOOD)
    assert predictors["Answerer"](text, text) == predictors["Answerer"](GOOD, GOOD)
    assert predictors["Reranker"](text, [GOOD]) == predictors["Reranker"](GOOD, [GOOD])


NO_TEXTS: dict[str, tuple[Any, str]] = {
    "a pair where a text belongs": ([GOOD, ["a", "b"]], "text 1 is list( of str, str)?, not str"),
    "a table of two columns": (np.array([["a", "b"]]), r"texts are an array of shape \(1, 2\)"),
    "DataFrame": (pandas.DataFrame({"t": ["a", "b"]}), r"texts are a DataFrame: take one of its columns"),
    "NaN in a column": (pandas.Series(["a", None]), "text 1 is (NoneType|float)"),
    "NaN": (["a", float("nan")], r"text 1 is float( \(nan\))?, not str"),
    "bytes": (["a", b"b"], "text 1 is bytes, not str"),
    "dict": (["a", {"text": "b"}], "text 1 is dict, not str"),
    "numbers": (np.array([1, 2]), "text 0 is int(64)?, not str"),
    "no container": (np.array(3), r"texts are an array of shape \(\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_TEXTS)
@pytest.mark.parametrize("call", ["embed", "encode", "late", "tokens", "fill", "tag", "iterator", "bulk", "tokenizer"])
def test_what_is_no_text_is_named_by_its_number(
    predictors: dict[str, Any], case: str, call: str, tmp_path: Path
) -> None:
    asked, said = NO_TEXTS[case]
    embedder = predictors["Embedder"]
    calls: dict[str, Callable[[], Any]] = {
        "embed": lambda: embedder(asked),
        "encode": lambda: embedder.encode(asked),
        "late": lambda: embedder.passages(asked),
        "tokens": lambda: embedder.tokens(asked),
        "fill": lambda: predictors["FillMask"]([f"{t}<mask>" if isinstance(t, str) else t for t in asked]),
        "tag": lambda: predictors["Tagger"](asked),
        "iterator": lambda: list(embedder(iter(asked))),
        "bulk": lambda: embed_to_file(embedder, enumerate(asked), tmp_path / "v.npy"),
        "tokenizer": lambda: embedder.loaded.tokenizer.encode_batch(asked),
    }
    if call in ("fill", "iterator", "bulk", "tokenizer") and not said.startswith("text "):
        return  # the items of these are looked at, not what holds them
    with pytest.raises(MMBertError, match=said.replace("texts", "(texts|inputs)")):
        calls[call]()


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("a", "b"), ("a", 3)], "text 1 is tuple of str, int: expected a str, or a pair of two"),
        ([("a", "b", "c")], "text 0 is tuple of str, str, str"),
        (pandas.DataFrame({"a": ["x"], "b": ["y"]}), "DataFrame"),
    ],
)
def test_what_is_no_pair_is_named(predictors: dict[str, Any], pairs: Any, said: str) -> None:
    for call in (predictors["Reranker"].predict, predictors["Classifier"]):
        with pytest.raises(MMBertError, match=said):
            call(pairs)


def test_pairs_in_an_array_are_pairs(predictors: dict[str, Any]) -> None:
    pairs = np.array([["a", "b"], ["c", "d"]])
    listed = [("a", "b"), ("c", "d")]
    np.testing.assert_array_equal(predictors["Reranker"].predict(pairs), predictors["Reranker"].predict(listed))
    assert predictors["Classifier"](pairs) == predictors["Classifier"](listed)


def test_options_are_whole_numbers(predictors: dict[str, Any]) -> None:
    embedder = predictors["Embedder"]
    assert whole("n", np.int64(3)) == 3
    assert type(whole("n", np.int32(3))) is int
    assert embedder(GOOD, dimensions=np.int64(4)).shape == (4,)
    assert len(predictors["FillMask"]("a <mask>", top_k=np.int64(2))) == 2
    for call in (
        lambda: embedder(GOOD, dimensions=True),
        lambda: embedder(GOOD, dimensions=4.0),
        lambda: embedder.encode(GOOD, batch_size=True),
        lambda: embedder.passages(GOOD, chunking="windows", size=True),
        lambda: predictors["FillMask"]("a <mask>", top_k=True),
        lambda: predictors["Answerer"](GOOD, GOOD, top_k=True),
        lambda: predictors["Reranker"](GOOD, [GOOD], top_k=True),
        lambda: embedder.encode(GOOD, truncate_dim="4"),
    ):
        with pytest.raises(ConfigError, match="it must be a whole number"):
            call()
    with pytest.raises(ConfigError, match="max_tokens is True"):
        embedder.max_seq_length = True


BROKEN: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "embed": lambda f, out: f["Embedder"]([GOOD, BAD]),
    "binary": lambda f, out: f["Embedder"]([GOOD, BAD], output="ubinary"),
    "calibrate": lambda f, out: f["Embedder"].calibrate([GOOD, BAD]),
    "encode": lambda f, out: f["Embedder"].encode([GOOD, BAD]),
    "encode tokens": lambda f, out: f["Embedder"].encode([GOOD, BAD], output_value="token_embeddings"),
    "iterator": lambda f, out: list(f["Embedder"](iter([GOOD, BAD]))),
    "late": lambda f, out: f["Embedder"].passages([GOOD, BAD]),
    "windows": lambda f, out: f["Embedder"].passages([GOOD, BAD], chunking="windows"),
    "tokens": lambda f, out: f["Embedder"].tokens([GOOD, BAD]),
    "fill": lambda f, out: list(f["FillMask"].stream(iter([f"{BAD} <mask>"]))),  # a tied decoder spoils all texts
    "classify": lambda f, out: f["Classifier"]([GOOD, BAD]),
    "classify logits": lambda f, out: f["Classifier"].logits([GOOD, BAD]),
    "tag": lambda f, out: f["Tagger"]([GOOD, BAD]),
    "tag tokens": lambda f, out: f["Tagger"].tokens([GOOD, BAD]),
    "answer": lambda f, out: f["Answerer"]([GOOD, GOOD], [GOOD, BAD]),
    "answer logits": lambda f, out: f["Answerer"]([GOOD, GOOD], [GOOD, BAD]),
    "rerank": lambda f, out: f["Reranker"](GOOD, [GOOD, BAD]),
    "predict": lambda f, out: f["Reranker"].predict([(GOOD, GOOD), (GOOD, BAD)]),
    "npy": lambda f, out: embed_to_file(f["Embedder"], [(7, GOOD), (8, BAD)], out / "v.npy", part_size=1),
    "jsonl": lambda f, out: embed_to_file(f["Embedder"], [(7, GOOD), (8, BAD)], out / "v.jsonl"),
    "parquet": lambda f, out: embed_to_file(f["Embedder"], [(7, GOOD), (8, BAD)], out / "v.parquet"),
}


@pytest.mark.parametrize("door", BROKEN)
def test_an_answer_of_nan_names_its_text(broken_predictors: dict[str, Any], door: str, tmp_path: Path) -> None:
    number = 0 if door == "fill" else 1
    with pytest.raises(NotFiniteOutput, match=rf"text {number} \(.*{BAD}.*\): the model's result holds NaN") as caught:
        BROKEN[door](broken_predictors, tmp_path)
    assert caught.value.number == number
    assert not list(tmp_path.glob("v.*[!l]"))[1:]  # no file, but for the begun job


def test_an_index_takes_no_nan(broken_predictors: dict[str, Any], tmp_path: Path) -> None:
    records = [{"id": f"r{number}", "text": GOOD} for number in range(3)]
    with SearchIndex.create(tmp_path / "index", broken_predictors["Embedder"], store="exact") as index:
        index.add(records)
        with pytest.raises(NotFiniteOutput, match=rf"record 2 \(id 'bad'\), text 0 \('{BAD}'\)"):
            index.add([*records[:2], {"id": "bad", "text": BAD}])
        with pytest.raises(NotFiniteOutput, match=f"text 0 \\('{BAD}'\\)"):
            index(BAD)
        vectors = np.full((1, index.manifest.dimensions), np.nan, np.float32)
        with pytest.raises(ConfigError, match="vector 0 holds NaN"):
            index(vectors)
        with pytest.raises(ConfigError, match="vector 0 holds NaN"):
            index.add([{"id": "given", "text": GOOD}], vectors=vectors)
        assert len(index) == 3


def test_the_command_names_the_line(broken: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in (GOOD, BAD)))
    command = [sys.executable, "-m", "mmbert"]
    for args in (["classify", str(broken / "classes")], ["embed", str(broken / "masks")]):
        done = subprocess.run([*command, *args, str(lines)], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert BAD in done.stderr.splitlines()[-1]
        assert "NaN" not in done.stdout
        assert "null" not in done.stdout


def test_long_texts_are_shown_by_their_beginning() -> None:
    assert text_name(3, "a" * 100) == f"text 3 ('{'a' * 40}...')"
    assert text_name(0, ("q", "d")) == "text 0 ('q', 'd')"


COMPILERS = """
import sys
from mmbert.inference.{module} import {kind}
predictor = {kind}.load(sys.argv[1], precision=sys.argv[2])
{call}
print([name for name in sys.modules if name in ("sympy", "torch._dynamo", "torch._inductor")])
"""


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize(
    ("module", "kind", "folder", "call"),
    [
        ("embedder", "Embedder", "masks", "predictor('a text')"),
        ("fill_mask", "FillMask", "masks", "predictor('a <mask>')"),
        ("classifier", "Classifier", "classes", "predictor('a text')"),
        ("classifier", "Classifier", "classes", "from mmbert import MaskedLM; MaskedLM(predictor.loaded.config)"),
    ],
)
def test_loading_imports_no_compiler(
    heads: Path, module: str, kind: str, folder: str, call: str, precision: str
) -> None:
    code = COMPILERS.format(module=module, kind=kind, call=call)
    done = subprocess.run(
        [sys.executable, "-c", code, str(heads / folder), precision], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_is_drawn_for_a_model_whose_weights_are_loaded(heads: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Embedder.load(heads / "masks")
    assert torch.equal(torch.get_rng_state(), before)


def test_prompts_are_texts_and_similarity_compares_vectors(heads: Path) -> None:
    embed = Embedder.load(heads / "masks")
    for prompt in (5, ["a"], b"query: "):
        with pytest.raises(ConfigError, match=r"prompt is .*: expected the name of a prompt, or its text"):
            embed("a", prompt=prompt)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="similarity compares vectors, not texts"):
        embed.similarity(["a"], ["b"])
