"""Handlers that change the ledger: events in, results out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import numpy as np
from aiohttp import web

from ledger import layout
from ledger._codec import CONTENT_TYPES, decode_binary, decode_events, encode_results
from ledger.api.context import CONTEXT
from ledger.api.inputs import (
    JSON,
    accepts_results,
    boolean,
    content_kind,
    position_text,
    preferences,
    read_body,
)
from ledger.api.problems import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

THREAD_BYTES: Final = 1 << 17
"""Bodies from this size on are decoded on another thread, so that others need not wait."""
_TABLES: Final = {"accounts": "ACCOUNT", "transfers": "TRANSFER"}


def writer(kind: str, *, binary: bool = False) -> Handler:
    """Return the handler that posts events of a kind; ``binary``: also takes the binary form."""
    binary_kind = kind if binary else None

    async def write(request: web.Request) -> web.StreamResponse:
        context = request.app[CONTEXT]
        dry_run, explain = boolean(request, "dry_run"), boolean(request, "explain")
        in_binary = content_kind(request, binary=binary_kind)
        body = await read_body(request)
        metadata: dict[int, bytes] | None = None
        if in_binary:
            events = decode_binary(kind, body)
        elif len(body) < THREAD_BYTES:
            events, metadata, _ = decode_events(kind, body)
        else:
            events, metadata, _ = await context.in_thread(lambda: decode_events(kind, body))
        if kind == "definitions":
            context.declared.forget()
        reply = await context.engine.submit_async(
            kind, events, metadata=metadata, dry_run=dry_run, explain=explain
        )
        if kind == "definitions":
            context.declared.forget()
        headers = {} if reply.position < 0 else {"Ledger-Position": position_text(reply.position)}
        explanations = _explanations(reply.explanations)
        wishes = preferences(request) if "Prefer" in request.headers else {}
        if wishes.get("handling") == "strict" and len(events) == 1:
            _check_accepted(kind, reply.results, explanations, headers)
            headers["Preference-Applied"] = "handling=strict"
        if accepts_results(request):
            return web.Response(
                body=reply.results.tobytes(),
                headers={"Content-Type": CONTENT_TYPES["results"], **headers},
            )
        minimal = wishes.get("return") == "minimal"
        if minimal:
            applied = headers.get("Preference-Applied")
            headers["Preference-Applied"] = (
                f"{applied}, return=minimal" if applied else "return=minimal"
            )
        text = encode_results(kind, reply.results, only_refused=minimal, explanations=explanations)
        return web.Response(body=text, headers={"Content-Type": JSON, **headers})

    return write


def _explanations(given: list[dict[str, Any]] | None) -> dict[int, bytes] | None:
    return (
        {row["index"]: msgspec.json.encode(_explanation(row)) for row in given} if given else None
    )


def _explanation(row: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"rule": row["rule"]}
    for name in ("account_id", "needed", "available"):
        if name in row:
            shown[name] = str(row[name])
    if "balances" in row:
        shown["balances"] = {name: str(value) for name, value in row["balances"].items()}
    return shown


def _check_accepted(
    kind: str,
    results: np.ndarray,
    explanations: dict[int, bytes] | None,
    headers: dict[str, str],
) -> None:
    """Raise event_refused unless the only event was created, or exists as it is."""
    table = _TABLES.get(kind, "ADMINISTRATIVE")
    number = int(results["status"][0])
    if number in (layout.CREATED, layout.STATUS_NUMBERS[table]["exists"]):
        return
    rule = next(status for status in layout.STATUSES[table] if status.number == number)
    members: dict[str, Any] = {
        "event_status": rule.name,
        "event_code": number,
        "event_timestamp": str(results["timestamp"][0]),
    }
    if explanations and 0 in explanations:
        members["explanation"] = msgspec.Raw(explanations[0])
    raise Problem("event_refused", rule.doc, members, headers)
