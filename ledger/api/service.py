"""Handlers about the server itself: alive, ready, metrics, the OpenAPI document."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from ledger.api import metrics
from ledger.api.context import CONTEXT
from ledger.api.inputs import JSON, answer


async def live(request: web.Request) -> web.StreamResponse:
    """GET /livez"""
    return answer(b'{"live":true}')


async def ready(request: web.Request) -> web.StreamResponse:
    """GET /readyz"""
    context = request.app[CONTEXT]
    reasons: list[dict[str, Any]] = context.engine.reasons_not_ready()
    if context.stopping.is_set():
        reasons = [{"code": "stopping", "detail": "the server is stopping"}]
    warnings = context.engine.warned()
    body = msgspec.json.encode({"ready": not reasons, "reasons": reasons, "warnings": warnings})
    if not reasons:
        return answer(body)
    headers = {"Content-Type": JSON, "Retry-After": "1"}
    return web.Response(status=503, body=body, headers=headers)


async def prometheus(request: web.Request) -> web.StreamResponse:
    """GET /metrics"""
    context = request.app[CONTEXT]
    engine = context.engine
    more = [] if context.publisher is None else context.publisher.metrics()
    codes = [(f'code="{warning["code"]}"', 1) for warning in engine.warned()]
    warnings = ("sanyuan_warning", "gauge", "1 for each warning of /readyz.", codes)
    text = context.metrics.text(engine.counters(), engine.reasons_not_ready(), [*more, warnings])
    return answer(text, content_type=metrics.CONTENT_TYPE)
