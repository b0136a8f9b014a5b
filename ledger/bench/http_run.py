"""The HTTP benchmark: a real server process, and connections that post to it from this one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np
import uvloop

from ledger import layout
from ledger._writer import encode_events
from ledger.bench import measure
from ledger.bench.engine_run import Progress, RunFailed, Workload, require_created
from ledger.bench.generate import Generator
from ledger.cli.process import ServerProcess
from ledger.config import Config
from ledger.errors import LedgerError
from ledger.storage.directory import create
from ledger.storage.lmdb_store import LmdbStore

ENCODINGS: Final = ("binary", "json")
STOP_TIMEOUT_S: Final = 120.0
_TYPES: Final = {
    "accounts": "application/vnd.sanyuan.accounts",
    "transfers": "application/vnd.sanyuan.transfers",
}
_SYNCS: Final = "sanyuan_engine_device_syncs_total"
_RESULTS: Final = "application/vnd.sanyuan.results"


class _Poster:
    """One kind of record, posted in one encoding and checked."""

    def __init__(self, session: aiohttp.ClientSession, url: str, kind: str, encoding: str) -> None:
        self._session = session
        self._url = f"{url}/v1/{kind}"
        self._kind = kind
        self._binary = encoding == "binary"
        self._headers = {
            "Content-Type": _TYPES[kind] if self._binary else "application/json",
            "Accept": _RESULTS,
        }
        self.latencies: list[int] = []

    def body(self, events: np.ndarray) -> bytes:
        """Return the request body of an array of records."""
        return events.tobytes() if self._binary else encode_events(self._kind, events)

    async def post(self, body: bytes, count: int) -> None:
        """Post a body; raise RunFailed unless each of its ``count`` events is created."""
        started = time.perf_counter_ns()
        async with self._session.post(self._url, data=body, headers=self._headers) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise RunFailed(f"{self._kind}: HTTP {answer.status}: {content[:300]!r}")
        self.latencies.append(time.perf_counter_ns() - started)
        results = np.frombuffer(content, layout.RESULT)
        if len(results) != count:
            raise RunFailed(f"{len(results)} results for {count} {self._kind}")
        require_created(self._kind, results)


async def _post_accounts(
    poster: _Poster, generator: Generator, count: int, progress: Progress
) -> None:
    done = 0
    buffer = np.zeros(layout.REQUEST_EVENTS_MAX, layout.ACCOUNT)
    while done < count:
        events = buffer[: min(len(buffer), count - done)]
        generator.accounts(events, done)
        await poster.post(poster.body(events), len(events))
        done += len(events)
        progress("accounts", done, count)


async def _post_transfers(
    poster: _Poster, generator: Generator, workload: Workload, connections: int, progress: Progress
) -> None:
    """Post on so many connections at once: each draws its next request when the last is
    answered."""
    posted = answered = 0

    async def connection() -> None:
        nonlocal posted, answered
        buffer = np.zeros(workload.batch, layout.TRANSFER)
        while posted < workload.transfers:
            events = buffer[: min(workload.batch, workload.transfers - posted)]
            posted += len(events)
            generator.transfers(events)
            await poster.post(poster.body(events), len(events))
            answered += len(events)
            progress("transfers", answered, workload.transfers)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(connection())


async def _metric(session: aiohttp.ClientSession, url: str, name: str) -> float:
    """Return the value of one of the server's metrics."""
    async with session.get(url + "/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
    raise LedgerError(f"the server tells no {name}")


async def _open_accounts(
    server: ServerProcess, generator: Generator, count: int, progress: Progress
) -> int:
    """Post the accounts; return how much more memory the server has then."""
    async with aiohttp.ClientSession() as session:
        before = measure.anonymous_memory(server.process.pid)
        poster = _Poster(session, server.url, "accounts", "binary")
        await _post_accounts(poster, generator, count, progress)
        return measure.anonymous_memory(server.process.pid) - before


@dataclass(frozen=True, slots=True)
class _Posted:
    seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float
    device_syncs: int
    latencies: measure.Latencies


async def _timed_transfers(
    server: ServerProcess,
    generator: Generator,
    workload: Workload,
    encoding: str,
    connections: int,
    progress: Progress,
) -> _Posted:
    limit = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=limit) as session:
        syncs_before = await _metric(session, server.url, _SYNCS)
        own_before, served_before = (
            measure.cpu_seconds(),
            measure.process_cpu_seconds(server.process.pid),
        )
        poster = _Poster(session, server.url, "transfers", encoding)
        started = time.perf_counter()
        await _post_transfers(poster, generator, workload, connections, progress)
        seconds = time.perf_counter() - started
        own = measure.cpu_seconds() - own_before
        served = measure.process_cpu_seconds(server.process.pid) - served_before
        syncs = await _metric(session, server.url, _SYNCS) - syncs_before
    latencies = measure.Latencies(np.array(poster.latencies))
    return _Posted(seconds, own, served, int(syncs), latencies)


def _used_bytes(directory: Path) -> int:
    """Return the disk that a stopped ledger uses."""
    store = LmdbStore(directory, Config())
    try:
        # Zeros found behind the last page when the journal is opened are what was written ahead.
        return measure.used_bytes(directory, store.open_journal().written_ahead_bytes)
    finally:
        store.close()


def _stop(server: ServerProcess) -> float:
    """Stop a server as an operator would; return the seconds until it had drained and ended."""
    started = time.perf_counter()
    code = server.stop(STOP_TIMEOUT_S)
    if code != 0:
        raise LedgerError(f"the server ended with exit code {code}: {server.output}")
    return time.perf_counter() - started


def run(
    workload: Workload, directory: Path, *, encoding: str, connections: int, progress: Progress
) -> dict[str, Any]:
    """Run a workload against a server process on a fresh data directory; return its figures.

    One server opens the accounts, a second one takes the transfers: between the two, disk use is
    that of the same ledger without transfers. The clock stops when the second has drained and
    ended. Raises RunFailed and LedgerError.
    """
    measure.real_disk(directory.parent)
    generator = workload.generator()
    create(directory)
    with ServerProcess(directory) as server:
        account_memory = uvloop.run(_open_accounts(server, generator, workload.accounts, progress))
        _stop(server)
    used_before = _used_bytes(directory)
    with ServerProcess(directory) as server:
        posted = uvloop.run(
            _timed_transfers(server, generator, workload, encoding, connections, progress)
        )
        drain_seconds = _stop(server)
    used = _used_bytes(directory) - used_before
    seconds = posted.seconds + drain_seconds
    return {
        "scenario": "http",
        "encoding": encoding,
        "connections": connections,
        "accounts": workload.accounts,
        "transfers": workload.transfers,
        "distribution": workload.distribution,
        "id_order": workload.id_order,
        "batch": workload.batch,
        "payload": workload.payload,
        "seconds": round(seconds, 4),
        "transfers_per_second": round(workload.transfers / seconds),
        "answered_seconds": round(posted.seconds, 4),
        "requests_per_second": round(len(posted.latencies.nanoseconds) / posted.seconds),
        "drain_seconds": round(drain_seconds, 4),
        "latency_ms": posted.latencies.milliseconds(),
        "cpu_us_per_transfer": round(
            (posted.client_cpu_seconds + posted.server_cpu_seconds) * 1e6 / workload.transfers, 3
        ),
        "server_cpu_us_per_transfer": round(
            posted.server_cpu_seconds * 1e6 / workload.transfers, 3
        ),
        "disk_bytes_per_transfer": round(used / workload.transfers, 1),
        "memory_bytes_per_account": round(account_memory / workload.accounts, 1),
        "device_syncs": posted.device_syncs,
        "fsync": True,
        "commitments": True,
        "machine": measure.machine(directory),
    }
