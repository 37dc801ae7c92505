"""``mmbert estimate``: what it takes to embed many texts."""

from __future__ import annotations

from typing import Annotated

import typer

from mmbert.cli.options import Dimensions
from mmbert.cli.train import UTILISATION
from mmbert.estimate.hardware import DEVICES


def estimate(
    model: Annotated[
        str, typer.Argument(help="Model folder, hub name, or a published shape: small or base.", show_default=False)
    ],
    texts: Annotated[float, typer.Option(help="Number of texts, such as 1e9.")],
    length: Annotated[float, typer.Option(help="Tokens of a text: sum of squares over sum, where they vary.")],
    device: Annotated[str, typer.Option(help=f"One of {', '.join(DEVICES)} (cpu: one core).")] = "h100",
    devices: Annotated[int, typer.Option(help="Devices, or cores.")] = 8,
    rate: Annotated[
        float | None, typer.Option(help="Tokens per second of one device, measured. Default: computed.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Dollars of a device, or core, for an hour. Default: none.")
    ] = None,
    dimensions: Dimensions = None,
    utilisation: Annotated[list[str] | None, typer.Option(help=UTILISATION, metavar="PART=NUMBER")] = None,
) -> None:
    """Print time, cost and disk of embedding many texts, by arithmetic; nothing is loaded (docs/scaling.md)."""
    from mmbert.estimate.embedding import EmbeddingEstimate, shape_of
    from mmbert.estimate.hardware import Machine
    from mmbert.estimate.print_estimate import print_embedding

    machine = Machine.named(device, 1, utilisation=utilisation or ())
    print_embedding(EmbeddingEstimate(shape_of(model), machine, devices, texts, length, rate, price, dimensions))
