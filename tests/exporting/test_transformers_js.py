"""The layout of transformers.js: its files, the operators of its graphs, and the numbers of other runtimes.

transformers.js is looked for where Node looks: NODE_PATH names a folder with @huggingface/transformers.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from export_models import padded, random_rows, save_task

import mmbert
from mmbert.errors import ConfigError
from mmbert.exporting import graph
from mmbert.exporting.export import FP16, FP32, INT8, ExportReport
from mmbert.exporting.texts import TEXTS
from mmbert.model.tasks import SequenceClassifier, SpanClassifier
from mmbert.tokenizer.tokenizer import Tokenizer

FILES = (FP32, FP16, INT8)
DTYPES = {FP32: "fp32", FP16: "fp16", INT8: "q8"}
SCRIPT, PAGE = Path(__file__).with_name("transformers_js.cjs"), Path(__file__).parents[2] / "examples/browser_search"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

OPERATORS = {
    "Abs", "Add", "And", "ArgMax", "Cast", "Clip", "Concat", "Constant", "Cos", "CumSum", "Div",
    "DynamicQuantizeLinear", "Erf", "Expand", "Gather", "GatherElements", "LayerNormalization", "LessOrEqual", "MatMul",
    "MatMulInteger", "Max", "Mul", "Range", "ReduceL2", "ReduceMax", "ReduceSum", "Reshape", "Shape", "Sin", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""All that a graph may hold, of ONNX's own opset 18: ONNX Runtime Web (WebAssembly) and tract 0.23 have each."""


def exported(model: Path, out: Path, **options: Any) -> ExportReport:
    return mmbert.export(model, out, format="onnx", layout="transformers.js", quality=0.5, **options)


@pytest.fixture(scope="module")
def vectors(masked_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportReport:
    out = tmp_path_factory.mktemp("js") / "vectors"
    return exported(masked_lm, out, output="embedding", pooling=["first", "mean"], normalize=True)


def test_files_and_agreement(vectors: ExportReport) -> None:
    assert set(vectors.sizes) == set(vectors.checks) == set(FILES)
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {path.name for path in vectors.out.iterdir()}
    assert vectors.sizes[FP16] < 0.6 * vectors.sizes[FP32]
    assert vectors.checks[FP32].equal
    assert 0.9999 < vectors.checks[FP16].cosine < 1
    assert vectors.checks[FP16].difference < vectors.checks[INT8].difference


def test_refused(masked_lm: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout is an option of onnx, not of huggingface"):
        mmbert.export(masked_lm, tmp_path / "out", format="huggingface", layout="transformers.js")
    with pytest.raises(ConfigError, match=r"layout 'web' is none of transformers\.js"):
        mmbert.export(masked_lm, tmp_path / "out", format="onnx", layout="web")  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "max", "weightedmean"])
def test_operators(pooling: str, masked_lm: Path, tmp_path: Path) -> None:
    out = exported(masked_lm, tmp_path / "out", output="embedding", pooling=pooling, normalize=True, texts=["x y"]).out
    for name in FILES:
        model = onnx.load(out / name)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", graph.OPSET)]
        assert not model.functions
        assert {node.op_type for node in model.graph.node} <= OPERATORS


def test_positions_beyond_fp16(tokenizer: Tokenizer, vectors: ExportReport) -> None:
    """fp16 counts to 2,048: angles stay fp32, so that a longer text has the same vector."""
    ids, mask = padded(random_rows([3000, 2500], tokenizer.vocab_size))
    fp32, fp16 = (
        onnxruntime.InferenceSession(str(vectors.out / name)).run(
            None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        )[0]
        for name in (FP32, FP16)
    )
    assert (fp32 * fp16).sum(axis=1).min() > 0.999  # ONNX Runtime 1.24 also sums in fp16


@pytest.mark.parametrize("name", FILES)
def test_tract(name: str, vectors: ExportReport, tokenizer: Tokenizer) -> None:
    tract = pytest.importorskip("tract", reason="tract, an ONNX runtime for phones, is not installed")
    model = tract.onnx().load(str(vectors.out / name))
    model.analyse()
    ids, mask = (value.numpy() for value in padded(random_rows([40, 7], tokenizer.vocab_size)))
    found = model.into_model().into_runnable().run([ids, mask])[0].to_numpy()
    session = onnxruntime.InferenceSession(str(vectors.out / name))
    (wanted,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-3 if name == FP16 else 1e-5)


def resolved(module: str) -> Path | None:
    """Return the folder of a module that Node finds."""
    if shutil.which("node") is None:
        return None
    command = ["node", "-p", f"require.resolve('{module}')"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent, check=False)
    return Path(found.stdout.strip()).parent if found.returncode == 0 else None


@pytest.fixture(scope="module")
def library() -> Path:
    found = resolved("@huggingface/transformers")
    if found is None:
        pytest.skip("Node or the npm package @huggingface/transformers is not installed (NODE_PATH)")
    return found


def node(kind: str, folder: Path, texts: list[str], dtype: str = "fp32") -> Any:
    command = ["node", str(SCRIPT), kind, str(folder), dtype]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.usefixtures("library")
def test_node_reads_the_same_ids(vectors: ExportReport, tokenizer: Tokenizer) -> None:
    assert node("ids", vectors.out, list(TEXTS)) == [tokenizer.encode(text, specials=True) for text in TEXTS]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", FILES)
def test_node_embeds(name: str, vectors: ExportReport, masked_lm: Path) -> None:
    wanted = np.asarray(mmbert.Embedder.load(masked_lm, pooling=["first", "mean"], precision="plain")(list(TEXTS)))
    found = np.array(node("embedding", vectors.out, list(TEXTS), DTYPES[name]))
    if name == FP32:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    found /= np.linalg.norm(found, axis=1, keepdims=True)  # in fp16, a unit length is one to three digits
    assert (found * wanted).sum(axis=1).min() > {FP32: 0.999999, FP16: 0.9999, INT8: 0.9}[name]


@pytest.mark.usefixtures("library")
def test_node_runs_pipelines(masked_lm: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    texts = list(TEXTS[:3])
    hidden = exported(masked_lm, tmp_path / "hidden", output="hidden").out
    wanted = np.asarray(mmbert.Embedder.load(masked_lm, precision="plain")(texts))
    np.testing.assert_allclose(node("feature-extraction", hidden, texts), wanted, rtol=0, atol=1e-5)

    masks = ["Paris is <mask>.", "Watu wote <mask> huru."]
    fill = mmbert.FillMask.load(masked_lm, precision="plain")
    logits = exported(masked_lm, tmp_path / "logits").out
    for text, found in zip(masks, node("fill-mask", logits, masks), strict=True):
        ours = fill(text, top_k=5)
        assert [one["token"] for one in found] == [one.id for one in ours]
        np.testing.assert_allclose([one["score"] for one in found], [one.score for one in ours], rtol=0, atol=1e-5)

    labels = ["good", "bad", "neither"]
    save_task(tmp_path / "task", tokenizer, SequenceClassifier, labels, problem_type="single_label_classification")
    classes = exported(tmp_path / "task", tmp_path / "classes").out
    classifier = mmbert.Classifier.load(tmp_path / "task", precision="plain")
    for text, found in zip(texts, node("text-classification", classes, texts), strict=True):
        scores = {one["label"]: one["score"] for one in found}
        assert scores == pytest.approx(classifier(text).scores, abs=1e-5)


def test_answers_have_three_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = save_task(tmp_path / "span", tokenizer, SpanClassifier, ["start", "end"])
    assert set(exported(folder, tmp_path / "out", texts=TEXTS[:4]).sizes) == set(FILES)


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, format: str, *values: Any) -> None:
        pass


@pytest.fixture
def site(library: Path, vectors: ExportReport, tmp_path: Path) -> Iterator[str]:
    """The page with the files that the guide puts beside it, on a port of this machine."""
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True)
    shutil.copyfile(PAGE.parent / "texts.txt", tmp_path / "texts.txt")
    shutil.copytree(vectors.out, tmp_path / "model")
    (tmp_path / "vendor").mkdir()
    runtime = resolved("onnxruntime-web")
    assert runtime is not None
    for path in (library / "transformers.min.js", *runtime.glob("ort-wasm-simd-threaded.asyncify.*")):
        shutil.copyfile(path, tmp_path / "vendor" / path.name)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_page_searches_in_the_browser(site: str, masked_lm: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    embedder = mmbert.Embedder.load(masked_lm, pooling=["first", "mean"], precision="plain")
    texts = ["Wote wamezaliwa huru.", "x", "All human beings are born free."]
    scores = np.asarray(embedder(texts)) @ np.asarray(embedder("All human beings are born free"))
    with sync_api.sync_playwright() as playwright:
        # Chromium has no sandbox for root, whom tests in containers often are; the page is ours
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(site + "?dtype=fp32")
        page.wait_for_selector("button:enabled", timeout=120_000)
        page.fill("#texts", "\n".join(texts))
        page.fill("#query", "All human beings are born free")
        page.click("button")
        page.wait_for_selector("#hits li", timeout=60_000)
        found = page.locator("#hits li").all_inner_texts()
        assert page.inner_text("#status") == "3 texts searched."
        browser.close()
    order = np.argsort(-scores)
    assert found == [f"{scores[index]:.3f}{texts[index]}" for index in order]
    assert all(url.startswith((site.rsplit("/", 1)[0], "blob:", "data:")) for url in asked), "nothing leaves the page"
