"""Requests on their way through the engine, and their answers on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from ledger.state import RequestKind


class Reply(NamedTuple):
    """The answer to a request, durable and visible."""

    results: np.ndarray
    """One RESULT for each event, in order."""
    position: int
    """Position of the request's last entry; without entries, the position of the state that
    answered; -1 if empty."""
    timestamp: int
    """Time of the request's last event, ns."""
    explanations: list[dict[str, object]] | None


class Request:
    """A request or a read on its way, and whom to answer."""

    __slots__ = (
        "count", "dry_run", "error", "events", "explain", "future", "kind", "loop", "metadata",
        "reply", "size_bytes", "submitted_ns",
    )  # fmt: skip

    def __init__(self, kind: RequestKind | None, loop: asyncio.AbstractEventLoop | None) -> None:
        self.kind = kind
        self.loop = loop
        self.future: Any
        if loop is None:
            self.future = Future()
            self.future.set_running_or_notify_cancel()
        else:
            self.future = loop.create_future()
        self.events: Any = None
        self.count = 0
        self.size_bytes = 0
        self.metadata: Mapping[int, bytes] | None = None
        self.dry_run = False
        self.explain = False
        self.submitted_ns = 0
        self.reply: Any = None
        self.error: BaseException | None = None


def _settle(requests: list[Request]) -> None:
    for request in requests:
        future = request.future
        if future.done():
            continue
        if request.error is not None:
            future.set_exception(request.error)
        else:
            future.set_result(request.reply)


def deliver(requests: list[Request]) -> None:
    """Answer requests: one call into each event loop, however many requests it waits for."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Request]] = {}
    direct: list[Request] = []
    for request in requests:
        if request.loop is None:
            direct.append(request)
        else:
            by_loop.setdefault(request.loop, []).append(request)
    _settle(direct)
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, batch)
        except RuntimeError:  # the loop is closed: nobody is waiting any more
            continue
