"""What goes wrong, as clients hear of it: one table of statuses, and the two forms of a body.

text-embeddings-inference's form is ``{"error", "error_type"}``; that of OpenAI, under ``/v1/``, is
``{"error": {"message", "type", "param", "code"}}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmbert.errors import ConfigError, DataError, MMBertError, Overloaded, TokenizerError, TooLong
from mmbert.serving.engine import Closed, Failed
from mmbert.serving.models import UnknownModel, WrongModel


class Refused(MMBertError):
    """A request that cannot be read, with its status."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


_STATUSES: dict[type[MMBertError], int] = {
    Overloaded: 429,
    TooLong: 413,
    UnknownModel: 404,
    WrongModel: 424,
    Failed: 424,
    Closed: 503,
    ConfigError: 422,
    DataError: 422,
    TokenizerError: 422,
}
"""424 is what text-embeddings-inference says where the model could not, or is of another kind."""

_TYPES = {
    400: "Validation", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 405: "Validation", 408: "Validation",
    413: "Validation", 415: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 500: "Backend",
    503: "Unhealthy",
}  # fmt: skip
"""The ``error_type`` of each status."""

_OPENAI = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "forbidden"),
    404: ("invalid_request_error", "model_not_found"),
    413: ("invalid_request_error", "context_length_exceeded"),
    424: ("server_error", "model_error"),
    429: ("requests", "rate_limit_exceeded"),
    503: ("server_error", "service_unavailable"),
}


@dataclass(frozen=True)
class Failure:
    """A status, a one-line message, what kind it is, and headers."""

    status: int
    message: str
    kind: str
    headers: dict[str, str]

    def body(self, path: str) -> dict[str, Any]:
        """In the form of the routes that ``path`` is of."""
        if path.startswith("/v1/"):
            kind, code = _OPENAI.get(self.status, ("invalid_request_error", None))
            return {"error": {"message": self.message, "type": kind, "param": None, "code": code}}
        return {"error": self.message, "error_type": self.kind}


def failure(error: MMBertError) -> Failure:
    """What a client hears of an error."""
    headers: dict[str, str] = {}
    if isinstance(error, Refused):
        status, headers = error.status, error.headers
    else:
        status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), 424)
    if isinstance(error, Overloaded):
        headers = {"Retry-After": str(error.seconds)}
    elif isinstance(error, Closed):
        headers = {"Retry-After": "5", "Connection": "close"}
    kind = "Empty" if isinstance(error, Empty) else _TYPES.get(status, "Backend")
    return Failure(status, shortened(str(error)), kind, headers)


def shortened(message: str, most: int = 1000) -> str:
    """Return a message of at most ``most`` characters: many quote a request, whose parts may be of any length."""
    if len(message) <= most:
        return message
    left = f" [... {len(message) - most + 40:,} characters ...] "
    kept = most - len(left)
    return message[: kept // 2] + left + message[-(kept - kept // 2) :]


class Empty(Refused):
    """A request without a text."""

    def __init__(self) -> None:
        super().__init__(400, "the request holds no text")
