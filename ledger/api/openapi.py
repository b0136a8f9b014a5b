"""The OpenAPI 3.1 document, made from the table of routes and the schemas."""

from __future__ import annotations

from typing import Any, Final

from ledger import layout
from ledger.api.keys import SCOPES
from ledger.api.problems import CONTENT_TYPE
from ledger.api.proof_schemas import PROOF_COMPONENTS
from ledger.api.routes import Parameter, Route
from ledger.api.schemas import COMPONENTS, POSITION, ref

_DESCRIPTION: Final = """\
Amounts, ids and times are decimal strings. Ids are permanent: after a time-out, a broken
connection or any 5xx, send the
same ids again. A refused event is a result with its status, not an error; what is not 2xx is a
problem document
(RFC 9457), its code is listed in docs/errors.md. Every write answers with Ledger-Position; reads
take it as min_position.
"""
_TITLES: Final = {
    200: "Success",
    400: "Malformed or invalid",
    401: "No valid API key",
    403: "The API key lacks the scope",
    404: "Not there",
    409: "The ledger has not got that far, or cannot answer that",
    413: "Too large",
    415: "Not a media type of this route",
    422: "The only event was refused (Prefer: handling=strict)",
    429: "Too much at once",
    503: "Not now",
}
_REQUEST_ID: Final[dict[str, Any]] = {
    "X-Request-Id": {"schema": {"type": "string"}, "description": "as sent, or made here"}
}
_RETRY_AFTER: Final[dict[str, Any]] = {
    "Retry-After": {"schema": {"type": "string"}, "description": "seconds"}
}


def document(routes: tuple[Route, ...]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sanyuan",
            "version": f"1.{layout.RULES_VERSION}",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": COMPONENTS | PROOF_COMPONENTS,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key. Scopes: "
                    + "; ".join(f"{scope}: {doc}" for scope, doc in SCOPES.items()),
                }
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [_parameter(parameter) for parameter in route.parameters],
        "responses": {
            **{str(status): _success(route, status) for status in route.answers},
            **{
                str(status): _problem(status)
                for status in sorted(route.problems)
                if status not in route.answers
            },
            "default": _problem(0),
        },
        "security": [{"key": sorted(route.scopes)}] if route.scopes else [],
    }
    if route.position:
        operation["parameters"].append(
            {
                "name": "Prefer",
                "in": "header",
                "schema": {"type": "string"},
                "description": "return=minimal: only refusals; handling=strict: 422 when the only "
                "event is refused",
            }
        )
    if route.bodies:
        operation["requestBody"] = {
            "required": True,
            "content": {name: {"schema": schema} for name, schema in route.bodies.items()},
        }
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "schema": parameter.schema,
        "description": parameter.doc,
    }


def _success(route: Route, status: int) -> dict[str, Any]:
    headers = dict(_REQUEST_ID)
    if route.position:
        headers["Ledger-Position"] = {
            "schema": {"type": "string", "pattern": POSITION},
            "description": "block and index of the last entry; a read with it as min_position "
            "sees the write",
        }
    if status != 200:
        headers |= _RETRY_AFTER
    return {
        "description": _TITLES[status],
        "headers": headers,
        "content": {name: {"schema": schema} for name, schema in route.answers[status].items()},
    }


def _problem(status: int) -> dict[str, Any]:
    headers = dict(_REQUEST_ID)
    if status in (429, 503):
        headers |= _RETRY_AFTER
    return {
        "description": _TITLES.get(status, "Anything else that goes wrong: 405, 408, 500"),
        "headers": headers,
        "content": {CONTENT_TYPE: {"schema": ref("Problem")}},
    }
