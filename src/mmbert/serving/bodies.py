"""Reads the bytes of a request and checks its fields: counts before types, and no further than the first fault.

The time for that is bounded by ``Options``, whatever a client sends.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from mmbert.errors import TooLong
from mmbert.serving.context import RequestContext, too_many
from mmbert.serving.errors import Refused
from mmbert.serving.service import LARGE, Options

_FIELDS = 100
"""Fields of one object at most; no route has half as many."""


def check_type(request: Request) -> None:
    """Raise Refused (415) unless the request is declared as JSON: browsers let any page send plain text and forms."""
    given = request.headers.get("content-type", "")
    kind = given.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        what = f"the request is {given!r}" if given else "the request has no Content-Type"
        raise Refused(415, f"{what}: send JSON with the header Content-Type: application/json")


async def read_body(request: Request, context: RequestContext) -> bytearray:
    """Return the bytes of a request; they count as in flight until :meth:`RequestContext.release`.

    Raises Refused for too many (413) or too slow ones (408), Overloaded where those of all requests are too many.
    """
    options = context.service.options
    limit = options.max_body
    too_large = Refused(413, f"the request is larger than {limit:,} bytes, the limit")  # read on: closing now would
    # reset the connection under a client that still sends, before it reads the answer
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    body = bytearray()  # not a list of parts: a client may send its bytes one by one
    try:
        async with asyncio.timeout(options.body_seconds):
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise too_large
                if len(body) > LARGE:
                    context.hold("requests", len(body))
    except TimeoutError as error:
        message = f"the request was not there after {options.body_seconds:g} seconds"
        raise Refused(408, message, {"Connection": "close"}) from error
    context.size = len(body)
    return body


def parse(schema: type[BaseModel], body: bytes | bytearray, options: Options) -> Any:
    """Return the checked request. Raises Refused (400 for no JSON, 422 for another shape) or TooLong."""
    _check_values(body, options.max_values)
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(400, f"Invalid JSON: {error}") from error
    if isinstance(values, dict):
        _check_counts(values, options.max_inputs)
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        raise Refused(422, explain(error)) from error


def _check_values(body: bytes | bytearray, limit: int) -> None:
    """Raise TooLong for more than ``limit`` values: parsed, they would take many times their bytes."""
    if len(body) <= LARGE or _separators(body) <= limit:
        return
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 4 * limit or _separators(b"".join(plain.split(b'"')[::2])) > limit:
        raise TooLong(f"the request holds more than {limit:,} values: send it in parts")


def _separators(body: bytes | bytearray) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _check_counts(value: Any, limit: int, depth: int = 3) -> None:
    """Raise TooLong for a list of more than ``limit`` inputs, Refused for an object of more than _FIELDS fields."""
    if isinstance(value, dict):
        inner: Iterable[Any] = value.values()
        if len(value) > _FIELDS:
            raise Refused(422, f"an object of {len(value):,} fields, no route takes more than {_FIELDS}")
    else:
        inner = value
        if len(value) > limit and type(value[0]) is not int:  # token ids are one input
            raise too_many(len(value), limit)
    if depth:
        for nested in inner:
            if isinstance(nested, dict | list):
                _check_counts(nested, limit, depth - 1)


def explain(error: ValidationError) -> str:
    """Return the place and the fault of a request, in one line.

    A union gives the faults of each of its forms. The form that the request is closest to is the one whose fault is
    deepest, and whose type fits.
    """
    faults = error.errors(include_url=False, include_input=False)
    places = [tuple(part for part in fault["loc"] if not _FORM.match(str(part))) for fault in faults]
    place = max(range(len(faults)), key=lambda n: (len(places[n]), not faults[n]["type"].endswith("_type")))
    said = [
        str(fault["msg"]).removeprefix("Value error, ")
        for fault, where in zip(faults, places, strict=True)
        if where == places[place] and fault["type"].endswith("_type") == faults[place]["type"].endswith("_type")
    ]
    others = (other.removeprefix("Input should be ") for other in dict.fromkeys(said[1:]))
    message = " or ".join([said[0], *others])
    fields = len({where for where in places if where[:1] != places[place][:1]})
    more = f" (and {fields} more)" if fields else ""
    dotted = ".".join(map(str, places[place]))
    return f"{dotted}: {message}{more}" if dotted else f"{message}{more}"


_FORM = re.compile(r"(str|int|bool|list\[.*|function-\w+\[.*|[A-Z]\w*)$")
"""Parts of a place that name a form of a union, beside the keys of the request."""
