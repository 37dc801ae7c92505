"""``mmbert serve``: serve models over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mmbert.cli.options import Device, Precision
from mmbert.errors import ConfigError

_ALLOWED_HOST = (
    "Host name that clients may use, besides localhost, IP addresses and the machine's own name; * for any. "
    "May be repeated."
)

_Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL[@layers=N,dimensions=N]",
        show_default=False,
        help="Model folders or hub names, each with the layers and dimensions to serve. Default: all.",
    ),
]


_Indexes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="Search index that one of the models made, for /search and the web page. May be repeated.",
    ),
]


def _limit(help: str) -> Any:
    return typer.Option(min=1, help=help)


def serve(
    models: _Models,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 for all networks. Default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")] = 8000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="Name of a model in requests, once for each. Default: that of its folder.")
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="LoRA adapter of the model, and its name in requests. May be repeated: all adapters share the model's "
            "weights and its batches.",
        ),
    ] = None,
    index: _Indexes = None,
    device: Device = "auto",
    precision: Precision = "auto",
    max_batch_tokens: Annotated[
        int | None, _limit("Most tokens in a batch. Default: 2,048 on a CPU, 32,768 on a GPU.")
    ] = None,
    max_queue_tokens: Annotated[
        int | None, _limit("Most tokens waiting for a model; beyond that, status 429. Default: 256 batches.")
    ] = None,
    max_body: Annotated[int, _limit("Largest request body in bytes.")] = 2**24,
    max_bodies: Annotated[
        int | None, _limit("Largest total of request bodies in memory, in bytes. Default: 8 times --max-body.")
    ] = None,
    max_connections: Annotated[
        int | None, _limit("Most open connections. Default: by the limit of open files, at most 4,096.")
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to finish accepted requests after SIGTERM or Ctrl+C.")
    ] = 30.0,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate", help="Truncate long texts when a request does not set `truncate`.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MMBERT_API_KEY", help="Key that requests must send. Default: none.", show_envvar=True),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin whose web pages may send requests. May be repeated. Default: none.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(envvar="MMBERT_ALLOWED_HOSTS", show_envvar=True, help=_ALLOWED_HOST)
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="OTLP endpoint for traces, such as http://localhost:4318. Default: no traces.")
    ] = None,
) -> None:
    """Serve models over HTTP, with the routes of OpenAI, text-embeddings-inference and mmbert, and a web page at /."""
    from mmbert.serving.server import Abandoned, Died, say
    from mmbert.serving.server import serve as run

    try:
        run(
            models, names=served_model_name or (), adapters=_adapters(adapter or ()), indexes=index or (), host=host,
            port=port, device=device, precision=precision,
            max_batch_tokens=max_batch_tokens, max_queue_tokens=max_queue_tokens, max_body=max_body,
            drain_seconds=drain_seconds, auto_truncate=auto_truncate, api_key=api_key, cors=cors_allow_origin or (),
            allowed_hosts=allowed_host or (), max_bodies=max_bodies, max_connections=max_connections,
            otlp_endpoint=otlp_endpoint,
        )  # fmt: skip
    except (Abandoned, Died) as error:  # running threads could block or crash the interpreter's exit
        line = f"mmbert: {error}"
        say(lambda: print(line, file=sys.stderr, flush=True))
        os._exit(1)


def _adapters(given: Sequence[str]) -> dict[str, str]:
    """Return folders by name. Raises ConfigError for something else than NAME=FOLDER, or a name that comes twice."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, folder = each.partition("=")
        if not (name and equals and folder) or name in found:
            raise ConfigError(f"--adapter {each}: expected NAME=FOLDER, each name once")
        found[name] = folder
    return found
