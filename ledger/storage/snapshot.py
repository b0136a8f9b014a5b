"""The fuzzy snapshot: passes over the core's pages while it serves, and the pages on disk.

A pass begins between two blocks: it notes the block, the small state and the numbers of all pages
that changed since they were last copied. In the steps that follow, between later blocks, it copies
those pages as they are by then, a few at a time, each with the number of the block that it is
current to. Copies are committed in chunks, a chunk only when the last block in it is durable, so
that nothing on disk is ahead of the journal. When all pages of the pass are committed, so is its
floor. docs/decisions/0001-snapshot-in-place.md says why pages may be overwritten where they are.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from ledger.errors import DataDamaged, DiskFailed, DiskFull
from ledger.storage.environment import open_environment, translated
from ledger.storage.store import CHECKSUM_BYTES, Core, Floor, Hook, Page, Pages, no_hook

KINDS: Final = ("accounts", "holds")
CHUNKS_WAITING_MAX: Final = 2
RETRY_FULL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How a pass is cut into pieces; only tests use another than the usual one."""

    chunk_bytes: int = 8 << 20
    """Committed together."""
    step_bytes: int = 2 << 20
    """Copied in one step at most, so that a step stays well below a millisecond or so."""
    pass_interval_s: float = 5.0
    """Between the beginnings of two passes, so that a trickle of transfers does not rewrite its
    pages all the time."""
    threaded: bool = True
    """Pages are written by a thread; else within a step, as soon as they may be."""


USUAL_PACE: Final = Pace()

_FLOOR: Final = struct.Struct("<QIIqq")
_FLOOR_NAME: Final = b"floor 2"
_BLOCK: Final = struct.Struct("<Q")


def _digest(instance: bytes, name: bytes, *parts: bytes | memoryview) -> bytes:
    """Return a checksum that knows the ledger and the record's name."""
    hasher = blake3(instance + name)
    for part in parts:
        hasher.update(part)
    return hasher.digest(length=CHECKSUM_BYTES)


def pack_page(instance: bytes, page: Page) -> bytes:
    """Return the stored form of a page."""
    name = page.kind.encode() + page.number.to_bytes(4, "big")
    block = _BLOCK.pack(page.block)
    return b"".join((_digest(instance, name, block, page.data), block, page.data))


def unpack_page(instance: bytes, kind: str, number: int, value: bytes | memoryview) -> Page:
    """Return the page in a stored value; raise DataDamaged when it is not that page of that
    ledger."""
    content = memoryview(value)[CHECKSUM_BYTES:]
    name = kind.encode() + number.to_bytes(4, "big")
    if len(content) < _BLOCK.size or _digest(instance, name, content) != value[:CHECKSUM_BYTES]:
        raise DataDamaged(f"page {number} of the {kind} does not have its checksum")
    return Page(kind, number, _BLOCK.unpack_from(content)[0], content[_BLOCK.size :])


def pack_floor(instance: bytes, floor: Floor) -> bytes:
    """Return the stored form of a floor."""
    numbers = _FLOOR.pack(
        floor.block, floor.account_pages, floor.hold_pages, floor.kept_root, floor.named_root
    )
    content = numbers + floor.small_state
    return _digest(instance, _FLOOR_NAME, content) + content


def unpack_floor(instance: bytes, value: bytes | memoryview) -> Floor:
    """Return the floor in a stored value; raise DataDamaged when it is not one of that ledger."""
    content = bytes(value[CHECKSUM_BYTES:])
    digest = _digest(instance, _FLOOR_NAME, content)
    if len(content) < _FLOOR.size or digest != value[:CHECKSUM_BYTES]:
        raise DataDamaged("the snapshot's floor does not have its checksum")
    block, account_pages, hold_pages, kept_root, named_root = _FLOOR.unpack_from(content)
    small_state = content[_FLOOR.size :]
    return Floor(block, account_pages, hold_pages, small_state, kept_root, named_root)


class LmdbPages:
    """The pages in an LMDB environment of their own, by kind and number."""

    def __init__(self, path: Path, instance: bytes, *, hook: Hook = no_hook) -> None:
        self._path = path
        self._instance = instance
        self._hook = hook
        self._environment, self._trees = open_environment(path, trees=(*KINDS, "floor"))

    @property
    def transaction_count(self) -> int:
        """Transactions committed since the environment was made."""
        return int(self._environment.info()["last_txnid"])

    def write(self, pages: list[Page]) -> None:
        """Write pages over their older versions, in one transaction; raises DiskFailed or
        DiskFull."""
        self._hook("pages", "before")
        with translated(self._path), self._environment.begin(write=True) as transaction:
            for page in sorted(pages, key=lambda page: (page.kind, page.number)):
                transaction.put(
                    page.number.to_bytes(4, "big"),
                    pack_page(self._instance, page),
                    db=self._trees[page.kind],
                )
        self._hook("pages", "after")

    def write_floor(self, floor: Floor) -> None:
        """Write the floor of a pass whose pages are all written."""
        self._hook("floor", "before")
        with translated(self._path), self._environment.begin(write=True) as transaction:
            transaction.put(b"floor", pack_floor(self._instance, floor), db=self._trees["floor"])
        self._hook("floor", "after")

    def read_floor(self) -> Floor | None:
        """Return the floor of the last complete pass; None when there is none."""
        with translated(self._path), self._environment.begin(buffers=True) as transaction:
            value = transaction.get(b"floor", db=self._trees["floor"])
            return None if value is None else unpack_floor(self._instance, value)

    def read(self, kind: str, count: int) -> Iterator[Page]:
        """Yield pages 0 to count - 1 of a kind, each good until the next; raise DataDamaged for one
        that is missing or damaged."""
        with translated(self._path), self._environment.begin(buffers=True) as transaction:
            for number in range(count):
                value = transaction.get(number.to_bytes(4, "big"), db=self._trees[kind])
                if value is None:
                    raise DataDamaged(f"page {number} of the {kind} is missing")
                yield unpack_page(self._instance, kind, number, value)

    def clear(self) -> None:
        """Forget everything, in one transaction."""
        with translated(self._path), self._environment.begin(write=True) as transaction:
            for tree in self._trees.values():
                transaction.drop(tree, delete=False)

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()


class Snapshot:
    """Drives the passes. ``step`` belongs to the engine thread; the pages are written by a thread
    of their own.

    A failed write is raised as DiskFailed by the next step; a full disk is waited for.
    """

    def __init__(
        self,
        pages: Pages,
        *,
        bytes_per_second: int,
        pace: Pace = USUAL_PACE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pages = pages
        self._bytes_per_second = bytes_per_second
        self._monotonic = monotonic
        self._pace = pace

        # Owned by the engine thread:
        self._floor: Floor | None = None
        self._todo: Iterator[tuple[str, int]] = iter(())
        self._chunk: list[Page] = []
        self._chunk_bytes = 0
        self._budget_bytes = 0.0
        self._last_step = monotonic()
        self._pass_began = float("-inf")
        self._last_floor_block = -1

        # Owned by the lock of _changed:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, list[Page] | Floor]] = deque()
        self._durable = -1
        self._failed: Exception | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        if pace.threaded:
            self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
            self._thread.start()

    def start_from(self, floor_block: int) -> None:
        """Say which block the last complete pass ends at; -1 for none. Called once, after
        recovery."""
        self._last_floor_block = floor_block

    def step(
        self,
        core: Core,
        durable: int,
        roots: tuple[int, int] = (-1, -1),
        *,
        paused: bool = False,
    ) -> None:
        """Copy what the rate allows, and hand full chunks on; ``paused``: copy nothing. ``durable``
        is the last durable block, ``roots`` are the newest ones with a kept and with a named state
        root."""
        self._set_durable(durable)
        now = self._monotonic()
        earned = (now - self._last_step) * self._bytes_per_second
        self._budget_bytes = min(self._pace.step_bytes, self._budget_bytes + earned)
        self._last_step = now
        if paused:
            return
        if self._floor is None:
            if now - self._pass_began < self._pace.pass_interval_s or not self._begin(core, roots):
                return
            self._pass_began = now
        while self._budget_bytes > 0 and self._copy_next(core):
            pass

    def copy_all(self, core: Core, durable: int, roots: tuple[int, int] = (-1, -1)) -> None:
        """Finish the pass under way and make one more, without a limit of rate; wait until both are
        written."""
        self._set_durable(durable)
        for _ in range(2):
            if self._floor is None and not self._begin(core, roots):
                break
            while self._floor is not None:
                if not self._copy_next(core):
                    self._wait(lambda: len(self._waiting) < CHUNKS_WAITING_MAX)
        self.drain()

    def drain(self) -> None:
        """Wait until every chunk handed on is written; their blocks must be durable."""
        self._wait(lambda: not self._waiting)

    def close(self) -> None:
        """Stop the thread; chunks not written are dropped, as a crash would."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # ---- copying, on the engine thread ----

    def _begin(self, core: Core, roots: tuple[int, int]) -> bool:
        """Begin a pass; False when nothing was decided since the last one began."""
        block = core.block_number
        if block < 0 or block == self._last_floor_block:
            return False
        pages = (core.page_count, core.hold_page_count)
        self._floor = Floor(block, *pages, core.small_state(), *roots)
        self._last_floor_block = block
        todo = [
            (kind, page)
            for kind, count in (("accounts", core.page_count), ("holds", core.hold_page_count))
            for page in sorted(core.dirty_pages(kind, max(1, count)))
        ]
        self._todo = iter(todo)
        return True

    def _copy_next(self, core: Core) -> bool:
        """Copy one page, or end the pass; False when the pass has ended or the writer is behind."""
        if self._floor is None:
            return False
        with self._changed:
            if len(self._waiting) >= CHUNKS_WAITING_MAX:
                return False
        kind, number = next(self._todo, (None, 0))
        if kind is None:
            self._hand_on()
            with self._changed:
                self._waiting.append((self._floor.block, self._floor))
                self._changed.notify_all()
            self._floor = None
            self._write_ready()
            return False
        data = core.copy_page(kind, number)
        self._chunk.append(Page(kind, number, core.block_number, data))
        self._chunk_bytes += len(data)
        self._budget_bytes -= len(data)
        if self._chunk_bytes >= self._pace.chunk_bytes:
            self._hand_on()
        return True

    def _hand_on(self) -> None:
        if self._chunk:
            block = max(page.block for page in self._chunk)
            with self._changed:
                self._waiting.append((block, self._chunk))
                self._changed.notify_all()
            self._chunk = []
            self._chunk_bytes = 0
            self._write_ready()

    def _set_durable(self, durable: int) -> None:
        with self._changed:
            if self._failed is not None:
                raise DiskFailed(f"the snapshot could not be written: {self._failed}")
            if durable > self._durable:
                self._durable = durable
                self._changed.notify_all()
        self._write_ready()

    def _wait(self, done: Callable[[], bool]) -> None:
        self._write_ready()
        with self._changed:
            if self._thread is not None:
                self._changed.wait_for(lambda: done() or self._failed or self._stopping)
            if self._failed is not None:
                raise DiskFailed(f"the snapshot could not be written: {self._failed}")

    # ---- writing ----

    def _write_ready(self) -> None:
        """Without a thread: write what is durable now."""
        if self._thread is None:
            while self._waiting and self._waiting[0][0] <= self._durable:
                try:
                    self._write(self._waiting[0][1])
                except DiskFull:
                    return
                self._waiting.popleft()

    def _write(self, item: list[Page] | Floor) -> None:
        if isinstance(item, Floor):
            self._pages.write_floor(item)
        else:
            self._pages.write(item)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        self._stopping or (self._waiting and self._waiting[0][0] <= self._durable)
                    )
                )
                if self._stopping:
                    return
                item = self._waiting[0][1]
            try:
                self._write(item)
            except DiskFull:
                # Pages are kept, and the core keeps serving from memory; recovery only has more to
                # replay.
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, RETRY_FULL_S):
                        return
                continue
            except Exception as error:
                # Raised again on the engine thread, which stops.
                with self._changed:
                    self._failed = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()


def read_all(pages: Any, floor: Floor) -> Iterator[Page]:
    """Yield every page that the floor counts; raise DataDamaged for a missing or damaged one."""
    yield from pages.read("accounts", floor.account_pages)
    yield from pages.read("holds", floor.hold_pages)
