"""The change feed: NDJSON by position, that resumes where the client stopped and never skips."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from aiohttp import web

from ledger.api.context import CONTEXT, REQUEST_ID, Context
from ledger.api.inputs import boolean, position, reach_position, seconds, too_many, whole
from ledger.api.problems import Problem
from ledger.api.reads import FEED_ENTRIES

CONTENT_TYPE: Final = "application/x-ndjson"
HEARTBEAT_S: Final = 10.0
"""While nothing happens, a follower gets an empty line so often."""
WAIT_MOST_S: Final = 60
_LOG: Final = logging.getLogger("sanyuan.api")


async def events(request: web.Request) -> web.StreamResponse:
    """GET /v1/events"""
    context = request.app[CONTEXT]
    after = position(request, "after")
    most = whole(request, "limit", bits=32)
    wait_s = seconds(request, "wait", most=WAIT_MOST_S)
    follow = boolean(request, "follow")
    if most == 0:
        raise Problem("invalid_filter", "limit must not be 0")
    if after is not None:
        await reach_position(context, after, "after")
    if context.metrics.followers >= context.limits.followers and (follow or wait_s):
        raise too_many("followers of the feed")
    context.metrics.followers += 1
    try:
        return await _stream(request, context, after, most, wait_s, follow)
    finally:
        context.metrics.followers -= 1


async def _stream(
    request: web.Request,
    context: Context,
    after: int | None,
    most: int | None,
    wait_s: int,
    follow: bool,
) -> web.StreamResponse:
    engine, reads = context.engine, context.reads
    end = engine.durable_position
    # The first step comes before the headers, so that what fails is a problem document.
    lines, count, reached = await context.in_thread(lambda: reads.events(after, _step(most, 0)))
    response = web.StreamResponse(
        headers={"Content-Type": CONTENT_TYPE, "X-Request-Id": request[REQUEST_ID]}
    )
    await response.prepare(request)
    sent, waited = 0, False
    try:
        while True:
            if lines:
                await response.write(lines)
                sent += count
            if reached is not None:
                after = reached
            if (most is not None and sent >= most) or context.stopping.is_set():
                break
            if reached is None or (not follow and after is not None and after >= end):
                if not follow and (sent or waited or not wait_s):
                    break
                waited = True
                if not await _news(context, after, wait_s, follow=follow):
                    if not follow or context.stopping.is_set():
                        break
                    await response.write(b"\n")
                    lines, count = b"", 0
                    continue
                end = engine.durable_position
            here = after
            step = _step(most, sent)
            lines, count, reached = await context.in_thread(lambda: reads.events(here, step))  # noqa: B023
    except ConnectionError:
        return response
    except Exception:
        # The status line is gone: only a broken connection tells the client that lines are missing.
        _LOG.exception("request %s: the feed broke", request[REQUEST_ID])
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _step(most: int | None, sent: int) -> int:
    return FEED_ENTRIES if most is None else min(FEED_ENTRIES, most - sent)


async def _news(context: Context, after: int | None, wait_s: int, *, follow: bool) -> bool:
    """Wait until something after a position is durable; False when nothing came in time, or the
    server stops."""
    durable = context.engine.wait_durable_async(0 if after is None else after + 1)
    stopping = asyncio.ensure_future(context.stopping.wait())
    try:
        done, _ = await asyncio.wait(
            (durable, stopping),
            timeout=HEARTBEAT_S if follow else wait_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        return durable in done and durable.exception() is None
    finally:
        durable.cancel()
        stopping.cancel()
