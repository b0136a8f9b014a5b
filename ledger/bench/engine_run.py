"""The engine benchmark: the engine object that ``serve`` uses, over LMDB, in this process."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger.bench import measure
from ledger.bench.generate import Generator
from ledger.config import Config
from ledger.engine import Engine
from ledger.errors import LedgerError
from ledger.proof import signing
from ledger.proof.publisher import Publisher
from ledger.replies import Reply
from ledger.storage.directory import create
from ledger.storage.lmdb_store import LmdbStore

COVERED_WITHIN_S: Final = 60.0
IN_FLIGHT: Final = 8
"""Requests in flight, at most."""

Progress = Callable[[str, int, int], None]


class RunFailed(LedgerError):
    """An event of a benchmark was not created, so the figure would mean nothing."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run posts."""

    accounts: int
    transfers: int
    distribution: str = "uniform"
    id_order: str = "sequential"
    batch: int = layout.REQUEST_EVENTS_MAX
    payload: str = "full"
    seed: int = 1

    def generator(self) -> Generator:
        """Return the generator of this workload, compiled."""
        return Generator(
            accounts=self.accounts,
            distribution=self.distribution,
            id_order=self.id_order,
            payload=self.payload,
            seed=self.seed,
        )


def require_created(kind: str, results: np.ndarray) -> None:
    """Raise RunFailed unless every event of a request was created."""
    refused = np.flatnonzero(results["status"] != layout.CREATED)
    if len(refused):
        number = int(results["status"][refused[0]])
        name = layout.STATUS_NAMES["TRANSFER" if kind == "transfers" else "ACCOUNT"].get(number)
        raise RunFailed(f"{len(refused)} {kind} of a request were refused, the first: {name}")


class _Publishing:
    """The outer log of a run, signed with a key of its own; when its checkpoints were published."""

    def __init__(self, directory: Path, engine: Engine) -> None:
        key = directory / signing.DEFAULT_NAME
        signing.create_key(key, name="bench.example/ledger", passphrase=None)
        self.publisher = Publisher(
            directory / "log",
            instance=engine.store.instance,
            journal=engine.reader,
            key=key,
        )
        engine.on_sealed.append(self.publisher.sealed)
        self.published: list[tuple[int, int]] = []
        """The last block under each checkpoint, and when it was published."""
        self.publisher.on_published.append(
            lambda checkpoint, last: self.published.append((last, time.perf_counter_ns()))
        )

    def lags(self, acknowledged: list[tuple[int, int]]) -> np.ndarray:
        """Return how long after its answer each request was under a published checkpoint, ns;
        raises RunFailed when one never was.
        """
        last = max(block for block, _ in acknowledged)
        if not self.publisher.wait_published(last, COVERED_WITHIN_S):
            raise RunFailed(f"the log was not published: {self.publisher.warnings()}")
        blocks, times = np.array(self.published).T
        asked = np.array(acknowledged)
        lags: np.ndarray = times[np.searchsorted(blocks, asked[:, 0])] - asked[:, 1]
        return lags


class Posting:
    """Posts requests with at most eight in flight; buffers are used again after their replies."""

    def __init__(self, engine: Engine, kind: str, dtype: np.dtype, batch: int) -> None:
        self._engine = engine
        self._kind = kind
        self._free = threading.Semaphore(IN_FLIGHT)
        self._buffers = deque(np.zeros(batch, dtype) for _ in range(IN_FLIGHT + 1))
        self._error: BaseException | None = None
        self.latencies: list[int] = []
        self.acknowledged: list[tuple[int, int]] = []
        """For each request the block of its last event, and when it was answered."""

    def buffer(self) -> np.ndarray:
        """Return a buffer to fill: one that no request in flight uses."""
        return self._buffers.popleft()

    def post(self, buffer: np.ndarray, size: int) -> None:
        """Submit the first ``size`` events of a buffer, as soon as less than eight are in
        flight."""
        self._free.acquire()
        if self._error is not None:
            raise self._error
        started = time.perf_counter_ns()
        future = self._engine.submit(self._kind, buffer[:size])

        def answered(future: Any) -> None:
            now = time.perf_counter_ns()
            self.latencies.append(now - started)
            try:
                reply: Reply = future.result()
                self.acknowledged.append((reply.position >> layout.INDEX_BITS, now))
                require_created(self._kind, reply.results)
            except BaseException as error:
                self._error = error
            self._buffers.append(buffer)
            self._free.release()

        future.add_done_callback(answered)

    def finish(self) -> None:
        """Wait for all replies; raise what went wrong."""
        for _ in range(IN_FLIGHT):
            self._free.acquire()
        if self._error is not None:
            raise self._error
        for _ in range(IN_FLIGHT):
            self._free.release()


def run(workload: Workload, directory: Path, config: Config, progress: Progress) -> dict[str, Any]:
    """Run a workload in a fresh data directory and return its figures; raises RunFailed.

    ``directory`` must not exist yet and must be on a real disk. The clock stops when snapshot debt
    and id merges are drained.
    """
    measure.real_disk(directory.parent)
    generator = workload.generator()
    create(directory)
    store = LmdbStore(directory, config)
    engine = Engine(store, config)
    publishing = _Publishing(directory, engine)
    try:
        engine.start()
        publishing.publisher.start()
        return _measured(workload, generator, directory, store, engine, publishing, progress)
    finally:
        engine.stop()
        publishing.publisher.stop()
        store.close()


def post_all(
    posting: Posting,
    count: int,
    batch: int,
    fill: Callable[[np.ndarray, int], None],
    progress: Callable[[int], None],
) -> None:
    done = 0
    while done < count:
        buffer = posting.buffer()
        size = min(batch, count - done)
        fill(buffer[:size], done)
        posting.post(buffer, size)
        done += size
        progress(done)
    posting.finish()


def _measured(
    workload: Workload,
    generator: Generator,
    directory: Path,
    store: LmdbStore,
    engine: Engine,
    publishing: _Publishing,
    progress: Progress,
) -> dict[str, Any]:
    empty_memory = measure.anonymous_memory()
    accounts = Posting(engine, "accounts", layout.ACCOUNT, layout.REQUEST_EVENTS_MAX)
    post_all(
        accounts,
        workload.accounts,
        layout.REQUEST_EVENTS_MAX,
        generator.accounts,
        lambda done: progress("accounts", done, workload.accounts),
    )
    del accounts
    engine.drain()
    account_memory = measure.anonymous_memory() - empty_memory

    before = engine.counters()
    used_before = measure.used_bytes(directory, store.written_ahead_bytes)
    written_before = measure.written_bytes()
    transfers = Posting(engine, "transfers", layout.TRANSFER, workload.batch)
    log_cpu_started, checkpoints = publishing.publisher.cpu_s, len(publishing.published)
    cpu_started = measure.cpu_seconds()
    started = time.perf_counter()
    post_all(
        transfers,
        workload.transfers,
        workload.batch,
        lambda events, done: generator.transfers(events),
        lambda done: progress("transfers", done, workload.transfers),
    )
    answered = time.perf_counter()
    engine.drain()
    ended = time.perf_counter()
    cpu = measure.cpu_seconds() - cpu_started
    after = engine.counters()
    seconds = ended - started
    stages = {
        f"{stage}_ns_per_transfer": round(
            (after["stage_ns"][stage] - before["stage_ns"][stage]) / workload.transfers, 1
        )
        for stage in after["stage_ns"]
    }
    log_cpu = publishing.publisher.cpu_s - log_cpu_started
    checkpoints = len(publishing.published) - checkpoints
    used = measure.used_bytes(directory, store.written_ahead_bytes) - used_before
    return {
        "scenario": "engine",
        "accounts": workload.accounts,
        "transfers": workload.transfers,
        "distribution": workload.distribution,
        "id_order": workload.id_order,
        "batch": workload.batch,
        "payload": workload.payload,
        "requests_in_flight": IN_FLIGHT,
        "seconds": round(seconds, 4),
        "transfers_per_second": round(workload.transfers / seconds),
        "answered_seconds": round(answered - started, 4),
        "drain_seconds": round(ended - answered, 4),
        "latency_ms": measure.Latencies(np.array(transfers.latencies)).milliseconds(),
        "checkpoint_lag_ms": measure.Latencies(
            publishing.lags(transfers.acknowledged)
        ).milliseconds(),
        "checkpoints": checkpoints,
        "log_cpu_ms_per_second": round(log_cpu * 1e3 / seconds, 2),
        "cpu_us_per_transfer": round(cpu * 1e6 / workload.transfers, 3),
        "disk_bytes_per_transfer": round(used / workload.transfers, 1),
        "journal_bytes_per_transfer": round(
            (after["block_bytes"] - before["block_bytes"]) / workload.transfers, 1
        ),
        "written_bytes_per_transfer": round(
            (measure.written_bytes() - written_before) / workload.transfers, 1
        ),
        "memory_bytes_per_account": round(account_memory / workload.accounts, 1),
        "blocks": after["blocks"] - before["blocks"],
        "device_syncs": after["device_syncs"] - before["device_syncs"],
        "fsync": True,
        "commitments": True,
        "stages": stages,
        "machine": measure.machine(directory),
    }
