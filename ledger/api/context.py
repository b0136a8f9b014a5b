"""What handlers share: one Context for an application, under a typed key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import web

from ledger.api.declared import Declared
from ledger.api.metrics import Metrics
from ledger.config import Config

if TYPE_CHECKING:
    from ledger.api.keys import KeyRing
    from ledger.api.proofs import Proofs
    from ledger.api.reads import Reads
    from ledger.engine import Engine
    from ledger.proof.publisher import Publisher

T = TypeVar("T")

READ_THREADS: Final = 8
"""Reads of the journal at the same time; each may wait for the disk."""
LARGE_PROOF_THREADS: Final = 2
"""Large proofs made at the same time: each takes seconds and much memory."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be under way at the same time; beyond it the answer is 429."""

    requests: int = 4096
    body_bytes: int = 512 << 20
    followers: int = 256
    large_proofs: int = 16
    """Statements of many entries, samples and exports, those that wait for their turn too."""


@dataclass(slots=True)
class Context:
    """The engine behind an application, who may use it, and what it counts."""

    engine: Engine
    config: Config
    keys: KeyRing | None
    reads: Reads
    proofs: Proofs
    declared: Declared
    limits: Limits
    metrics: Metrics
    open_metrics: bool
    """Whether /metrics needs no scope: only when bound to loopback."""
    publisher: Publisher | None
    """Keeps the outer log; None where no signing key was ever made."""
    pool: ThreadPoolExecutor
    large_proof_pool: ThreadPoolExecutor
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def in_thread(self, function: Callable[[], T]) -> T:
        """Run a function that may wait for the disk or the engine on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)


CONTEXT: Final = web.AppKey("context", Context)
REQUEST_ID: Final = web.RequestKey("request_id", str)
