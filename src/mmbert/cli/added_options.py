"""Options that commands share and that are taken care of around them, so that no command names them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(
    command: Callable[..., Any], function: Callable[..., Any], added: dict[str, tuple[Any, Any]], hidden: str = ""
) -> Callable[..., Any]:
    """Return ``command``, which wraps ``function``, with the parameters that typer reads: the function's and ``added``.

    added   name -> annotation and default of a parameter that ``command`` takes by keyword
    hidden  a parameter of ``function`` that ``command`` gives it, and that is no option
    """
    hints = get_type_hints(function, include_extras=True)
    hints.pop(hidden, None)
    signature = inspect.signature(function)
    own = [
        each.replace(annotation=hints.get(name, Any)) for name, each in signature.parameters.items() if name != hidden
    ]
    ours = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in added.items()
    ]
    # Older versions of typer read the hints, newer ones the signature.
    command.__annotations__ = {**hints, **{name: annotation for name, (annotation, _) in added.items()}}
    command.__signature__ = signature.replace(parameters=[*own, *ours])  # type: ignore[attr-defined]
    return command
