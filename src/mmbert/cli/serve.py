"""``mmbert serve``: models over HTTP."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def serve(
    models: Annotated[list[str], typer.Argument(help="Folders or hub names.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="0.0.0.0: all networks of this machine. Default: this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What clients call a model; once for each. Default: a folder's last part.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8, of the models' matrices.")] = "auto",
    max_batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of one pass. Default: 2,048 on a CPU, 32,768 on a GPU.")
    ] = None,
    max_queue_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens that wait for a model before 429. Default: 256 batches.")
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 2**24,
    max_bodies: Annotated[
        int | None, typer.Option(min=1, help="Bytes of all requests in flight. Default: 8 times --max-body.")
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option(min=1, help="Open at once. Default: by the limit of open files, 4,096 at most.")
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="That accepted requests have to be answered after SIGTERM or Ctrl+C.")
    ] = 30.0,
    auto_truncate: Annotated[
        bool, typer.Option("--auto-truncate", help="Cut texts that are too long, where a request says nothing.")
    ] = False,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MMBERT_API_KEY", help="That requests must carry. Default: none.", show_envvar=True),
    ] = None,
    cors_allow_origin: Annotated[
        list[str] | None, typer.Option(help="An origin whose pages may ask; may be repeated. Default: none.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="MMBERT_ALLOWED_HOSTS",
            show_envvar=True,
            help="A name under which clients reach the server, beside localhost, addresses and the machine's own; "
            "may be repeated. *: any.",
        ),
    ] = None,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="Where traces are sent, such as http://localhost:4318. Default: nowhere.")
    ] = None,
) -> None:
    """Models over HTTP: OpenAI's, text-embeddings-inference's and our own routes, and a page at /."""
    from mmbert.serving.server import Abandoned, Died, say
    from mmbert.serving.server import serve as run

    try:
        run(
            models, names=served_model_name or (), host=host, port=port, device=device, precision=precision,
            max_batch_tokens=max_batch_tokens, max_queue_tokens=max_queue_tokens, max_body=max_body,
            drain_seconds=drain_seconds, auto_truncate=auto_truncate, api_key=api_key, cors=cors_allow_origin or (),
            allowed_hosts=allowed_host or (), max_bodies=max_bodies, max_connections=max_connections,
            otlp_endpoint=otlp_endpoint,
        )  # fmt: skip
    except (Abandoned, Died) as error:  # threads may still run, and the interpreter's end could wait for them, or crash
        line = f"mmbert: {error}"
        say(lambda: print(line, file=sys.stderr, flush=True))
        os._exit(1)
