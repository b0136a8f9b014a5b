"""The permanent index of ids: recent tables in memory, sorted runs with filters on disk.

New records go into a *recent table*. A full one is sealed, and when all its blocks are durable a
thread writes it as a *run*: records sorted by hash, in chunks of 64 KiB, with a filter that stays
in memory. Runs of one level are merged into one of the next. What the environment shows changes
only in single LMDB transactions: a run appears together with the floor up to which runs are
complete, or instead of the runs that it was merged from. Chunks that belong to no run are
left-overs of a crash and are removed.

What is in one LMDB tree, keys in big-endian::

    "index"                   format, first block not in a run, largest id, next run, instance
    "run" number u64          level, count, widths, blocks and ids covered, first hashes of chunks
    "filter" number, part     the filter's words, up to 1 MiB in a part
    "chunk" number, chunk     hashes, then packed references; see ``ledger._ids``

Every value begins with a checksum over its key and its content.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np
from blake3 import blake3

from ledger import layout
from ledger._ids import (
    Filter,
    IdKeys,
    IdView,
    RecentTable,
    as_hits,
    decode_chunk,
    encode_chunk,
    index_bits_of,
    merge_records,
    reference_width,
    search_chunk,
)
from ledger.errors import DataDamaged, DiskFull, FormatTooNew
from ledger.storage.environment import translated

FORMAT: Final = 1
FAN_OUT: Final = 4
"""Runs of one level that are merged into one of the next."""
FILTER_BITS: Final = 12
"""Bits of filter an id: half a false positive in a hundred."""
BACKLOG_TABLES: Final = 8
"""Sealed tables waiting for the disk, above which posting should pause."""
CHUNK_BYTES: Final = (1 << 16) - 16
"""A chunk and LMDB's page header fill 16 pages."""
BATCH_BYTES: Final = 8 << 20
"""What one transaction of the background thread writes at most, about."""
RETRY_S: Final = 1.0
"""Seconds between attempts to write on a full disk."""
WINDOW_RECORDS: Final = 1 << 16
"""Records that are merged at a time, about: what holds the GIL is short then."""
_FIRST_TABLE: Final = 1 << 12
"""Records of the first table, so that a small ledger is small in memory."""
_FILTER_PART: Final = 1 << 17
"""Words in one part of a filter."""

_DIGEST: Final = 16
_INDEX_KEY: Final = b"index"
_INDEX: Final = struct.Struct("<IIQ16sQ16s")
_RUN: Final = struct.Struct("<IIQQQII16s16sII")
_CHUNK: Final = struct.Struct("<I12x")


def _run_key(run: int) -> bytes:
    return b"run" + struct.pack(">Q", run)


def _filter_key(run: int, part: int) -> bytes:
    return b"filter" + struct.pack(">QI", run, part)


def _chunk_key(run: int, chunk: int) -> bytes:
    return b"chunk" + struct.pack(">QI", run, chunk)


def _u128(value: int) -> bytes:
    return value.to_bytes(16, "little")


def _sealed(key: bytes, content: bytes | memoryview) -> bytes:
    return bytes(blake3(key).update(content).digest(length=_DIGEST)) + content


def _content(key: bytes, value: Any, what: str) -> memoryview:
    """Return what a value holds behind its checksum; raise DataDamaged when that does not fit."""
    content = memoryview(value)[_DIGEST:]
    if blake3(key).update(content).digest(length=_DIGEST) != bytes(value[:_DIGEST]):
        raise DataDamaged(f"index of ids: {what} is not what was written")
    return content


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One sorted run: where its chunks begin, how references are packed, its filter in memory."""

    number: int
    level: int
    count: int
    base_block: int
    last_block: int
    index_bits: int
    width: int
    low: int
    high: int
    fences: np.ndarray
    filter: Any
    verified: bytearray
    """One byte a chunk: set once its checksum was compared."""

    @property
    def packing(self) -> dict[str, int]:
        """The keyword arguments of the chunk functions of ``ledger._ids``."""
        return {
            "base_block": self.base_block,
            "index_bits": self.index_bits,
            "width": self.width,
        }


class _ChunkGone(Exception):
    """A chunk is not there: its run was merged away, or it is lost."""


class _Stopped(Exception):
    """The index is being closed while the thread works."""


class IdIndex:
    """Which ids exist, and at which positions; the caller compares every answer with the journal.

    ``insert_block`` and ``candidates`` belong to the engine thread, ``maintain`` to the one that
    makes blocks durable. ``candidates_of``, ``lookup`` and the properties may be used by any
    thread at any time: they work on the view that they find, and may name positions that are not
    durable.
    """

    TREES: Final = ("runs",)
    """Names of the LMDB trees; the environment needs ``max_dbs`` for them."""

    def __init__(
        self, instance: bytes, recent_ids: int, env: lmdb.Environment | None = None
    ) -> None:
        """Open the index of an environment, or one in memory only that keeps everything.

        ``instance`` is the ledger's 16 bytes, from which the seeds of the hash come; ``recent_ids``
        the ids that stay in memory, about. Reads the filters of all runs. Writes nothing.
        Raises DataDamaged, FormatTooNew and DiskFailed.
        """
        if len(instance) != 16:
            raise ValueError(f"an instance has 16 bytes, not {len(instance)}")
        self._instance = instance
        self._capacity = max(512, recent_ids // 2)
        self._env = env
        self._tree: Any = None
        # Guarded by _changed; the view itself is replaced, never altered:
        self._changed = threading.Condition()
        self._durable = -1
        self._stopping = False
        self._busy = False
        self._failure: Exception | None = None
        self._full: DiskFull | None = None
        self._spare: Any = None
        self._thread: threading.Thread | None = None
        # Owned by the background thread once it runs:
        self._garbage: list[int] = []
        self._unfinished: list[int] = []
        self._next_run = 1
        self._floor = -1
        self._largest_in_runs = 0
        runs: tuple[Run, ...] = ()
        if env is not None:
            with self._translated():
                self._tree = env.open_db(self.TREES[0].encode())
                runs = self._load()
        secret = blake3(instance, derive_key_context="sanyuan 2026 v1 id index").digest()
        self._keys: Any = IdKeys(secret, largest=self._largest_in_runs)
        self._view: Any = IdView((RecentTable(min(_FIRST_TABLE, self._capacity)),), runs)

    # ---- what is known ----

    @property
    def floor(self) -> int:
        """The last block up to which runs are complete, or -1; later ones are to be inserted."""
        return self._floor

    @property
    def memory_bytes(self) -> int:
        """Bytes of tables, filters and fences in memory."""
        view, spare = self._view, self._spare
        tables = [*view.tables, *([] if spare is None else [spare])]
        size = sum(table.memory_bytes for table in tables)
        return int(size + sum(run.filter.words.nbytes + run.fences.nbytes for run in view.runs))

    @property
    def run_count(self) -> int:
        """Runs on disk."""
        return len(self._view.runs)

    @property
    def backlogged(self) -> bool:
        """Whether so many tables wait for the disk that posting should pause."""
        return len(self._view.tables) > 1 + BACKLOG_TABLES

    def __len__(self) -> int:
        """Records: one for each id, and one more for each resolved hold."""
        view = self._view
        return int(sum(map(len, view.tables)) + sum(run.count for run in view.runs))

    # ---- engine thread ----

    def insert_block(self, block: Any, number: int | None = None) -> None:
        """Insert the ids of a block, or of ENTRY rows with the block's number, in order of blocks.

        A block that the runs hold already changes nothing, so recovery may insert it again.
        """
        entries = block if number is not None else block.entries
        number = int(block.number) if number is None else number
        if number <= self._floor:
            return
        records = self._keys.gather(entries, number)
        active = self._view.tables[0]
        if self._env is not None and len(active) and len(active) + records > self._capacity:
            active = self._seal()
        if len(active) + records > active.capacity:
            room = max(2 * active.capacity, len(active) + records)
            if self._env is not None:
                room = max(room, self._capacity)
            active = self._replace_active(active.grown(room))
        done = 0
        while True:
            done = self._keys.insert(active, number, done, records)
            if done == records:
                return
            active = self._replace_active(active.grown(2 * active.capacity))

    def _seal(self) -> Any:
        """Begin a new recent table; the full one waits until its blocks are durable."""
        with self._changed:
            fresh, self._spare = self._spare, None
        if fresh is None:
            fresh = RecentTable(self._capacity)
        with self._changed:
            view = self._view
            view.tables[0].seal()
            self._view = IdView((fresh, *view.tables), view.runs)
            self._changed.notify_all()
        return fresh

    def _replace_active(self, table: Any) -> Any:
        with self._changed:
            view = self._view
            self._view = IdView((table, *view.tables[1:]), view.runs)
        return table

    def candidates(self, transfers: np.ndarray, skip_pending: np.ndarray | None = None) -> Any:
        """Return CANDIDATE rows for the ids of TRANSFER events that may exist in earlier blocks.

        Also for the pending ids of posts and voids, but for events whose ``skip_pending`` is set:
        the core holds those. About one id in a hundred that does not exist has a row as well.
        """
        return self._keys.candidates(self._view, transfers, skip_pending)

    # ---- any thread ----

    def candidates_of(self, ids: np.ndarray, namespace: int) -> Any:
        """Return CANDIDATE rows for those of a U128 array of ids that may exist, in order."""
        return self._keys.candidates_of(self._view, ids, namespace)

    def lookup(self, candidates: np.ndarray) -> Any:
        """Return HIT rows (``candidate, position, resolved``), in order, for CANDIDATE rows.

        ``candidate`` is the row's index. The entry at ``position`` created or burned the id, or,
        where ``resolved`` is set, posted, voided or expired the hold with that id; or it belongs to
        another id with the same hash. Raises DataDamaged, naming the chunk, and DiskFailed.
        """
        candidates = np.ascontiguousarray(candidates)
        while True:
            view = self._view
            parts = [view.recent_hits(candidates)]
            try:
                parts.extend(self._run_hits(view.runs, candidates))
            except _ChunkGone as gone:
                if view is not self._view:
                    continue  # The run was merged away meanwhile; the new view has its records.
                raise DataDamaged(f"index of ids: {gone} is missing") from gone
            hits = np.concatenate(parts)
            return hits[np.lexsort((hits["position"], hits["candidate"]))]

    def _run_hits(self, runs: tuple[Run, ...], candidates: np.ndarray) -> Iterator[np.ndarray]:
        chosen = [(run, run.filter.select(candidates)) for run in runs]
        chosen = [(run, places) for run, places in chosen if len(places)]
        if not chosen:
            return
        assert self._env is not None
        with self._translated(), self._env.begin(db=self._tree, buffers=True) as transaction:
            for run, places in chosen:
                hashes = candidates["hash"][places]
                order = np.argsort(hashes)
                places, hashes = places[order], hashes[order]
                chunks = np.searchsorted(run.fences, hashes, side="right") - 1
                # A hash below the first fence is in no chunk.
                first = int(np.searchsorted(chunks, 0))
                if first == len(chunks):
                    continue
                starts = (np.flatnonzero(np.diff(chunks[first:], prepend=-1)) + first).tolist()
                found: list[tuple[int, int]] = []
                for start, stop in zip(starts, [*starts[1:], len(chunks)], strict=True):
                    body, count = self._chunk(transaction, run, int(chunks[start]))
                    for place, reference in search_chunk(
                        body, count, hashes[start:stop], **run.packing
                    ):
                        found.append((int(places[start + place]), reference))
                if found:
                    rows = np.array(found, np.uint64)
                    yield as_hits(rows[:, 0], rows[:, 1])

    def _chunk(self, transaction: Any, run: Run, chunk: int) -> tuple[memoryview, int]:
        """Return a chunk's records, as they lie in the map, and their count."""
        what = f"chunk {chunk} of run {run.number}"
        key = _chunk_key(run.number, chunk)
        value = transaction.get(key)
        if value is None:
            raise _ChunkGone(what)
        if run.verified[chunk]:
            content = memoryview(value)[_DIGEST:]
        else:
            content = _content(key, value, what)
            run.verified[chunk] = 1
        (count,) = _CHUNK.unpack_from(content)
        return content[_CHUNK.size :], count

    # ---- the background thread, as others see it ----

    def maintain(self, durable_block: int) -> None:
        """Say that all blocks up to this one are durable, so that their ids may be written as runs.

        Returns at once. Raises what made the background thread fail, if anything did; a full disk
        does not: the thread tries again, and the ids wait in memory.
        """
        if self._env is None:
            return
        with self._changed:
            if self._failure is not None:
                raise self._failure
            self._durable = max(self._durable, durable_block)
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="ids", daemon=True)
                self._thread.start()
            elif not self._busy and self._has_work():
                self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all that ``maintain`` allows is written and merged; raise what failed.

        Raises DiskFull where it would wait for room on the disk.
        """
        if self._env is None:
            return
        self.maintain(-1)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._failure is not None
                    or self._full is not None
                    or self._stopping
                    or not (self._busy or self._has_work())
                )
            )
            if self._failure is not None:
                raise self._failure
            if self._full is not None:
                raise self._full

    def close(self) -> None:
        """Stop the background thread, before the caller closes the environment."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    # ---- the background thread ----

    def _has_work(self) -> bool:
        return bool(
            self._needs_spare()
            or self._garbage
            or self._flushable() is not None
            or self._mergeable(None)
        )

    def _needs_spare(self) -> bool:
        """Whether the next table should be made ready: to touch its memory takes milliseconds."""
        return self._spare is None and 2 * len(self._view.tables[0]) > self._capacity

    def _flushable(self) -> Any:
        """The oldest sealed table, if its blocks are durable."""
        tables = self._view.tables
        oldest = tables[-1]
        return oldest if len(tables) > 1 and oldest.last_block <= self._durable else None

    def _mergeable(self, below: int | None) -> list[Run]:
        """The runs of the lowest level that has enough of them, of those below a level."""
        levels: dict[int, list[Run]] = {}
        for run in self._view.runs:
            levels.setdefault(run.level, []).append(run)
        for level in sorted(levels):
            if (below is None or level < below) and len(levels[level]) >= FAN_OUT:
                return levels[level]
        return []

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or self._has_work())
                if self._stopping:
                    return
                self._busy = True
            try:
                with self._translated():
                    while self._garbage:
                        self._remove_chunks(self._garbage[-1])
                        self._garbage.pop()
                    self._work(None)
                self._full = None
            except _Stopped:
                pass
            except DiskFull as full:
                self._garbage.extend(self._unfinished)
                self._unfinished.clear()
                with self._changed:
                    self._full = full
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping, timeout=RETRY_S)
            except Exception as error:
                with self._changed:
                    self._failure = error
                    self._busy = False
                    self._changed.notify_all()
                return

    def _work(self, below: int | None) -> None:
        """Write tables and merge runs until nothing is due; called again from within a merge."""
        while True:
            if self._stopping:
                raise _Stopped
            if self._needs_spare():
                spare = RecentTable(self._capacity)
                with self._changed:
                    self._spare = spare
            if (table := self._flushable()) is not None:
                self._flush(table)
            elif runs := self._mergeable(below):
                self._merge(runs)
            else:
                return

    def _flush(self, table: Any) -> None:
        """Write a sealed table as a run and take it out of memory."""
        hashes, references = table.sorted_records()
        low, high = table.id_range
        writer = _RunWriter(
            self,
            level=0,
            count=len(hashes),
            base_block=table.first_block,
            last_block=table.last_block,
            index_bits=index_bits_of(references),
            low=low,
            high=high,
        )
        for start in range(0, len(hashes), WINDOW_RECORDS):
            part = slice(start, start + WINDOW_RECORDS)
            writer.add(hashes[part], references[part])
        largest = max(self._largest_in_runs, high)
        run = writer.finish(replaced=[], floor=table.last_block, largest=largest)
        self._largest_in_runs = largest
        with self._changed:
            view = self._view
            tables = tuple(other for other in view.tables if other is not table)
            self._view = IdView(tables, (*view.runs, run))
            self._floor = table.last_block
            self._changed.notify_all()

    def _merge(self, runs: list[Run]) -> None:
        """Write one run with the records of several, then remove those."""
        count = sum(run.count for run in runs)
        level = runs[0].level + 1
        writer = _RunWriter(
            self,
            level=level,
            count=count,
            base_block=min(run.base_block for run in runs),
            last_block=max(run.last_block for run in runs),
            index_bits=max(run.index_bits for run in runs),
            low=min(run.low for run in runs),
            high=max(run.high for run in runs),
        )
        cursors = [_RunCursor(self, run) for run in runs]
        windows = count // WINDOW_RECORDS + 1
        for window in range(windows):
            limit = ((window + 1) << 64) // windows
            parts = [cursor.take(limit) for cursor in cursors]
            while len(parts) > 1:
                parts.append(merge_records(parts.pop(0), parts.pop(0)))
            writer.add(*parts[0])
            self._work(runs[0].level)
        if writer.added != count:
            raise DataDamaged(
                f"index of ids: runs {[run.number for run in runs]} hold {writer.added} records,"
                f" not {count}"
            )
        merged = writer.finish(replaced=runs, floor=self._floor, largest=self._largest_in_runs)
        with self._changed:
            view = self._view
            kept = tuple(run for run in view.runs if run not in runs)
            self._view = IdView(view.tables, (*kept, merged))
            self._garbage.extend(run.number for run in runs)

    def _remove_chunks(self, run: int) -> None:
        """Remove the chunks and the filter of a run that is gone, a few in each transaction."""
        assert self._env is not None
        first = (_chunk_key(run, 0), _filter_key(run, 0))
        ends = (_chunk_key(run + 1, 0), _filter_key(run + 1, 0))
        for start, end in zip(first, ends, strict=True):
            more = True
            while more:
                if self._stopping:
                    raise _Stopped
                with self._env.begin(db=self._tree, write=True) as transaction:
                    cursor = transaction.cursor()
                    more = cursor.set_range(start) and cursor.key() < end
                    for _ in range(BATCH_BYTES // CHUNK_BYTES):
                        if not more:
                            break
                        more = cursor.delete() and cursor.key() < end

    # ---- LMDB ----

    def _translated(self) -> AbstractContextManager[None]:
        assert self._env is not None
        return translated(Path(self._env.path()))

    def _index_value(self, *, floor: int, largest: int) -> bytes:
        return _sealed(
            _INDEX_KEY,
            _INDEX.pack(FORMAT, 0, floor + 1, _u128(largest), self._next_run, self._instance),
        )

    def _load(self) -> tuple[Run, ...]:
        """Read what the environment holds; note what must be removed from it."""
        assert self._env is not None
        with self._env.begin(db=self._tree, buffers=True) as transaction:
            value = transaction.get(_INDEX_KEY)
            if value is not None:
                self._load_index(_content(_INDEX_KEY, value, "its head"))
            runs = []
            cursor = transaction.cursor()
            found = cursor.set_range(_run_key(0))
            while found and bytes(cursor.key()[:3]) == b"run":
                key = bytes(cursor.key())
                (number,) = struct.unpack(">Q", key[3:])
                runs.append(self._load_run(transaction, number, cursor.value()))
                found = cursor.next()
            if runs and value is None:
                raise DataDamaged("index of ids: there are runs, but its head is missing")
            covered = -1
            for run in sorted(runs, key=lambda run: run.base_block):
                if run.base_block != covered + 1:
                    break
                covered = run.last_block
            if covered != self._floor:
                raise DataDamaged(f"index of ids: no run has the ids after block {covered}")
            known = {run.number for run in runs}
            for prefix in (b"chunk", b"filter"):
                number = 0
                while cursor.set_range(prefix + struct.pack(">Q", number)):
                    key = bytes(cursor.key())
                    if not key.startswith(prefix):
                        break
                    (number,) = struct.unpack_from(">Q", key, len(prefix))
                    if number not in known and number not in self._garbage:
                        self._garbage.append(number)
                    number += 1
        self._next_run = max([self._next_run, *(n + 1 for n in (*known, *self._garbage))])
        return tuple(runs)

    def _load_index(self, content: memoryview) -> None:
        form, _, blocks, largest, next_run, instance = _INDEX.unpack(content)
        if form > FORMAT:
            raise FormatTooNew(f"index of ids: format {form}; this ledger reads {FORMAT}")
        if instance != self._instance:
            raise DataDamaged("index of ids: it belongs to another ledger")
        self._floor = blocks - 1
        self._largest_in_runs = int.from_bytes(largest, "little")
        self._next_run = next_run

    def _load_run(self, transaction: Any, number: int, value: Any) -> Run:
        content = _content(_run_key(number), value, f"the head of run {number}")
        (
            level,
            chunk_count,
            count,
            base_block,
            last_block,
            index_bits,
            width,
            low,
            high,
            word_count,
            _,
        ) = _RUN.unpack_from(content)
        words = np.empty(word_count, np.uint64)
        for part, start in enumerate(range(0, word_count, _FILTER_PART)):
            what = f"part {part} of the filter of run {number}"
            key = _filter_key(number, part)
            stored = transaction.get(key)
            if stored is None:
                raise DataDamaged(f"index of ids: {what} is missing")
            words[start : start + _FILTER_PART] = np.frombuffer(
                _content(key, stored, what), np.uint64
            )
        low, high = int.from_bytes(low, "little"), int.from_bytes(high, "little")
        return Run(
            number=number,
            level=level,
            count=count,
            base_block=base_block,
            last_block=last_block,
            index_bits=index_bits,
            width=width,
            low=low,
            high=high,
            fences=np.frombuffer(content[_RUN.size :], np.uint64, chunk_count).copy(),
            filter=Filter(words, low=low, high=high),
            verified=bytearray(chunk_count),
        )


class _RunWriter:
    """Writes one run from sorted records, chunk by chunk; it shows only when it is finished."""

    def __init__(
        self,
        index: IdIndex,
        *,
        level: int,
        count: int,
        base_block: int,
        last_block: int,
        index_bits: int,
        low: int,
        high: int,
    ) -> None:
        self.added = 0
        self._index = index
        self._number = index._next_run
        index._next_run += 1
        index._unfinished.append(self._number)
        self._level = level
        self._base_block = base_block
        self._last_block = last_block
        self._index_bits = index_bits
        self._low = low
        self._high = high
        self._width = reference_width(base_block, last_block, index_bits)
        self._chunk_records = (CHUNK_BYTES - _DIGEST - _CHUNK.size) // (8 + self._width)
        self._filter: Any = Filter.empty(count=count, bits_per_id=FILTER_BITS, low=low, high=high)
        self._hashes = np.empty(0, np.uint64)
        self._references = np.empty(0, np.uint64)
        self._fences: list[int] = []
        self._batch: list[tuple[bytes, bytes]] = []
        self._batch_bytes = 0

    def add(self, hashes: np.ndarray, references: np.ndarray) -> None:
        """Add records whose hashes are not below those added before."""
        self._filter.add(hashes)
        self.added += len(hashes)
        self._hashes = np.concatenate([self._hashes, hashes])
        self._references = np.concatenate([self._references, references])
        start = 0
        while len(self._hashes) - start > self._chunk_records:
            stop = self._cut(start)
            if stop == len(self._hashes):
                break  # The last hash may go on in the records to come.
            self._put_chunk(start, stop)
            start = stop
        self._hashes, self._references = self._hashes[start:], self._references[start:]

    def _cut(self, start: int) -> int:
        """Where the chunk from ``start`` ends: equal hashes are never parted."""
        hashes, stop = self._hashes, start + self._chunk_records
        last = hashes[stop - 1]
        if hashes[stop] != last:
            return int(stop)
        before = start + int(np.searchsorted(hashes[start:stop], last, side="left"))
        if before > start:
            return before
        return start + int(np.searchsorted(hashes[start:], last, side="right"))

    def _put_chunk(self, start: int, stop: int) -> None:
        hashes = self._hashes[start:stop]
        body = encode_chunk(
            hashes,
            self._references[start:stop],
            base_block=self._base_block,
            index_bits=self._index_bits,
            width=self._width,
        )
        key = _chunk_key(self._number, len(self._fences))
        self._fences.append(int(hashes[0]))
        self._put(key, _sealed(key, _CHUNK.pack(len(hashes)) + body))

    def _put(self, key: bytes, value: bytes) -> None:
        self._batch.append((key, value))
        self._batch_bytes += len(value)
        if self._batch_bytes >= BATCH_BYTES:
            assert self._index._env is not None
            with self._index._env.begin(db=self._index._tree, write=True) as transaction:
                self._write_batch(transaction)

    def _write_batch(self, transaction: Any) -> None:
        for key, value in self._batch:
            transaction.put(key, value)
        self._batch = []
        self._batch_bytes = 0

    def finish(self, *, replaced: list[Run], floor: int, largest: int) -> Run:
        """Write the rest; the last transaction shows the run in place of those it replaces."""
        if len(self._hashes):
            self._put_chunk(0, len(self._hashes))
        words = self._filter.words
        for part, start in enumerate(range(0, len(words), _FILTER_PART)):
            key = _filter_key(self._number, part)
            self._put(key, _sealed(key, words[start : start + _FILTER_PART].tobytes()))
        fences = np.array(self._fences, np.uint64)
        head = _RUN.pack(
            self._level,
            len(fences),
            self.added,
            self._base_block,
            self._last_block,
            self._index_bits,
            self._width,
            _u128(self._low),
            _u128(self._high),
            len(words),
            0,
        )
        key = _run_key(self._number)
        index = self._index
        assert index._env is not None
        with index._env.begin(db=index._tree, write=True) as transaction:
            self._write_batch(transaction)
            transaction.put(key, _sealed(key, head + fences.tobytes()))
            for run in replaced:
                transaction.delete(_run_key(run.number))
            transaction.put(_INDEX_KEY, index._index_value(floor=floor, largest=largest))
        index._unfinished.remove(self._number)
        return Run(
            number=self._number,
            level=self._level,
            count=self.added,
            base_block=self._base_block,
            last_block=self._last_block,
            index_bits=self._index_bits,
            width=self._width,
            low=self._low,
            high=self._high,
            fences=fences,
            filter=self._filter,
            verified=bytearray(len(fences)),
        )


class _RunCursor:
    """Reads a run from its first record on."""

    def __init__(self, index: IdIndex, run: Run) -> None:
        self._index = index
        self._run = run
        self._chunk = 0
        self._hashes = np.empty(0, np.uint64)
        self._references = np.empty(0, np.uint64)

    def take(self, limit: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the next records, those with hashes below ``limit``."""
        hashes, references = [self._hashes], [self._references]
        env, run = self._index._env, self._run
        assert env is not None
        with env.begin(db=self._index._tree, buffers=True) as transaction:
            while self._chunk < len(run.fences) and int(run.fences[self._chunk]) < limit:
                try:
                    body, count = self._index._chunk(transaction, run, self._chunk)
                except _ChunkGone as gone:
                    raise DataDamaged(f"index of ids: {gone} is missing") from gone
                more = decode_chunk(body, count, **run.packing)
                hashes.append(more[0])
                references.append(more[1])
                self._chunk += 1
        all_hashes, all_references = np.concatenate(hashes), np.concatenate(references)
        stop = len(all_hashes)
        if limit <= layout.U64_MAX:
            stop = int(np.searchsorted(all_hashes, np.uint64(limit), side="left"))
        self._hashes, self._references = all_hashes[stop:], all_references[stop:]
        return all_hashes[:stop], all_references[:stop]
