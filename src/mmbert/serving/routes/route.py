"""A route: its path, and the function that answers, whose signature and docstring describe it in OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from pydantic import BaseModel

from mmbert.serving.context import RequestContext


@dataclass(frozen=True)
class Route:
    """``handle``: (checked request, context) -> the answer, which is written as JSON.

    answer_type  type of the answer, for OpenAPI
    kind         under which metrics count it, see :data:`mmbert.serving.metrics.KINDS`; None: only among all
    """

    path: str
    handle: Callable[[Any, RequestContext], Awaitable[Any]]
    answer_type: Any
    kind: str | None = None

    @cached_property
    def schema(self) -> type[BaseModel]:
        """The schema of the request: the type of the handler's first parameter."""
        hint: type[BaseModel] = get_type_hints(self.handle)["request"]
        return hint
