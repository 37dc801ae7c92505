"""The OpenAPI document says what the server does: generated requests are answered as it says, never with a 500."""

from __future__ import annotations

import json
import warnings
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings

from mmbert.serving.app import ROUTES
from mmbert.serving.openapi import make_document
from mmbert.serving.server import Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

EXAMPLES = 8
"""Of each operation."""

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]

DOCUMENT = schemathesis.openapi.from_dict(make_document(ROUTES, key=False))
OPERATIONS = [found.ok() for found in DOCUMENT.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
@pytest.mark.filterwarnings("ignore")
def test_generated_requests(server: Server, operation: Any) -> None:
    strategy = operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @given(strategy)
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def ask(case: Any) -> None:
        case.call_and_validate(base_url=server.url, checks=CHECKS, timeout=60)

    ask()


def test_the_document_is_served_and_whole(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    assert found == json.loads(json.dumps(make_document(ROUTES, key=False)))
    assert found["openapi"] == "3.1.0"
    assert {route.path for route in ROUTES} <= set(found["paths"])
    text = json.dumps(found)
    names = set(found["components"]["schemas"])
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in names
    for shape in found["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(shape)
    assert "security" not in found
    assert make_document(ROUTES, key=True)["security"] == [{"key": []}]
