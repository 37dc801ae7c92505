"""Native layers: the numbers of what they are made of, row by row, in any company, and torch where they cannot be."""

from __future__ import annotations

import copy
import gc
import shutil
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from native_oracles import encoder, largest_products_are_whole, layer_error, rows, run, shape
from native_targets import built

from mmbert.inference import precision
from mmbert.inference.int8 import Int8Layer
from mmbert.inference.native import kernel
from mmbert.inference.native import layer as native
from mmbert.inference.native.kernel import Kernels
from mmbert.inference.native.layer import NativeLayer
from mmbert.inference.onednn_layers import OneDnnLayer
from mmbert.model.layers import Layer
from mmbert.native import library
from mmbert.packed import Packed

CPU = torch.device("cpu")


BUILT = {name: found for name, found in built().items() if isinstance(found, Kernels)}
needs_layers = pytest.mark.skipif(not native.usable("fp32"), reason=f"native layers are not here: {kernel.describe()}")
by_all = pytest.mark.parametrize("kernels", BUILT.values(), ids=BUILT)  # skipped where none can be built
precisions = pytest.mark.parametrize("used", native.KINDS)

NEAR = {"fp32": (0, 3e-6), "bf16": (1e-4, 0.03), "int8": (1e-3, 0.06)}
"""Of what a layer adds: the least and most relative errors, of int8 with 8 bits."""


@pytest.fixture(autouse=True)
def switched_on() -> Iterator[None]:
    yield
    library.use(True)


@by_all
@precisions
@pytest.mark.parametrize("inner", [96, 416, 1024])
@pytest.mark.parametrize("index", [0, 1, 3])
def test_nearer_than_torchs_layers(kernels: Kernels, index: int, inner: int, used: str) -> None:
    """Layer 0 has no norm before attention, layer 3 is global; as near to fp32 as what it replaces, or nearer."""
    layer = encoder(shape(inner=inner)).layers[index]
    assert isinstance(layer, Layer)
    lengths = [3, 40, 200]
    x = rows(sum(lengths)) * 3
    dtype = torch.float32 if used == "fp32" else torch.bfloat16
    library.use(False)
    theirs = Int8Layer(layer, compiled=False) if used == "int8" else OneDnnLayer(layer, dtype)
    wanted = run(layer, x, lengths)
    mine, torchs = (
        layer_error(run(made, x, lengths), wanted, x) for made in (NativeLayer(layer, used, kernels), theirs)
    )
    seven_bits = used == "int8" and min(kernels.int8_largest) < 127
    assert NEAR[used][0] < mine < (2.5 if seven_bits else 1.2) * torchs + 2e-7
    assert torchs < NEAR[used][1] or used == "int8"  # torch's own int8 saturates without VNNI


@by_all
@precisions
def test_a_row_depends_on_its_document_alone(kernels: Kernels, used: str) -> None:
    """To the last bit, wherever it stands among the rows that go together, and whatever stands beside it."""
    layer = NativeLayer(encoder(shape()).layers[1], used, kernels)  # type: ignore[arg-type]
    lengths = [1, 5, 6, 7, 47, 48, 49, 97, 150]
    x = rows(sum(lengths))
    together = run(layer, x, lengths).split(lengths)
    for part, found in zip(x.split(lengths), together, strict=True):
        assert torch.equal(run(layer, part, [len(part)]), found)
    x[6:12] = torch.nan
    again = run(layer, x, lengths).split(lengths)
    for index in (0, 1, *range(3, len(lengths))):
        assert torch.equal(again[index], together[index])


@by_all
@precisions
def test_any_number_of_threads(kernels: Kernels, used: str) -> None:
    layer = NativeLayer(encoder(shape()).layers[1], used, kernels)  # type: ignore[arg-type]
    lengths, threads = [7, 300], torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 5, 400):  # in the end more than rows
            torch.set_num_threads(number)
            found.append(run(layer, rows(307), lengths))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, found[0]) for other in found[1:])


@by_all
@precisions
@pytest.mark.parametrize("size", [0.0, 1e-6, 1e4])
def test_rows_of_any_size(kernels: Kernels, size: float, used: str) -> None:
    layer = encoder(shape()).layers[1]
    assert isinstance(layer, Layer)
    x = rows(20) * size
    found, wanted = run(NativeLayer(layer, used, kernels), x, [20]), run(layer, x, [20])
    assert found.isfinite().all()
    if size:
        assert (
            layer_error(found, wanted, x) < {"int8": 0.1, "bf16": 0.02, "fp32": 2e-5}[used]
        )  # of 1e4, fp32 keeps 1e-3
    else:
        assert not found.any()


@by_all
@pytest.mark.parametrize("used", ["bf16", "fp32"])
def test_gelu_is_exact(kernels: Kernels, used: str) -> None:
    """The MLP alone, by weights that pass a number on: gelu(x) * 1 for x from -8 to 8, as near as the type allows."""
    layer = encoder(shape(hidden=64, inner=64, heads=1)).layers[0]
    assert isinstance(layer, Layer)
    x = torch.linspace(-8, 8, 64).bfloat16().float().expand(2, 64).clone()
    layer.attn.Wo.weight.zero_()
    layer.mlp_norm.weight.fill_(float(x[0].std(unbiased=False)))  # its mean is nought: the norm gives x back
    gate = torch.zeros(64, 64)
    gate[:, 0] = -1 / 8  # x[0] is -8
    layer.mlp.Wi.weight.copy_(torch.cat([torch.eye(64), gate]))
    layer.mlp.Wo.weight.copy_(torch.eye(64))
    added = run(NativeLayer(layer, used, kernels), x, [2]) - x
    rtol, atol = (2**-6, 1e-5) if used == "bf16" else (1e-6, 2e-6)
    assert torch.allclose(added, torch.nn.functional.gelu(x), rtol=rtol, atol=atol)


@by_all
def test_int8_cannot_saturate(kernels: Kernels) -> None:
    assert largest_products_are_whole(kernels)


@by_all
def test_copies_have_weights_of_their_own(kernels: Kernels) -> None:
    layer = NativeLayer(encoder(shape()).layers[1], "int8", kernels)  # type: ignore[arg-type]
    x = rows(30)
    wanted = run(layer, x, [30])
    copied = copy.deepcopy(layer)
    layer.qkv.weight.zero_()
    assert not torch.equal(run(layer, x, [30]), wanted)
    del layer
    gc.collect()
    assert torch.equal(run(copied, x, [30]), wanted)


@by_all
@precisions
def test_a_whole_encoder(kernels: Kernels, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBERT_NATIVE", kernels.target.name)
    plain = encoder(shape())
    packed = Packed.from_lists([np.arange(5, 5 + n) for n in (200, 2, 65, 129, 40, 40)]).to()
    made = copy.deepcopy(plain)
    precision.apply_precision(made, CPU, used)
    assert all(isinstance(layer, NativeLayer) for layer in made.layers)
    with torch.inference_mode():
        found, wanted = made(packed), plain(packed)
        mixes = [model(packed, [0.2] * 5) for model in (made, plain)]
    for mine, theirs in ((found, wanted), mixes):
        cosines = torch.nn.functional.cosine_similarity(mine, theirs, dim=1)
        assert cosines.min() > {"int8": 0.998, "bf16": 0.9999, "fp32": 0.999999}[used]


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
def test_kernels_are_built_where_the_cpu_can() -> None:
    """The other tests are skipped where they are not: this one says that they must be."""
    for name, found in built().items():
        assert isinstance(found, Kernels) or found.startswith("the processor has no"), name


def test_layers_that_do_not_fit_stay_with_torch() -> None:
    for config in (shape(hidden=72, heads=3), shape(inner=68), shape(heads=8)):  # panels of 16 columns at least
        made = encoder(config)
        precision.apply_precision(made, CPU, "bf16")
        assert not any(isinstance(layer, NativeLayer) for layer in made.layers)


@needs_layers
def test_all_precisions_are_native_until_switched_off() -> None:
    layer = encoder(shape()).layers[0]
    assert isinstance(layer, Layer)
    assert all(native.ready(layer, name) for name in native.KINDS)
    library.use(False)
    assert not native.ready(layer, "fp32")


@needs_layers
def test_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Gates that are not where layer.c looks for them."""
    layer = encoder(shape()).layers[0]
    assert isinstance(layer, Layer)
    true_panels = native._side_by_side
    monkeypatch.setattr(native, "_side_by_side", lambda weight, size: true_panels(weight, size // 2))
    native._right.cache_clear()
    try:
        with caplog.at_level("WARNING"):
            assert not native.ready(layer, "fp32")
        assert "please report" in caplog.text
    finally:
        monkeypatch.undo()
        native._right.cache_clear()
    assert native.ready(layer, "fp32")
