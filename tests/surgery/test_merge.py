"""Merging folders: the same numbers as the formulas in memory, bounded memory, clear refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmbert.errors import ConfigError, MMBertError, WeightsError
from mmbert.recipe import Merge
from mmbert.surgery import merge as merge_module
from mmbert.surgery.merge import merge
from ties_in_memory import ties

CONFIG: dict[str, Any] = {
    "architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "vocab_size": 64, "hidden_size": 16,
    "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "global_attn_every_n_layers": 3,
    "local_attention": 128, "global_rope_theta": 160000.0, "local_rope_theta": 160000.0, "norm_eps": 1e-5,
    "max_position_embeddings": 8192, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
SHAPES = {"decoder.bias": (64,), "model.embeddings.tok_embeddings.weight": (64, 16), "model.final_norm.weight": (16,)}


def tensors(
    seed: int, around: dict[str, Tensor] | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    if around is not None:
        drawn = {name: around[name].float() + 0.05 * value for name, value in drawn.items()}
    return {name: value.to(dtype) for name, value in drawn.items()}


def save_model(folder: Path, weights: dict[str, Tensor], **changes: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "padding": str(folder)}))
    (folder / "tokenizer_config.json").write_text("{}")
    save_file(weights, folder / "model.safetensors")
    return folder


def family(tmp_path: Path, dtype: torch.dtype = torch.float32, count: int = 3) -> tuple[Path, dict[str, list[Path]]]:
    base = tensors(0, dtype=dtype)
    phases = {f"decay_{k}": [save_model(tmp_path / f"v{k}", tensors(k, base, dtype))] for k in range(1, count + 1)}
    return save_model(tmp_path / "base", base), phases


def spec(of: dict[str, list[Path]], **options: Any) -> Merge:
    return Merge(**{"phases": dict.fromkeys(of, 1.0), "base": "extend", **options})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("chunk", [97, 1 << 18])
@pytest.mark.parametrize("trim", ["tensor", "model"])
def test_ties_equals_the_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, chunk: int, trim: str
) -> None:
    monkeypatch.setattr(merge_module, "CHUNK", chunk)
    base, phases = family(tmp_path, dtype)
    weights = {"decay_1": 1.0, "decay_2": 0.5, "decay_3": 2.0}
    merge(spec(phases, phases=weights, trim=trim, density=0.3, scale=0.9), phases, base, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    loaded = [load_file(folder / "model.safetensors") for folder in (base, *(p[-1] for p in phases.values()))]
    options: dict[str, Any] = {"weights": list(weights.values()), "density": 0.3, "scale": 0.9}
    if trim == "tensor":
        expected = {name: ties(loaded[0][name], [m[name] for m in loaded[1:]], **options) for name in SHAPES}
    else:
        flat = [torch.cat([model[name].reshape(-1) for name in SHAPES]) for model in loaded]  # SHAPES is sorted
        # coarse types make exactly even votes common: the model's majority decides them
        even = majority(flat, list(weights.values()), 0.3)
        parts = ties(flat[0], flat[1:], even=even, **options).split([m.numel() for m in map(loaded[0].get, SHAPES)])
        expected = {name: part.reshape(SHAPES[name]) for name, part in zip(SHAPES, parts, strict=True)}
    for name in SHAPES:
        assert merged[name].dtype == dtype
        assert torch.equal(merged[name], expected[name]), name
        assert not torch.equal(merged[name], loaded[0][name])


def majority(flat: list[Tensor], weights: list[float], density: float) -> float:
    total = torch.zeros(flat[0].numel())
    for variant, weight in zip(flat[1:], weights, strict=True):
        difference = variant.float() - flat[0].float()
        order = torch.argsort(difference.abs(), descending=True, stable=True)
        difference[order[int(density * len(order)) :]] = 0
        total += weight * difference
    return 1.0 if total.sign().sum() > 0 else -1.0


def test_report(tmp_path: Path) -> None:
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    one = {name: value.clone() for name, value in base.items()}
    two = {name: value.clone() for name, value in base.items()}
    one["decoder.bias"][:4] = torch.tensor([1.0, 1.0, 1.0, 1.0])
    two["decoder.bias"][:4] = torch.tensor([1.0, 1.0, -1.0, 0.0])
    phases = {"a": [save_model(tmp_path / "a", one)], "b": [save_model(tmp_path / "b", two)]}
    report = merge(spec(phases, density=1.0), phases, save_model(tmp_path / "base", base), tmp_path / "out")
    bias = report.tensors["decoder.bias"]
    assert bias.kept == [4 / 64, 3 / 64]
    assert bias.conflict == pytest.approx(1 / 3)
    assert bias.unchanged == 60 / 64
    assert bias.cosine[0][1] == pytest.approx(1 / (2 * 3**0.5))
    assert bias.cosine[0][0] == pytest.approx(1.0)
    untouched = report.tensors["model.final_norm.weight"]
    assert (untouched.unchanged, untouched.conflict, untouched.cosine[0][1]) == (1.0, None, None)
    count = sum(t.numel() for t in base.values())
    assert report.total.parameters == count
    assert report.total.unchanged == pytest.approx(1 - 4 / count)
    assert report.total.conflict == pytest.approx(1 / 3)
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["tensors"]["decoder.bias"]["kept"] == [4 / 64, 3 / 64]
    assert saved["method"] == "ties"


def test_whole_model_trim_keeps_the_stated_share(tmp_path: Path) -> None:
    base, phases = family(tmp_path, torch.bfloat16)
    report = merge(spec(phases, density=0.2), phases, base, tmp_path / "out")
    count = report.total.parameters
    assert report.total.kept == [int(0.2 * count) / count] * 3
    kept = [figures.kept[0] for figures in report.tensors.values()]
    assert max(kept) > min(kept)  # not the same share in each tensor


def test_average_with_fading_over_the_last_checkpoints(tmp_path: Path) -> None:
    steps = [save_model(tmp_path / f"step-{k}", tensors(k)) for k in range(4)]
    options = Merge(method="average", phases={"decay_all": 1.0}, checkpoints=3, fading=0.5)
    report = merge(options, {"decay_all": steps}, None, tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name in SHAPES:
        expected = (tensors(1)[name] + 2 * tensors(2)[name] + 4 * tensors(3)[name]) / 7
        assert torch.allclose(merged[name], expected, atol=1e-6)
    assert report.weights == pytest.approx([1 / 7, 2 / 7, 4 / 7])
    assert report.reference == "mean"
    assert [Path(v).name for v in report.variants] == ["step-1", "step-2", "step-3"]


def test_the_folder_is_complete_and_readable_by_others(tmp_path: Path) -> None:
    base, phases = family(tmp_path)
    mask = os.umask(0o022)
    try:
        merge(spec(phases), phases, base, tmp_path / "out")
    finally:
        os.umask(mask)
    out = tmp_path / "out"
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in out.iterdir()} == names
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o644
    assert (out / "config.json").read_bytes() == (tmp_path / "v1" / "config.json").read_bytes()


def test_whole_numbers_are_copied_and_a_stored_tied_matrix_is_left_out(tmp_path: Path) -> None:
    base, phases = {**tensors(0), "steps": torch.tensor([3, 4])}, {}
    for k in (1, 2):
        weights = {**tensors(k, tensors(0)), "steps": torch.tensor([3, 4])}
        weights["decoder.weight"] = weights["model.embeddings.tok_embeddings.weight"].clone()
        phases[f"p{k}"] = [save_model(tmp_path / f"v{k}", weights)]
    merge(spec(phases), phases, save_model(tmp_path / "base", base), tmp_path / "out")
    merged = load_file(tmp_path / "out" / "model.safetensors")
    assert set(merged) == {*SHAPES, "steps"}
    assert merged["steps"].tolist() == [3, 4]


def _broken(name: str, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    changes: dict[str, Any] = {}
    if name == "missing":
        del weights["decoder.bias"]
    elif name == "more":
        weights["model.extra.weight"] = torch.ones(2)
    elif name == "shape":
        weights["decoder.bias"] = torch.ones(63)
    elif name == "nan":
        weights["model.final_norm.weight"][3] = float("nan")
    elif name == "config":
        changes["global_rope_theta"] = 10000.0
    return weights, changes


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"v2 has no tensor decoder\.bias"),
        ("more", r"v1 has no tensor model\.extra\.weight"),
        ("shape", r"decoder\.bias is float32 \[64\] in .*v1 but float32 \[63\] in .*v2"),
        ("nan", r"model\.final_norm\.weight in .*v2 holds NaN"),
        ("config", r"rope_theta is 160000\.0 in .*v1 but 10000\.0 in .*v2"),
    ],
)
def test_models_that_do_not_fit_are_refused(tmp_path: Path, fault: str, says: str) -> None:
    base, phases = family(tmp_path, count=1)
    weights, changes = _broken(fault, tensors(2))
    phases["decay_2"] = [save_model(tmp_path / "v2", weights, **changes)]
    with pytest.raises(WeightsError, match=says):
        merge(spec(phases), phases, base, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]


def test_damaged_and_missing_inputs_are_refused(tmp_path: Path) -> None:
    base, phases = family(tmp_path, count=2)
    file = tmp_path / "v2" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match=r"v2/model\.safetensors cannot be read"):
        merge(spec(phases), phases, base, tmp_path / "out")
    file.unlink()
    with pytest.raises(WeightsError, match=r"no model\.safetensors in .*v2"):
        merge(spec(phases), phases, base, tmp_path / "out")
    file.write_bytes(whole)
    (tmp_path / "v2" / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    with pytest.raises(WeightsError, match="different tokenizers"):
        merge(spec(phases), phases, base, tmp_path / "out")
    (tmp_path / "v2" / "config.json").unlink()
    with pytest.raises(MMBertError, match=r"no config\.json in .*v2"):
        merge(spec(phases), phases, base, tmp_path / "out")


def test_a_spec_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    base, phases = family(tmp_path, count=1)
    with pytest.raises(ConfigError, match="decay_9 has no saved model"):
        merge(spec({"decay_9": []}), phases, base, tmp_path / "out")
    with pytest.raises(ConfigError, match="checkpoints is 4 but phase decay_1 has 1"):
        merge(spec(phases, method="average", checkpoints=4), phases, None, tmp_path / "out")
    with pytest.raises(ConfigError, match="decay_1: a weight must be above 0"):
        merge(spec(phases, phases={"decay_1": -1.0}), phases, base, tmp_path / "out")
    with pytest.raises(ConfigError, match="is one of the models to merge"):
        merge(spec(phases), phases, base, base)
    with pytest.raises(ConfigError, match="needs the folder of the base"):
        merge(spec(phases), phases, None, tmp_path / "out")


PEAK = """
import resource, sys
from pathlib import Path
from mmbert.recipe import Merge
from mmbert.surgery.merge import merge
root = Path(sys.argv[1])
spec = Merge(phases={"a": 1, "b": 1}, base="base", trim="model", density=0.2)
def run(size):
    folders = {name: [root / f"{size}-{name}"] for name in "ab"}
    merge(spec, folders, root / f"{size}-base", root / f"{size}-out")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
small = run("small")
print(run("large") - small)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Three models of 17 MB with one tensor of 13 MB cost no more than three of 2 MB."""
    for size, rows in (("small", 32), ("large", 256)):
        for k, name in enumerate(("base", "a", "b")):
            generator = torch.Generator().manual_seed(k)
            big = torch.randn(rows * 12, 1024, generator=generator)
            others = {f"model.layers.{i}.w": torch.randn(rows, 1024, generator=generator) for i in range(4)}
            save_model(tmp_path / f"{size}-{name}", {"model.embeddings.tok_embeddings.weight": big, **others})
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 6, f"{done.stdout} MB more for the larger models"


def test_of_the_start_there_is_one(tmp_path: Path) -> None:
    """The last checkpoints of a phase are averaged with the one model that the recipe starts from."""
    saved = [save_model(tmp_path / f"m{seed}", tensors(seed)) for seed in range(3)]
    phases = {"teach": saved[:2], "start": saved[2:]}
    options = Merge(method="average", phases={"teach": 3.0, "start": 1.0}, checkpoints=2, fading=0.5)
    report = merge(options, phases, None, tmp_path / "out")
    assert report.weights == pytest.approx([1.0, 2.0, 1.0])
    merged, loaded = (
        load_file(tmp_path / "out" / "model.safetensors"),
        [load_file(p / "model.safetensors") for p in saved],
    )
    for name in SHAPES:
        expected = 0.25 * loaded[0][name] + 0.5 * loaded[1][name] + 0.25 * loaded[2][name]
        torch.testing.assert_close(merged[name], expected)
