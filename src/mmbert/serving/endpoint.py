"""From bytes to bytes: read a request within its limits, check it, answer it or say why not, and leave with the client.

Everything a route may raise ends here as a status and a body (:mod:`mmbert.serving.failures`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mmbert.errors import MMBertError
from mmbert.serving.call import Call
from mmbert.serving.engine import Closed
from mmbert.serving.failures import Refused, failure
from mmbert.serving.routes.root import explain
from mmbert.serving.routes.route import Route
from mmbert.serving.service import Service

JSON = "application/json"

GONE = 499
"""The status that logs show for a client that left (nginx's); nobody receives it."""


def endpoint(route: Route, service: Service) -> Callable[[Request], Awaitable[Response]]:
    """The function that starlette calls for a route."""

    async def respond(request: Request) -> Response:
        begun = time.perf_counter()
        call = Call(service)
        request.state.call = call
        failed: str | None = None
        try:
            check_ready(service)
            asked = parse(route.asks, await read_body(request, service))
            answer = await while_there(request, route.handle(asked, call))
            response = json_response(answer, headers=_headers(call, begun))
        except MMBertError as error:
            response, failed = refuse(request, error)
        except (ClientDisconnect, _Gone):
            response, failed = Response(status_code=GONE), "Gone"
        service.meters.request(route.kind, call.texts, time.perf_counter() - begun, call.timing, failed)
        return response

    return respond


def json_response(answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Anything as JSON; vectors are written from their memory."""
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
    return Response(body, status, headers, JSON)


def refuse(request: Request, error: MMBertError) -> tuple[Response, str]:
    """The answer to what cannot be answered, and its kind."""
    found = failure(error)
    request.state.error = found.kind if found.status in (404, 422) else found.message  # those quote the request
    return json_response(found.body(request.url.path), found.status, found.headers), found.kind


def check_ready(service: Service) -> None:
    """Raises Closed."""
    if service.fault is not None:
        raise Closed(service.fault)
    if service.state != "ready":
        raise Closed("the models are loading" if service.state == "loading" else "the server is going down")


def parse(schema: type[BaseModel], body: bytes) -> Any:
    """The checked request. Raises Refused: 400 for what is no JSON, 422 for another shape."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        status = 400 if error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid" else 422
        raise Refused(status, explain(error)) from error


async def read_body(request: Request, service: Service) -> bytes:
    """The bytes of a request. Raises Refused for too many (413) or too slow ones (408)."""
    options = service.options
    limit = options.max_body
    too_large = Refused(413, f"the request is larger than {limit:,} bytes, the limit")  # read on: closing now would
    # reset the connection under a client that still sends, before it reads the answer
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(options.body_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        message = f"the request was not there after {options.body_seconds:g} seconds"
        raise Refused(408, message, {"Connection": "close"}) from error
    return b"".join(parts)


class _Gone(Exception):
    """The client has left."""


async def while_there(request: Request, work: Awaitable[Any]) -> Any:
    """The outcome of ``work``, which is cancelled when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise _Gone
    finally:
        for pending in (task, gone):
            pending.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _headers(call: Call, begun: float) -> dict[str, str]:
    """Of text-embeddings-inference: times in milliseconds."""
    timing = call.timing
    total = time.perf_counter() - begun
    headers = {
        "x-compute-type": {"cpu": "cpu", "cuda": "gpu", None: "none"}.get(call.device, str(call.device)),
        "x-compute-time": _milliseconds(total),
        "x-compute-characters": str(call.characters),
        "x-compute-tokens": str(timing.tokens),
        "x-total-time": _milliseconds(total),
        "x-tokenization-time": _milliseconds(timing.tokenization),
        "x-queue-time": _milliseconds(timing.queue),
        "x-inference-time": _milliseconds(timing.inference),
    }
    return headers | call.headers


def _milliseconds(seconds: float) -> str:
    return str(round(1000 * seconds))
