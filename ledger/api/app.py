"""The aiohttp application: routes from the table, and around each request what is the same for
all."""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from ledger.api import openapi
from ledger.api.context import (
    CONTEXT,
    LARGE_PROOF_THREADS,
    READ_THREADS,
    REQUEST_ID,
    Context,
    Limits,
)
from ledger.api.declared import Declared
from ledger.api.inputs import answer, too_many
from ledger.api.metrics import Metrics
from ledger.api.problems import CONTENT_TYPE, Problem, from_exception
from ledger.api.proofs import Proofs
from ledger.api.reads import Reads
from ledger.api.routes import Route, table
from ledger.config import Config

if TYPE_CHECKING:
    from ledger.api.keys import KeyRing
    from ledger.engine import Engine
    from ledger.proof.publisher import Publisher

_LOG: Final = logging.getLogger("sanyuan.api")
_PROCESS: Final = os.urandom(6).hex()
"""Asking the system for random bytes for each request would hand the interpreter to another thread
each time."""
_NUMBERS: Final = itertools.count(1)
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


async def _openapi(request: web.Request) -> web.StreamResponse:
    return answer(DOCUMENT)


ROUTES: Final = table(_openapi)
"""All routes of the server."""
DOCUMENT: Final = msgspec.json.encode(openapi.document(ROUTES))
"""The OpenAPI document as it is served."""
_BY_NAME: Final = {route.name: route for route in ROUTES}
_PARAMETERS: Final = {
    route.name: frozenset(p.name for p in route.parameters if p.place == "query")
    for route in ROUTES
}


def build_app(
    engine: Engine,
    config: Config,
    *,
    keys: KeyRing | None = None,
    limits: Limits | None = None,
    open_metrics: bool = True,
    publisher: Publisher | None = None,
) -> web.Application:
    """Return the application that serves an engine, started or about to be.

    ``keys`` None lets everyone in; ``open_metrics``: whether /metrics needs no scope then or now.
    """
    app = web.Application(middlewares=[_around], client_max_size=config.body_bytes)
    declared = Declared(engine)
    reads = Reads(engine, declared)
    app[CONTEXT] = Context(
        engine=engine,
        config=config,
        keys=keys,
        reads=reads,
        proofs=Proofs(engine, reads, publisher),
        declared=declared,
        limits=limits or Limits(),
        metrics=Metrics(),
        open_metrics=open_metrics,
        publisher=publisher,
        pool=ThreadPoolExecutor(READ_THREADS, "ledger-read"),
        large_proof_pool=ThreadPoolExecutor(LARGE_PROOF_THREADS, "ledger-proof"),
    )
    for route in ROUTES:
        path = route.path.replace("{path}", "{path:.+}")  # any number of its elements
        app.router.add_route(route.method, path, route.handler, name=route.name)
    app.on_shutdown.append(_on_shutdown)
    app.on_cleanup.append(_on_cleanup)
    return app


async def _on_shutdown(app: web.Application) -> None:
    app[CONTEXT].stopping.set()


async def _on_cleanup(app: web.Application) -> None:
    for pool in (app[CONTEXT].pool, app[CONTEXT].large_proof_pool):
        pool.shutdown(wait=False, cancel_futures=True)


@web.middleware
async def _around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Request id, who asks, unknown parameters, errors to problems, metrics."""
    started = time.perf_counter()
    context = request.app[CONTEXT]
    given = request.headers.get("X-Request-Id")
    request_id = given if given and _GIVEN_ID.fullmatch(given) else f"{_PROCESS}-{next(_NUMBERS):x}"
    request[REQUEST_ID] = request_id
    route = _BY_NAME.get(request.match_info.route.name or "")
    context.metrics.in_flight += 1
    try:
        if context.metrics.in_flight > context.limits.requests:
            raise too_many("requests")
        if route is not None:
            _check(request, context, route)
        response = await handler(request)
    except Exception as error:
        response = _failed(request, request_id, error, write=route is not None and route.position)
    finally:
        context.metrics.in_flight -= 1
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        response.headers["Server"] = "sanyuan"  # and not which versions of what
    context.metrics.count(
        route.path if route is not None else "unknown",
        request.method if route is not None else "any",
        response.status,
        time.perf_counter() - started,
    )
    return response


def _check(request: web.Request, context: Context, route: Route) -> None:
    """Raise the problem when the caller may not use the route, or names a parameter that it does
    not have."""
    open_to_all = not route.scopes or (route.name == "metrics" and context.open_metrics)
    if context.keys is not None and not open_to_all:
        _check_key(request, context.keys, route)
    if request.query_string:
        names = _PARAMETERS[route.name]
        query = request.query
        for name in query:
            if name not in names:
                raise Problem("unknown_parameter", f"no parameter is named {name[:64]!r}")
        if len(query) != len(set(query)):
            raise Problem("invalid_parameter", "a parameter appears twice")


def _check_key(request: web.Request, keys: KeyRing, route: Route) -> None:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    headers = {"WWW-Authenticate": 'Bearer realm="sanyuan"'}
    if scheme.lower() != "bearer" or not text:
        raise Problem("key_missing", "send Authorization: Bearer and an API key", headers=headers)
    key = keys.find(text.strip())
    if key is None:
        raise Problem("key_unknown", "the API key is not one of this server's", headers=headers)
    if not key.allows(route.scopes):
        needed = " or ".join(sorted({*route.scopes, "admin"}))
        raise Problem("scope_missing", f"the API key {key.id} lacks the scope {needed}")


def _failed(
    request: web.Request, request_id: str, error: Exception, *, write: bool
) -> web.StreamResponse:
    """The problem document that an exception means; what nobody foresaw goes to the log, not
    out."""
    if isinstance(error, web.HTTPNotFound):
        problem: Problem | None = Problem("route_not_found", f"nothing is at {request.path[:200]}")
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        problem = Problem("method_not_allowed", f"use {allow}", headers={"Allow": allow})
    else:
        problem = from_exception(error, write=write)
    if problem is None or problem.kind.status == 500:
        _LOG.error("request %s failed", request_id, exc_info=error)
        problem = problem or Problem("internal_error", "something went wrong inside of the server")
    response = web.Response(
        status=problem.kind.status,
        body=msgspec.json.encode(problem.document(request_id)),
        headers={"Content-Type": CONTENT_TYPE, **problem.headers},
    )
    if "Connection" in problem.headers:
        response.force_close()
    return response


def stop_following(app: web.Application) -> None:
    """Let everyone who follows the feed go, and say stopping in /readyz; for the event loop's
    thread."""
    app[CONTEXT].stopping.set()
