"""The shell around the core: pool, timestamps, group commit, replies. The only place with a clock.

::

    submit ──> pool ──> engine thread ─────────────────────> journal thread ──────────> replies
               bounded  due expiries, then requests in order   header, pack, append
                        of arrival: decide, hash = one block   (two device syncs)

A few blocks may be decided ahead of the disk. Nothing is answered before its block, and every block
before it, is durable: writes, reads, refusals and dry runs alike. A failed write is fatal, because
memory is ahead of the disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._history import History
from ledger._pack import encode_block
from ledger.clock import ClockGuard
from ledger.config import Config
from ledger.errors import DiskFailed, LedgerError, RequestRefused, Unavailable
from ledger.replies import Reply, Request, deliver
from ledger.sealing import SEAL, Seals, is_seal_block
from ledger.state import (
    REQUEST_KINDS,
    Chain,
    find_transfers,
    id_array,
)
from ledger.state_roots import StateRoots
from ledger.storage.roots import KeptRoots

DECIDE_AHEAD_EVENTS: Final = 1024
"""While the disk is busy, fewer waiting events than this wait for it: small blocks ahead would only
add syncs."""
JOINED_EVENTS_MAX: Final = 1024
"""Requests smaller than this are resolved together, larger ones each alone and without a copy."""
TICK_S: Final = 0.05
"""How often an idle engine looks at the clock, the disk and the snapshot."""
LATENCY_BUCKETS: Final = 36
"""Bucket i of the latency histogram counts replies that took less than 2^i microseconds (and not
less than half)."""

_LOG: Final = logging.getLogger(__name__)
STAGES: Final = ("resolve", "decide", "insert_ids", "hash", "snapshot", "pack", "append")


class _Decided(NamedTuple):
    """What the engine thread hands to the journal thread, in order."""

    block: Block | None
    """None when there is nothing to store, only replies that wait for what was decided before."""
    flags: int
    state: tuple[int, bytes] | None
    requests: list[Request]


class Engine:
    """Runs a core over a store: takes requests from any thread or event loop, answers when they are
    durable.

    ``clock_ns``, ``monotonic_ns`` and ``random_bytes`` are where time and salt come from.
    ``on_fatal(error)`` is called once, on an engine thread, after a failed write has stopped the
    engine and failed everything pending. Each of ``on_sealed`` is called with the number of every
    block that ends an interval, as soon as it is durable, on the journal thread: it must not wait.
    """

    def __init__(
        self,
        store: Any,
        config: Config | None = None,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        random_bytes: Callable[[int], bytes] = os.urandom,
        on_fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.store = store
        self.config = config or Config()
        self._monotonic_ns = monotonic_ns
        self._random_bytes = random_bytes
        self._on_fatal = on_fatal
        self.on_sealed: list[Callable[[int], None]] = []
        self.warnings: list[Callable[[], list[tuple[str, str]]]] = []
        """What watches over work beside posting; each gives codes and sentences."""

        # Set once by start(), read by all:
        self.core: Core = None
        self.history: History = None
        self._threads: list[threading.Thread] = []

        # Guarded by the lock:
        self._lock = threading.Lock()
        self._engine_wake = threading.Condition(self._lock)
        self._journal_wake = threading.Condition(self._lock)
        self._durable_wake = threading.Condition(self._lock)
        self._pool: deque[Request] = deque()
        self._pool_events = 0
        self._reads: deque[Request] = deque()
        self._journal_queue: deque[_Decided] = deque()
        self._in_flight: deque[Block] = deque()
        self._free_blocks: list[Block] = []
        self._waiters: list[tuple[int, Request]] = []
        self._engine_waits = False
        self._stage = "new"  # new, recovering, running, stopping, stopped, failed
        self._fatal: LedgerError | None = None
        self._recovery_progress = ("", 0, 0)
        self._durable_position = -1
        self._durable_block = -1
        self._durable_timestamp = 0
        self._sealed_block = -1

        # Set by anyone without the lock, taken by the engine thread:
        self._clock_confirmed = False

        # Owned by the engine thread:
        self._guard = ClockGuard(clock_ns, monotonic_ns, self.config.clock_jump_ns)
        self._seals = Seals(self.config.seal_interval_ms * 1_000_000)
        self._roots = StateRoots(
            interval_ns=self.config.state_root_interval_s * 1_000_000_000,
            monotonic_ns=monotonic_ns,
            wake=self._wake_engine,
            wait_durable=self._wait_block,
        )
        self.warnings.append(self._roots.warnings)
        self._decided_position = -1
        self._engine_hand: list[Request] = []
        self._posting_refusal: tuple[str, str] | None = None
        self._posting_checked_ns = 0
        self._engine_done = False

        # Owned by the journal thread:
        self._chain: Chain | None = None
        self._journal_hand: list[Request] = []

        # Counters, each written by one thread:
        self._requests_answered = 0
        self._requests_turned_away = 0
        self._events_decided = 0
        self._refusals = 0
        self._expiries = 0
        self._blocks = 0
        self._sealed_blocks = 0
        self._entries = 0
        self._bytes = 0
        self._latency = [0] * LATENCY_BUCKETS
        self._latency_sum_ns = 0
        self._stage_ns = dict.fromkeys(STAGES, 0)

    # ------------------------------------------------------------------------------------------
    # Life
    # ------------------------------------------------------------------------------------------

    def start(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Recover from the store and begin to serve; returns when recovery is done.

        ``progress(stage, done, total)`` is called on the way; ``reasons_not_ready`` tells it too.
        Raises DataDamaged and DiskFailed from recovery.
        """
        with self._lock:
            if self._stage != "new":
                raise LedgerError(f"an engine is started once; this one is {self._stage}")
            self._stage = "recovering"

        def note(stage: str, done: int, total: int) -> None:
            self._recovery_progress = (stage, done, total)
            if progress is not None:
                progress(stage, done, total)

        try:
            core = Core(holds_max=self.config.holds)
            recovery = self.store.recover(core, note)
        except BaseException:
            self._stage = "failed"
            raise
        self.core = core
        self.history = History(core)
        self._chain = Chain(recovery.instance, recovery.last_hash)
        self._durable_block = recovery.last_block
        if recovery.last_block >= 0:
            with self.store.reader() as reader:
                index = reader.block(recovery.last_block).entry_count - 1
                self._sealed_block = self._seals.recover(reader, self._monotonic_ns())
            self._durable_position = layout.position(recovery.last_block, index)
        self._decided_position = self._durable_position
        self._durable_timestamp = core.last_timestamp
        self._guard.start()
        now = self._look_around(core.last_timestamp)
        kept = self.store.roots
        self._roots.start(
            kept,
            named_root=recovery.named_root,
            changed_block=self._last_changed_block(kept.newest_block),
            age_ns=None if kept.newest is None else now - kept.newest.timestamp,
        )
        with self._lock:
            self._stage = "running"
        for name, run in (
            ("ledger-engine", self._engine_run),
            ("ledger-journal", self._journal_run),
        ):
            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _last_changed_block(self, newest_root: int) -> int:
        """The last block that the ledger did not make for its seal, as far as it is after a
        root."""
        with self.store.reader() as reader:
            number: int = reader.last_block
            while number > newest_root and is_seal_block(reader.block(number)):
                number -= 1
        return number

    def stop(self) -> None:
        """Take no more requests, answer those that wait, and end the threads. The store stays
        open."""
        with self._lock:
            if self._stage in ("new", "recovering"):
                self._stage = "stopped"
            if self._stage == "running":
                self._stage = "stopping"
            self._engine_wake.notify_all()
            self._journal_wake.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        self._roots.close(self._fatal)
        with self._lock:
            waiters, self._waiters = self._waiters, []
            if self._stage == "stopping":
                self._stage = "stopped"
        for _, request in waiters:
            request.error = Unavailable("stopping", "the server is stopping")
        deliver([request for _, request in waiters])

    def drain(self) -> None:
        """Return when every request submitted so far is answered and the store owes no work: the
        snapshot is current, ids are merged, space is written ahead."""

        def copy_snapshot(core: Core) -> bool:
            if self._durable_block != core.block_number or self._roots.busy:
                return False
            self.store.snapshot_all(core, self._durable_block, self._roots.named_root)
            return True

        while not self.read(copy_snapshot).result():
            # Answered when everything decided is durable, so the next attempt may find it so.
            self._roots.wait_idle()
        self.store.drain()

    # ------------------------------------------------------------------------------------------
    # Requests and reads
    # ------------------------------------------------------------------------------------------

    def submit(
        self,
        kind: str,
        events: np.ndarray,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> Future[Reply]:
        """Put a request into the pool; the future gives its Reply when that is durable.

        ``kind`` is accounts, transfers, settings, definitions or business_date; ``events`` a
        contiguous array of the kind's records, not to be changed before the reply; ``metadata``
        maps an event's index to canonical bytes. Raises Unavailable when the request is not taken,
        RequestRefused when it never can be.
        """
        future: Future[Reply] = self._submit(
            None, kind, events, metadata, dry_run=dry_run, explain=explain
        )
        return future

    def submit_async(
        self,
        kind: str,
        events: np.ndarray,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> asyncio.Future[Reply]:
        """As ``submit``, for the running event loop: all replies of a block reach a loop in one
        callback."""
        future: asyncio.Future[Reply] = self._submit(
            asyncio.get_running_loop(), kind, events, metadata, dry_run=dry_run, explain=explain
        )
        return future

    def _submit(
        self,
        loop: asyncio.AbstractEventLoop | None,
        kind_name: str,
        events: np.ndarray,
        metadata: Mapping[int, bytes] | None,
        *,
        dry_run: bool,
        explain: bool,
    ) -> Any:
        kind = REQUEST_KINDS[kind_name]
        if events.dtype != kind.dtype or events.ndim != 1 or not events.flags.c_contiguous:
            raise TypeError(f"{kind_name}: a contiguous 1-D array of {kind.dtype} is needed")
        count = len(events)
        if count > layout.REQUEST_EVENTS_MAX:
            raise RequestRefused(
                "too_many_events",
                f"{count} events in one request; at most {layout.REQUEST_EVENTS_MAX}",
            )
        request = Request(kind, loop)
        request.events = events
        request.count = count
        request.size_bytes = events.nbytes
        if metadata:
            request.metadata = metadata
            request.size_bytes += sum(map(len, metadata.values()))
        request.dry_run = dry_run
        request.explain = explain
        request.submitted_ns = self._monotonic_ns()
        with self._lock:
            self._check_open()
            if self._posting_refusal is not None:
                raise Unavailable(*self._posting_refusal)
            if len(self._pool) + len(self._reads) >= self.config.queue_requests or (
                self._pool and self._pool_events + count > self.config.queue_events
            ):
                self._requests_turned_away += 1
                raise Unavailable("queue_full", "as many requests wait as the queue holds")
            self._pool.append(request)
            self._pool_events += count
            if self._engine_waits and self._may_decide():
                self._engine_wake.notify()
        return request.future

    def read(self, function: Callable[[Core], Any]) -> Future[Any]:
        """Run ``function(core)`` between blocks on the engine thread; the future gives what it
        returned.

        The answer comes when all that it could see is durable. The function must not keep the core.
        """
        future: Future[Any] = self._read(None, function)
        return future

    def read_async(self, function: Callable[[Core], Any]) -> asyncio.Future[Any]:
        """As ``read``, for the running event loop."""
        future: asyncio.Future[Any] = self._read(asyncio.get_running_loop(), function)
        return future

    def _read(self, loop: asyncio.AbstractEventLoop | None, function: Callable[[Core], Any]) -> Any:
        request = Request(None, loop)
        request.events = function
        request.submitted_ns = self._monotonic_ns()
        with self._lock:
            self._check_open()
            if len(self._pool) + len(self._reads) >= self.config.queue_requests:
                self._requests_turned_away += 1
                raise Unavailable("queue_full", "as many requests wait as the queue holds")
            self._reads.append(request)
            if self._engine_waits:
                self._engine_wake.notify()
        return request.future

    def find_transfers(self, ids: Any) -> Future[tuple[np.ndarray, np.ndarray]]:
        """Look transfers up by id: a future of (TRANSFER array, found bool array) in the order of
        ``ids``."""
        wanted = id_array(ids)
        return self.read(lambda core: self._find_transfers(core, wanted))

    def find_transfers_async(self, ids: Any) -> asyncio.Future[tuple[np.ndarray, np.ndarray]]:
        """As ``find_transfers``, for the running event loop."""
        wanted = id_array(ids)
        return self.read_async(lambda core: self._find_transfers(core, wanted))

    def _find_transfers(self, core: Core, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return find_transfers(self.store, core, ids, self._undurable_blocks())

    @contextmanager
    def reader(self) -> Iterator[tuple[Any, int]]:
        """Give (Reader, limit block): durable blocks up to the limit, consistent while the context
        lasts.

        May be used on any thread but the event loop's, one reader for each use.
        """
        limit_block = self._durable_block
        with self.store.reader() as reader:
            yield reader, limit_block

    @property
    def durable_position(self) -> int:
        """Position of the last durable entry; -1 in an empty ledger."""
        return self._durable_position

    @property
    def durable_block(self) -> int:
        """Number of the last durable block; -1 in an empty ledger."""
        return self._durable_block

    @property
    def sealed_block(self) -> int:
        """Number of the last durable block that ends an interval; -1 before the first."""
        return self._sealed_block

    @property
    def durable_timestamp(self) -> int:
        """Last timestamp of the last durable block, ns: a balance in the past is answered up to
        here."""
        return self._durable_timestamp

    def wait_durable(self, position: int, timeout_s: float | None = None) -> bool:
        """Wait until an entry at or after ``position`` is durable; False when the time is over or
        the engine stops."""
        with self._lock:
            self._durable_wake.wait_for(
                lambda: self._durable_position >= position or self._stage in ("stopped", "failed"),
                timeout_s,
            )
            return self._durable_position >= position

    def wait_durable_async(self, position: int) -> asyncio.Future[int]:
        """A future of the running loop: the durable position, as soon as it is at or after
        ``position``.

        Fails with Unavailable when the engine stops. The caller sets the time limit.
        """
        request = Request(None, asyncio.get_running_loop())
        with self._lock:
            self._check_open()
            if self._durable_position >= position:
                request.future.set_result(self._durable_position)
            else:
                self._waiters = [w for w in self._waiters if not w[1].future.done()]
                self._waiters.append((position, request))
        future: asyncio.Future[int] = request.future
        return future

    @property
    def roots(self) -> KeptRoots:
        """The archive of kept state roots; reading is for any thread."""
        kept: KeptRoots = self.store.roots
        return kept

    def request_state_root(self) -> Future[int]:
        """Ask for a state root of now: a future of its block, done when it is archived.

        The next sealed interval names it. When nothing was posted since the newest root, that one
        answers; in an empty ledger the future fails with Unavailable.
        """
        with self._lock:
            self._check_open()
        return self._roots.request()

    def confirm_clock(self) -> None:
        """Take the present time for right after ``clock_jumped``; within a tick, posting and expiry
        go on. Safe in a signal handler."""
        self._clock_confirmed = True

    def _check_open(self) -> None:
        if self._stage == "running":
            return
        if self._stage in ("new", "recovering"):
            stage, done, total = self._recovery_progress
            raise Unavailable("recovering", f"recovering: {stage or 'starting'} {done} of {total}")
        if self._fatal is not None:
            raise Unavailable("failed", f"the ledger has stopped: {self._fatal}")
        raise Unavailable("stopping", "the server is stopping")

    # ------------------------------------------------------------------------------------------
    # What an operator sees
    # ------------------------------------------------------------------------------------------

    def reasons_not_ready(self) -> list[dict[str, Any]]:
        """Return why requests are not taken: dicts with ``code`` and ``detail`` (and progress);
        empty when ready."""
        stage = self._stage
        if stage in ("new", "recovering"):
            name, done, total = self._recovery_progress
            return [
                {
                    "code": "recovering",
                    "detail": f"{name or 'starting'}: {done} of {total}",
                    "stage": name,
                    "done": done,
                    "total": total,
                }
            ]
        if stage == "failed":
            return [{"code": "failed", "detail": f"the ledger has stopped: {self._fatal}"}]
        if stage != "running":
            return [{"code": "stopping", "detail": "the server is stopping"}]
        refusal = self._posting_refusal
        return [] if refusal is None else [{"code": refusal[0], "detail": refusal[1]}]

    def warned(self) -> list[dict[str, str]]:
        """Return what an operator should look at although requests are taken: dicts with ``code``
        and ``detail``."""
        return [
            {"code": code, "detail": detail} for give in self.warnings for code, detail in give()
        ]

    def counters(self) -> dict[str, Any]:
        """Return what the engine has done since its start, for metrics and benchmarks; ns and
        bytes."""
        core = self.core
        return {
            "requests": self._requests_answered,
            "requests_turned_away": self._requests_turned_away,
            "events": self._events_decided,
            "refusals": self._refusals,
            "expiries": self._expiries,
            "blocks": self._blocks,
            "sealed_blocks": self._sealed_blocks,
            "sealed_block": self._sealed_block,
            "entries": self._entries,
            "block_bytes": self._bytes,
            "device_syncs": int(getattr(self.store, "device_syncs", 0)),
            "queue_requests": len(self._pool) + len(self._reads),
            "queue_events": self._pool_events,
            "blocks_in_flight": len(self._in_flight),
            "durable_position": self._durable_position,
            "durable_timestamp": self._durable_timestamp,
            "accounts": 0 if core is None else core.account_count,
            "holds": 0 if core is None else core.hold_count,
            "latency_buckets": list(self._latency),
            "latency_sum_ns": self._latency_sum_ns,
            "stage_ns": dict(self._stage_ns),
            **self._roots.counters(),
        }

    # ------------------------------------------------------------------------------------------
    # The engine thread
    # ------------------------------------------------------------------------------------------

    def _engine_run(self) -> None:
        try:
            while self._turn():
                pass
            if self._fatal is None and self._roots.settle(self.core):
                # All is durable: a current snapshot makes the next start short.
                self.store.snapshot_all(self.core, self._durable_block, self._roots.named_root)
        except BaseException as error:
            self._fail(error)
            self._fail_hand(self._engine_hand)
        with self._lock:
            self._engine_done = True
            self._journal_wake.notify()

    def _turn(self) -> bool:
        """Wait for something to do and do it; False when the engine has stopped."""
        core = self.core
        work = self._wait_for_work()
        if work is None:
            return False
        reads, may_decide = work
        now = self._look_around(core.last_timestamp)
        if reads:
            self._run_reads(reads)
        if may_decide:
            if self._posting_refusal is not None:
                self._turn_away()
            else:
                requests = self._take_requests()
                expires = 0 < core.next_expiry <= max(now, core.last_timestamp)
                if requests or expires:
                    self._engine_hand = requests
                    self._decide_block(requests, now, expires)
                    self._engine_hand = []
                idle = not requests and not expires
                waits = self._roots.waiting
                if self._seals.due(self._monotonic_ns(), idle=idle, root_waits=waits):
                    self._make_seal(now)
        started = time.perf_counter_ns()
        self._roots.turn(core)
        self.store.snapshot_step(
            core, self._durable_block, self._roots.named_root, paused=self._roots.busy
        )
        self._stage_ns["snapshot"] += time.perf_counter_ns() - started
        return True

    def _wait_for_work(self) -> tuple[list[Request], bool] | None:
        """Return the reads to run and whether a block may be decided; None to end the thread.

        Returns with nothing to do once a tick.
        """
        with self._lock:
            ticked = False
            while True:
                if self._fatal is not None:
                    return None
                may_decide = self._may_decide()
                if self._reads or ticked or (may_decide and self._pool) or self._roots.wants_turn:
                    reads = list(self._reads)
                    self._reads.clear()
                    return reads, may_decide
                if self._stage == "stopping" and not self._pool and not self._in_flight:
                    return None
                self._engine_waits = True
                ticked = not self._engine_wake.wait(TICK_S)
                self._engine_waits = False

    def _wake_engine(self) -> None:
        with self._lock:
            self._engine_wake.notify()

    def _wait_block(self, number: int) -> bool:
        """Wait until a block is durable; False when the engine failed."""
        with self._lock:
            self._durable_wake.wait_for(
                lambda: self._durable_block >= number or self._fatal is not None
            )
            return self._durable_block >= number

    def _may_decide(self) -> bool:
        """Whether a block may begin now: the disk is free, or enough waits to be worth a block
        ahead."""
        in_flight = len(self._in_flight)
        return in_flight == 0 or (
            in_flight < self.config.blocks_in_flight and self._pool_events >= DECIDE_AHEAD_EVENTS
        )

    def _look_around(self, last_timestamp: int) -> int:
        """Read the clock; decide whether posting is allowed. The disk is asked every tick, not
        every block."""
        if self._clock_confirmed:
            self._clock_confirmed = False
            self._guard.confirm()
        now = self._guard.now(last_timestamp)
        if self._guard.reason is not None:
            self._posting_refusal = ("clock_jumped", self._guard.reason)
            self._posting_checked_ns = 0
            return now
        monotonic = self._monotonic_ns()
        if monotonic - self._posting_checked_ns >= TICK_S * 1e9 or not self._posting_checked_ns:
            self._posting_checked_ns = monotonic
            if self.store.posting_allowed():
                self._posting_refusal = None
            else:
                free = self.store.free_bytes()
                self._posting_refusal = (
                    "disk_nearly_full",
                    f"{free} bytes of disk are free, less than the reserve of"
                    f" {self.config.disk_reserve_bytes}; make room",
                )
        return now

    def _run_reads(self, reads: list[Request]) -> None:
        self._engine_hand = reads
        for request in reads:
            try:
                request.reply = request.events(self.core)
            except Exception as error:
                request.error = error
        self._hand_over(None, reads)
        self._engine_hand = []

    def _turn_away(self) -> None:
        refusal = self._posting_refusal
        assert refusal is not None
        with self._lock:
            requests = list(self._pool)
            self._pool.clear()
            self._pool_events = 0
        for request in requests:
            request.error = Unavailable(*refusal)
        if requests:
            self._hand_over(None, requests)

    def _take_requests(self) -> list[Request]:
        config = self.config
        requests: list[Request] = []
        events = size_bytes = 0
        with self._lock:
            while self._pool:
                request = self._pool[0]
                if requests and (
                    events + request.count > config.block_entries
                    or size_bytes + request.size_bytes > config.block_bytes
                ):
                    break
                self._pool.popleft()
                requests.append(request)
                events += request.count
                size_bytes += request.size_bytes
            self._pool_events -= events
        return requests

    def _undurable_blocks(self) -> dict[int, Block]:
        """The blocks decided and perhaps not yet readable. Taken before a reader begins, so that
        none is missed."""
        with self._lock:
            return {block.number: block for block in self._in_flight}

    def _resolve(self, requests: list[Request]) -> tuple[list[np.ndarray], list[int]]:
        """Return what storage knows: RESOLVED rows of ids, and timestamps that imported accounts
        must not have."""
        core = self.core
        in_flight = self._undurable_blocks()
        small: dict[int, list[Any]] = {}
        whole: list[tuple[int, np.ndarray]] = []
        used: list[int] = []
        for request in requests:
            kind = request.kind
            assert kind is not None
            if not request.count:
                continue
            if kind.namespace is None:
                if len(asked := core.questioned_timestamps(request.events)):
                    used += self.store.used_timestamps(asked, in_flight)
            elif request.count < JOINED_EVENTS_MAX:
                small.setdefault(kind.namespace, []).append(request.events)
            else:
                whole.append((kind.namespace, request.events.view(layout.TRANSFER)))
        # numpy's own concatenation compares the records' fields for each array: 50 us a request.
        whole += [
            (namespace, np.frombuffer(b"".join(arrays), layout.TRANSFER))
            for namespace, arrays in small.items()
        ]
        return [
            self.store.resolve(core, events, in_flight, namespace=namespace)
            for namespace, events in whole
        ], used

    def _decide_block(self, requests: list[Request], now: int, expires: bool) -> None:
        """Decide and hash one block: due expiries first, then the requests in order of arrival."""
        core, spent = self.core, self._stage_ns
        measure = time.perf_counter_ns
        block = self._free_block()
        started = measure()
        resolved, used = self._resolve(requests)
        resolved_at = measure()
        spent["resolve"] += resolved_at - started

        core.open_block(block, core.block_number + 1)
        for rows in resolved:
            core.load_resolved(rows)
        if used:
            core.load_used_timestamps(used)
        if expires:
            self._expire(now)
        date = core.business_date
        for place, request in enumerate(requests):
            if (
                block.count + request.count > layout.BLOCK_ENTRIES_MAX
                or core.business_date != date  # the block ends the day
            ):
                self._put_back(requests[place:])
                del requests[place:]
                break
            self._decide(block, request, now)
        core.close_block()
        decided_at = measure()
        spent["decide"] += decided_at - resolved_at

        if block.count:
            self._finish_block(block, requests)
            self._roots.decided(core, own=False, day_ended=core.business_date != date)
            return
        with self._lock:
            self._free_blocks.append(block)
        self._hand_over(None, requests)

    def _make_seal(self, now: int) -> None:
        """Decide a block of the ledger's own, for the seal that it bears."""
        core, block = self.core, self._free_block()
        core.open_block(block, core.block_number + 1)
        core.seal(max(now, core.last_timestamp + 1))
        core.close_block()
        self._finish_block(block, [], made_to_seal=True)
        self._roots.decided(core, own=True, day_ended=False)

    def _free_block(self) -> Block:
        with self._lock:
            return self._free_blocks.pop() if self._free_blocks else Block()

    def _finish_block(
        self, block: Block, requests: list[Request], *, made_to_seal: bool = False
    ) -> None:
        """Index, hash and hand over a closed block."""
        spent, measure = self._stage_ns, time.perf_counter_ns
        started = measure()
        self._decided_position = layout.position(block.number, block.count - 1)
        self.store.insert_ids(block)
        inserted_at = measure()
        spent["insert_ids"] += inserted_at - started
        self.core.hash_block(block, self._random_bytes(32))
        spent["hash"] += measure() - inserted_at
        sealed = self._seals.take(block.last_timestamp, self._monotonic_ns(), made=made_to_seal)
        state = self._roots.next_named()
        self._hand_over(block, requests, flags=SEAL if sealed else 0, state=state)

    def _expire(self, now: int) -> None:
        # The rest of the block stays free for requests; what is due beyond that waits for the next
        # one.
        core = self.core
        limit = min(core.hold_count, layout.BLOCK_ENTRIES_MAX - layout.REQUEST_EVENTS_MAX)
        self._expiries += core.expire(max(now, core.last_timestamp + limit), limit)

    def _put_back(self, requests: list[Request]) -> None:
        """Let requests that found no room beside the expiries be the first of the next block."""
        with self._lock:
            self._pool.extendleft(reversed(requests))
            self._pool_events += sum(request.count for request in requests)

    def _decide(self, block: Block, request: Request, now: int) -> None:
        core = self.core
        count = request.count
        kind = request.kind
        assert kind is not None
        results = np.zeros(count, layout.RESULT)
        timestamp = max(now, core.last_timestamp + count)
        try:
            explanations = getattr(core, kind.method)(
                request.events,
                timestamp,
                results,
                metadata=request.metadata,
                dry_run=request.dry_run,
                explain=request.explain,
            )
        except (Unavailable, RequestRefused) as error:
            # The core refuses a request as a whole only before it has changed anything.
            request.error = error
            return
        position = (
            layout.position(block.number, block.count - 1)
            if block.count
            else self._decided_position
        )
        request.reply = Reply(results, position, timestamp, explanations)
        self._events_decided += count
        self._refusals += count - int(np.count_nonzero(results["status"] == layout.CREATED))

    def _hand_over(
        self,
        block: Block | None,
        requests: list[Request],
        *,
        flags: int = 0,
        state: tuple[int, bytes] | None = None,
    ) -> None:
        """Give a block, what its header says beside it, and its replies to the journal thread, in
        order."""
        with self._lock:
            if self._fatal is None:
                self._journal_queue.append(_Decided(block, flags, state, requests))
                if block is not None:
                    self._in_flight.append(block)
                self._journal_wake.notify()
                return
        self._fail_hand(requests)

    # ------------------------------------------------------------------------------------------
    # The journal thread
    # ------------------------------------------------------------------------------------------

    def _journal_run(self) -> None:
        try:
            while True:
                with self._lock:
                    while not self._journal_queue:
                        if self._fatal is not None or self._engine_done:
                            return
                        self._journal_wake.wait()
                    decided = self._journal_queue.popleft()
                self._journal_hand = decided.requests
                if decided.block is not None:
                    self._write(decided.block, decided.flags, decided.state)
                self._answer(decided.requests)
                self._journal_hand = []
        except BaseException as error:
            self._fail(error)
            self._fail_hand(self._journal_hand)

    def _write(self, block: Block, flags: int, state: tuple[int, bytes] | None) -> None:
        """Make a block durable, then let the engine and those who wait know."""
        assert self._chain is not None
        spent = self._stage_ns
        measure = time.perf_counter_ns
        started = measure()
        number = block.number
        value = encode_block(block, self._chain.header(block, flags=flags, state=state))
        packed_at = measure()
        spent["pack"] += packed_at - started
        self.store.append(value, block)
        spent["append"] += measure() - packed_at
        self._blocks += 1
        self._entries += block.count
        self._bytes += len(value)

        position = layout.position(block.number, block.count - 1)
        ready: list[Request] = []
        with self._lock:
            self._durable_block = number
            self._durable_timestamp = block.last_timestamp
            self._durable_position = position
            if flags & SEAL:
                self._sealed_block = number
            self._in_flight.popleft()
            self._free_blocks.append(block)
            if self._waiters:
                ready = [request for least, request in self._waiters if least <= position]
                self._waiters = [waiter for waiter in self._waiters if waiter[0] > position]
            self._durable_wake.notify_all()
            if self._engine_waits:
                self._engine_wake.notify()
        for request in ready:
            request.reply = position
        deliver(ready)
        if flags & SEAL:
            self._sealed_blocks += 1
            self._tell_sealed(number)

    def _tell_sealed(self, number: int) -> None:
        for tell in self.on_sealed:
            try:
                tell(number)
            except Exception:
                # Whoever publishes the log must not stop the posting.
                _LOG.exception("block %d is sealed, and a listener failed", number)

    def _answer(self, requests: list[Request]) -> None:
        now = self._monotonic_ns()
        latency = self._latency
        for request in requests:
            elapsed = now - request.submitted_ns
            self._latency_sum_ns += elapsed
            latency[min((elapsed // 1000).bit_length(), LATENCY_BUCKETS - 1)] += 1
        self._requests_answered += len(requests)
        deliver(requests)

    # ------------------------------------------------------------------------------------------
    # The end
    # ------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Stop for good: memory is ahead of the disk, or no longer to be trusted."""
        failure = (
            error
            if isinstance(error, LedgerError)
            else DiskFailed(str(error))
            if isinstance(error, OSError)
            else LedgerError(f"the engine failed: {type(error).__name__}: {error}")
        )
        failure.__cause__ = error if failure is not error else error.__cause__
        with self._lock:
            first = self._fatal is None
            if first:
                self._fatal = failure
            self._stage = "failed"
            pending = [*self._pool, *self._reads]
            for decided in self._journal_queue:
                pending += decided.requests
            pending += [request for _, request in self._waiters]
            self._pool.clear()
            self._pool_events = 0
            self._reads.clear()
            self._journal_queue.clear()
            self._waiters = []
            for condition in (self._engine_wake, self._journal_wake, self._durable_wake):
                condition.notify_all()
        self._fail_hand(pending)
        if first and self._on_fatal is not None:
            self._on_fatal(failure)

    def _fail_hand(self, requests: list[Request]) -> None:
        """Tell the waiters that the outcome of their requests is unknown."""
        for request in requests:
            request.reply = None
            request.error = self._fatal
        deliver(requests)
