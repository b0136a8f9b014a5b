"""State roots beside posting: when one is made, and how it is made without holding up a block.

::

    engine thread                            a thread of its own
    begin a capture after a block
    copy some accounts, between later blocks ──> hash tiles, archive what changed
    the last accounts ─────────────────────────> state root, archived durably
    name it in the next header <───────────────── done

A root is made after a block that ends a business day, at intervals when something was posted since
the one before, and on request. While one is being made the snapshot pauses, so that a crash leaves
no page that shows a later block than the one whose root is not archived yet.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger._core import Core
from ledger._state_tree import StateBuilder
from ledger.errors import DiskFailed, DiskFull, LedgerError, Unavailable
from ledger.storage.roots import KeptRoots, RootWriter

STEP_ROWS: Final = 1 << 13
"""Accounts copied in one step, and mostly in a turn of the engine: well below a millisecond."""
STEP_SAVED_BYTES: Final = 16 << 20
"""For each so many bytes of accounts saved because they changed before they were copied, a turn
makes one more step."""
STEPS_MAX: Final = 4
QUEUE_ROWS: Final = 1 << 18
"""Rows copied ahead of the hashing."""
BACKLOG_ROWS: Final = 1 << 22
"""With more rows (about 1 GB) of earlier days waiting, a day's end waits for the hashing: a
calendar that is moved on faster than roots are made must not take all memory."""
RETRY_FULL_S: Final = 1.0


@dataclass(slots=True)
class _Job:
    """A state root on its way."""

    block: int
    timestamp: int
    business_date: int
    requests: list[Future[int]]
    began_ns: int
    rows: deque[np.ndarray] = field(default_factory=deque)
    """Guarded by the lock, as the next."""
    complete: bool = False
    # Of the building thread:
    builder: StateBuilder | None = None
    writer: RootWriter | None = None


class StateRoots:
    """Makes the state roots of one engine. What has no word on threads is the engine thread's.

    ``wake()`` is called when the engine thread may have something to do; ``wait_durable(block)``
    returns when a block is durable, or False when it never will be.
    """

    def __init__(
        self,
        *,
        interval_ns: int,
        monotonic_ns: Callable[[], int],
        wake: Callable[[], None],
        wait_durable: Callable[[int], bool],
    ) -> None:
        self._interval_ns = interval_ns
        self._monotonic_ns = monotonic_ns
        self._wake = wake
        self._wait_durable = wait_durable

        # Set once by start():
        self._kept: Any = None
        self._thread: threading.Thread | None = None

        # Owned by the engine thread:
        self._copying: _Job | None = None
        self._changed_block = -1
        self._rooted_block = -1
        self._due_ns = 0
        self.named_root = -1
        """The newest block whose state root a decided block names."""

        # Owned by the lock of _changed:
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._waiting_rows = 0
        self._rooms: deque[Any] = deque()
        """Memory for rows: filled by the engine's thread, given back by the other one."""
        self._requests: list[Future[int]] = []
        self._unnamed: deque[tuple[int, bytes]] = deque()
        self._failed: Exception | None = None
        self._disk_full = False
        self._stopping = False

        # Counters, each written by one thread:
        self._made = 0
        self._building_ns = 0
        self._copying_ns = 0
        self._longest_step_ns = 0
        self._longest_step_cpu_ns = 0
        self._most_saved_bytes = 0
        self._last_capture_ns = 0
        self._last_made_ns = 0

    def start(
        self, kept: KeptRoots, *, named_root: int, changed_block: int, age_ns: int | None
    ) -> None:
        """Go on from what recovery found: the archive, the newest block whose root a header names,
        the last block that the ledger did not make for itself, the age of the newest root."""
        self._kept = kept
        self.named_root = named_root
        self._rooted_block = kept.newest_block
        self._changed_block = changed_block
        self._unnamed.extend(
            (block, root) for block, _, _, root in kept.blocks() if block > named_root
        )
        elapsed_ns = min(max(age_ns or 0, 0), self._interval_ns)
        self._due_ns = self._monotonic_ns() + self._interval_ns - elapsed_ns
        self._thread = threading.Thread(target=self._run, name="ledger-roots", daemon=True)
        self._thread.start()

    # ---- on the engine thread ----

    @property
    def busy(self) -> bool:
        """Whether a root is being made, so that the snapshot must not copy pages; any thread."""
        return self._copying is not None or bool(self._jobs)

    @property
    def waiting(self) -> bool:
        """Whether a root is archived that no header names."""
        return bool(self._unnamed)

    @property
    def wants_turn(self) -> bool:
        """Whether a turn would copy or begin something, so that the engine should not sleep."""
        if self._copying is not None:
            return self._waiting_rows < QUEUE_ROWS
        return (bool(self._requests) and not self._jobs) or self._failed is not None

    def decided(self, core: Core, *, own: bool, day_ended: bool) -> None:
        """Note a block that was hashed and handed over: ``own``, one that the ledger made for its
        seal; ``day_ended``, one after which the business date is another."""
        if not own:
            self._changed_block = core.block_number
        if day_ended:
            # The state of this moment is wanted, whatever is under way.
            self._copy_all(core)
            self._wait_for_backlog()
            self._begin(core, [])

    def turn(self, core: Core) -> None:
        """Between blocks: copy the next accounts, or begin a root that is due."""
        if self._failed is not None:
            raise DiskFailed(f"a state root could not be made: {self._failed}") from self._failed
        if self._copying is not None:
            steps = min(1 + core.capture_saved_bytes // STEP_SAVED_BYTES, STEPS_MAX)
            while steps and self._copying is not None and self._waiting_rows < QUEUE_ROWS:
                self._copy(core)
                steps -= 1
        elif not self._jobs and (self._requests or self._interval_is_over()):
            self._answer_or_begin(core)

    def next_named(self) -> tuple[int, bytes] | None:
        """Take the (block, root) that the next header names; None when there is none."""
        with self._changed:
            if not self._unnamed:
                return None
            named = self._unnamed.popleft()
        self.named_root = named[0]
        return named

    def settle(self, core: Core) -> bool:
        """At the end: copy what is left, and wait until every root is archived; False when that
        cannot be, and the snapshot must stay as it is."""
        self._copy_all(core)
        with self._changed:
            self._changed.wait_for(
                lambda: not self._jobs or self._failed or self._disk_full or self._stopping
            )
            return not self._jobs

    def _interval_is_over(self) -> bool:
        return (
            self._interval_ns > 0
            and self._changed_block > self._rooted_block
            and self._monotonic_ns() >= self._due_ns
        )

    def _answer_or_begin(self, core: Core) -> None:
        with self._changed:
            requests, self._requests = self._requests, []
        if self._changed_block > self._rooted_block:
            self._begin(core, requests)
            return
        for request in requests:
            if self._rooted_block >= 0:
                request.set_result(self._rooted_block)
            else:
                request.set_exception(Unavailable("not_provable_yet", "nothing was posted yet"))

    def _begin(self, core: Core, requests: list[Future[int]]) -> None:
        core.begin_capture()
        job = _Job(
            block=core.block_number,
            timestamp=core.last_timestamp,
            business_date=core.business_date,
            requests=requests,
            began_ns=time.perf_counter_ns(),
        )
        self._copying = job
        self._rooted_block = job.block
        self._due_ns = self._monotonic_ns() + self._interval_ns
        with self._changed:
            self._jobs.append(job)

    def _copy(self, core: Core) -> None:
        job = self._copying
        assert job is not None
        started, cpu_started = time.perf_counter_ns(), time.thread_time_ns()
        self._most_saved_bytes = max(self._most_saved_bytes, core.capture_saved_bytes)
        try:
            room = self._rooms.pop()
        except IndexError:
            room = np.empty(STEP_ROWS, layout.STATE_ROW)
        rows = core.capture_step(STEP_ROWS, room)
        with self._changed:
            if len(rows):
                job.rows.append(rows)
                self._waiting_rows += len(rows)
            else:
                job.complete = True
                self._copying = None
                self._last_capture_ns = time.perf_counter_ns() - job.began_ns
            self._changed.notify_all()
        spent = time.perf_counter_ns() - started
        self._copying_ns += spent
        self._longest_step_ns = max(self._longest_step_ns, spent)
        cpu = time.thread_time_ns() - cpu_started
        self._longest_step_cpu_ns = max(self._longest_step_cpu_ns, cpu)

    def _copy_all(self, core: Core) -> None:
        while self._copying is not None:
            self._copy(core)

    def _wait_for_backlog(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._waiting_rows <= BACKLOG_ROWS
                    or self._failed
                    or self._disk_full
                    or self._stopping
                )
            )

    # ---- on any thread ----

    def request(self) -> Future[int]:
        """Ask for a root of the state as it is: a future of its block, done when it is archived.

        When nothing was posted since the newest root, that one answers.
        """
        future: Future[int] = Future()
        future.set_running_or_notify_cancel()
        with self._changed:
            if self._stopping or self._failed is not None:
                raise Unavailable("stopping", "the server is stopping")
            self._requests.append(future)
        self._wake()
        return future

    def wait_idle(self) -> None:
        """Wait until no root is being made, or none can be."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._jobs or self._failed or self._disk_full or self._stopping
            )

    def close(self, error: LedgerError | None = None) -> None:
        """Stop the thread; what it has not archived is made again by recovery. Futures fail."""
        with self._changed:
            self._stopping = True
            pending = [*self._requests, *(f for job in self._jobs for f in job.requests)]
            self._requests = []
            self._changed.notify_all()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for future in pending:
            if not future.done():
                future.set_exception(error or Unavailable("stopping", "the server is stopping"))

    def warnings(self) -> list[tuple[str, str]]:
        """Return what an operator should look at, as codes and sentences."""
        if not self._disk_full:
            return []
        return [("state_roots_wait", "the disk is full: a state root waits to be archived")]

    def counters(self) -> dict[str, int]:
        """Return what was made since the start, and what is kept; ns and bytes."""
        kept = self._kept
        newest = None if kept is None else kept.newest
        return {
            "state_roots": self._made,
            "state_root_block": -1 if newest is None else newest.block,
            "state_root_timestamp": 0 if newest is None else newest.timestamp,
            "state_root_building_ns": self._building_ns,
            "state_root_copying_ns": self._copying_ns,
            "state_root_longest_step_ns": self._longest_step_ns,
            "state_root_longest_step_cpu_ns": self._longest_step_cpu_ns,
            "state_root_last_capture_ns": self._last_capture_ns,
            "state_root_last_made_ns": self._last_made_ns,
            "state_root_most_saved_bytes": self._most_saved_bytes,
            "state_root_archive_bytes": 0 if kept is None else kept.size_bytes,
        }

    # ---- on the thread of its own ----

    def _run(self) -> None:
        try:
            while self._build_next():
                pass
            with self._changed:
                self._stopping = True
                self._changed.notify_all()
        except Exception as error:
            # Raised again on the engine thread, which stops.
            with self._changed:
                self._failed = error
                self._changed.notify_all()
            self._wake()

    def _build_next(self) -> bool:
        """Take the next rows of the first job; False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or (self._jobs and (self._jobs[0].rows or self._jobs[0].complete))
                )
            )
            if self._stopping:
                return False
            job = self._jobs[0]
            rows = job.rows.popleft() if job.rows else None
            was_full = self._waiting_rows >= QUEUE_ROWS
            if rows is not None:
                self._waiting_rows -= len(rows)
                if was_full and self._waiting_rows < QUEUE_ROWS:
                    self._wake()
                self._changed.notify_all()
        if job.builder is None and not self._begin_building(job):
            return False
        started = time.perf_counter_ns()
        assert job.builder is not None
        assert job.writer is not None
        if rows is not None:
            job.builder.add(rows)
            # The memory is used again for the next accounts.
            self._rooms.append(rows.base)
            job.writer.add(job.builder.take_changed())
            done = not job.writer.full or self._flush(job.writer)
        else:
            root = job.builder.finish(job.block)
            job.writer.finish(root)
            self._rooms.clear()
            done = self._flush(job.writer)
            if done:
                self._finish(job, root.root)
        self._building_ns += time.perf_counter_ns() - started
        return done

    def _begin_building(self, job: _Job) -> bool:
        if not self._wait_durable(job.block):
            return False
        job.builder = StateBuilder(self._kept.newest_block)
        job.writer = self._kept.writer(
            block=job.block, timestamp=job.timestamp, business_date=job.business_date
        )
        return True

    def _flush(self, writer: RootWriter) -> bool:
        """Write what the writer holds, and wait while the disk is full; False when it is time to
        stop."""
        while True:
            try:
                writer.flush()
            except DiskFull:
                with self._changed:
                    self._disk_full = True
                    self._changed.notify_all()
                    if self._changed.wait_for(lambda: self._stopping, RETRY_FULL_S):
                        return False
                continue
            self._disk_full = False
            return True

    def _finish(self, job: _Job, root: bytes) -> None:
        with self._changed:
            self._unnamed.append((job.block, root))
            self._jobs.popleft()
            self._made += 1
            self._last_made_ns = time.perf_counter_ns() - job.began_ns
            self._changed.notify_all()
        for request in job.requests:
            request.set_result(job.block)
        self._wake()
