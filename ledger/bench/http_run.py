"""The HTTP benchmark: a real server process, and connections that post to it from this one."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from ledger import layout
from ledger.bench import measure
from ledger.bench.engine_run import Progress, RunFailed, Workload, require_created
from ledger.bench.generate import Generator
from ledger.cli.process import ServerProcess
from ledger.errors import LedgerError
from ledger.storage.directory import create

ENCODINGS: Final = ("binary", "json")
STOP_TIMEOUT_S: Final = 120.0
_TYPES: Final = {
    "accounts": "application/vnd.sanyuan.accounts",
    "transfers": "application/vnd.sanyuan.transfers",
}
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
        return events.tobytes() if self._binary else _json_body(self._kind, events)

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


def _json_body(kind: str, events: np.ndarray) -> bytes:
    """Return a JSON array: the generator's own small writer, so that the server's is not measured
    here."""

    def texts(name: str) -> list[int]:
        column = events[name]
        if column.dtype == layout.U128:
            low, high = column["lo"].tolist(), column["hi"].tolist()
            return [a | b << 64 for a, b in zip(low, high, strict=True)]
        values: list[int] = column.tolist()
        return values

    if kind == "accounts":
        rows = (
            f'{{"id":"{i}","ledger":{ledger},"code":{code}}}'
            for i, ledger, code in zip(texts("id"), texts("ledger"), texts("code"), strict=True)
        )
    else:
        rows = (
            f'{{"id":"{i}","debit_account_id":"{debit}","credit_account_id":"{credit}",'
            f'"amount":"{amount}","user_data_128":"{u128}","user_data_64":"{u64}",'
            f'"user_data_32":{u32},"ledger":{ledger},"code":{code}}}'
            for i, debit, credit, amount, u128, u64, u32, ledger, code in zip(
                texts("id"),
                texts("debit_account_id"),
                texts("credit_account_id"),
                texts("amount"),
                texts("user_data_128"),
                texts("user_data_64"),
                texts("user_data_32"),
                texts("ledger"),
                texts("code"),
                strict=True,
            )
        )
    return ("[" + ",".join(rows) + "]").encode()


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


async def _metric(session: aiohttp.ClientSession, url: str, name: str) -> float | None:
    """Return the value of one of the server's metrics, None when it has none of that name."""
    async with session.get(url + "/metrics") as answer:
        for line in (await answer.text()).splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
    return None


async def _measured(
    workload: Workload, server: ServerProcess, directory: Path, encoding: str, connections: int,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    generator = workload.generator()
    limit = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=limit) as session:
        empty_memory = measure.anonymous_memory(server.process.pid)
        await _post_accounts(
            _Poster(session, server.url, "accounts", "binary"),
            generator,
            workload.accounts,
            progress,
        )
        account_memory = measure.anonymous_memory(server.process.pid) - empty_memory
        syncs_before = await _metric(session, server.url, "sanyuan_engine_device_syncs_total")
        used_before = measure.allocated_bytes(directory)
        cpu_before = measure.cpu_seconds() + _process_cpu(server.process.pid)
        poster = _Poster(session, server.url, "transfers", encoding)
        started = time.perf_counter()
        await _post_transfers(poster, generator, workload, connections, progress)
        answered = time.perf_counter()
        cpu = measure.cpu_seconds() + _process_cpu(server.process.pid) - cpu_before
        syncs_after = await _metric(session, server.url, "sanyuan_engine_device_syncs_total")
    stopping = time.perf_counter()
    code = server.stop(STOP_TIMEOUT_S)
    if code != 0:
        raise LedgerError(f"the server ended with exit code {code}: {server.output}")
    drained = time.perf_counter() - stopping
    seconds = answered - started + drained
    syncs = None if None in (syncs_before, syncs_after) else int(syncs_after - syncs_before)  # type: ignore[operator]
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
        "answered_seconds": round(answered - started, 4),
        "requests_per_second": round(len(poster.latencies) / (answered - started)),
        "drain_seconds": round(drained, 4),
        "latency_ms": measure.Latencies(np.array(poster.latencies)).milliseconds(),
        "cpu_us_per_transfer": round(cpu * 1e6 / workload.transfers, 3),
        "disk_bytes_per_transfer": round(
            (measure.allocated_bytes(directory) - used_before) / workload.transfers, 1
        ),
        "memory_bytes_per_account": round(account_memory / workload.accounts, 1),
        "device_syncs": syncs,
        "fsync": True,
        "commitments": True,
        "machine": measure.machine(directory),
    }


def _process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(
    workload: Workload, directory: Path, *, encoding: str, connections: int, progress: Progress
) -> dict[str, Any]:
    """Run a workload against a server process on a fresh data directory; return its figures.

    The clock stops when the server has drained and ended. Raises RunFailed and LedgerError.
    """
    measure.real_disk(directory.parent)
    try:
        import uvloop

        runner: Any = uvloop.run
    except ImportError:
        runner = asyncio.run
    create(directory)
    with ServerProcess(directory) as server:
        figures: dict[str, Any] = runner(
            _measured(workload, server, directory, encoding, connections, progress)
        )
    return figures
