"""A route: where it is, what it takes and gives, and the function that answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mmbert.serving.context import RequestContext


@dataclass(frozen=True)
class Route:
    """``handle``: the checked request and its call -> what is written as JSON.

    kind  under which it is counted, see :data:`mmbert.serving.metrics.KINDS`; None: only among all
    """

    path: str
    summary: str
    asks: type[BaseModel]
    gives: Any
    handle: Callable[[Any, RequestContext], Awaitable[Any]]
    kind: str | None = None
