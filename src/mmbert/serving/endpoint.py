"""The life of a request: read it, answer it or return an error, and stop if the client leaves.

Every error of a route becomes a status and a body here (:mod:`mmbert.serving.errors`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import is_dataclass
from typing import Any

import numpy as np
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mmbert.errors import MMBertError
from mmbert.serving.bodies import check_type, parse, read_body
from mmbert.serving.context import RequestContext
from mmbert.serving.engine import Closed
from mmbert.serving.errors import failure
from mmbert.serving.routes.route import Route
from mmbert.serving.service import LARGE, Service

JSON = "application/json"

GONE = 499
"""The status in logs for a client that left (as in nginx); nobody receives it."""


def endpoint(route: Route, service: Service) -> Callable[[Request], Awaitable[Response]]:
    """Return the function that starlette calls for a route."""

    async def respond(request: Request) -> Response:
        begun = time.perf_counter()
        context = RequestContext(service)
        request.state.context = context
        failed: str | None = None
        try:
            check_ready(service)
            check_type(request)
            response = await respond_to(request, route, context, begun)
        except MMBertError as error:
            response, failed = refuse(request, error)
        except (ClientDisconnect, _Gone):
            response, failed = Response(status_code=GONE), "Gone"
        finally:
            context.release("requests")  # also when the handler is cancelled
        service.metrics.request(route.kind, context.texts, time.perf_counter() - begun, context.timing, failed)
        return response

    return respond


async def respond_to(request: Request, route: Route, context: RequestContext, begun: float) -> Response:
    """Return the answer of a route. Large bodies are parsed and written outside the event loop."""
    body = await read_body(request, context)
    checked = await context.offload(len(body), lambda: parse(route.schema, body, context.service.options))
    answer = await while_there(request, route.handle(checked, context))
    written = await context.offload(weight(answer), lambda: to_json(answer))
    headers = _headers(context, begun)
    if len(written) <= LARGE:  # small answers do not count as in flight
        return Response(written, 200, headers, JSON)
    context.hold("answers", len(written))
    return _Large(context, written, headers)


class _Large(Response):
    """An answer that is sent in parts as the client reads it, and counts as in flight until then."""

    def __init__(self, context: RequestContext, body: bytes, headers: dict[str, str]) -> None:
        super().__init__(body, 200, headers, JSON)
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for begin in range(0, len(self.body), LARGE):
                part = self.body[begin : begin + LARGE]
                more = begin + LARGE < len(self.body)
                await send({"type": "http.response.body", "body": part, "more_body": more})
        finally:
            self._context.release("answers")


def weight(answer: Any) -> int:
    """Return about the bytes of an answer as JSON, without a look at every item: the first stands for all."""
    if isinstance(answer, np.ndarray):
        return 12 * answer.size
    if isinstance(answer, str):
        return len(answer)
    if isinstance(answer, dict) or is_dataclass(answer):
        return 16 + sum(map(weight, (answer if isinstance(answer, dict) else vars(answer)).values()))
    # An estimate: it only decides whether a thread is worth its cost.
    if isinstance(answer, list) and answer:
        if isinstance(answer[0], np.ndarray):
            return sum(map(weight, answer))
        if isinstance(answer[0], list):
            return sum(len(one) * weight(one[0]) for one in answer if one)
        return len(answer) * weight(answer[0])
    return 8


def to_json(answer: Any) -> bytes:
    """Return an answer as JSON: NumPy arrays as lists, dataclasses as objects.

    A large one is written in pieces of about ``LARGE`` bytes: orjson holds the interpreter's lock, and 100 MB at once
    would stop the event loop for a second.
    """
    size = weight(answer)
    if size > LARGE and isinstance(answer, dict):
        return b"{" + b",".join([to_json(str(key)) + b":" + to_json(value) for key, value in answer.items()]) + b"}"
    if size > LARGE and isinstance(answer, list | np.ndarray):
        step = len(answer) * LARGE // size
        if step > 1:
            parts = [to_json(answer[begin : begin + step])[1:-1] for begin in range(0, len(answer), step)]
        else:
            parts = [to_json(item) for item in answer]
        return b"[" + b",".join(parts) + b"]"
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def json_response(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return a small answer."""
    return Response(to_json(answer), status, headers, JSON)


def refuse(request: Request, error: MMBertError) -> tuple[Response, str]:
    """Return the response to an error, and its kind."""
    response = failure(error)
    request.state.error = response.kind if response.status in (404, 422) else response.message  # the others quote it
    # Not request.url: it is made with the client's Host, which may be no host at all.
    return json_response(response.body(request.scope["path"]), response.status, response.headers), response.kind


def check_ready(service: Service) -> None:
    """Raise Closed unless the models are ready."""
    if service.fault is not None:
        raise Closed(service.fault)
    if service.state != "ready":
        raise Closed("the models are loading" if service.state == "loading" else "the server is stopping")


class _Gone(Exception):
    """The client has left."""


async def while_there(request: Request, work: Awaitable[Any]) -> Any:
    """Return the result of ``work``, which is cancelled when the client leaves."""
    # Both run as tasks, so that the first of them to end can cancel the other.
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        # receive() returns "http.disconnect" when the client leaves; the body has been read before
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _Gone
    finally:
        # Cancelling the work cancels its future, and with it the rows in the queue (Engine.submit).
        for pending in (task, gone):
            pending.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(context: RequestContext, begun: float) -> dict[str, str]:
    """Return the headers of text-embeddings-inference, times in milliseconds."""
    timing = context.timing
    total = time.perf_counter() - begun
    headers = {
        "x-compute-type": {"cpu": "cpu", "cuda": "gpu", None: "none"}.get(context.device, str(context.device)),
        "x-compute-time": _milliseconds(total),
        "x-compute-characters": str(context.characters),
        "x-compute-tokens": str(timing.tokens),
        "x-total-time": _milliseconds(total),
        "x-tokenization-time": _milliseconds(timing.tokenization),
        "x-queue-time": _milliseconds(timing.queue),
        "x-inference-time": _milliseconds(timing.inference),
    }
    return headers | context.headers


def _milliseconds(seconds: float) -> str:
    return str(round(1000 * seconds))
