"""The archive of kept state roots: what every account was at each of them, tile by tile.

For each kept root it has the groups' fields, each tile's hash and sums, and the accounts that
changed since the kept root before it. A tile at a root is put together from the newest rows of
its accounts at or before that root; the values of a tile are linked backwards, and after DEPTH_MAX
of them one has all its accounts. docs/storage.md has the keys and values.

All of it follows from the journal. A root counts when its own value is there, which is written
last; what a crash left of another one is removed when the next is written.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from blake3 import blake3

from ledger import layout
from ledger._merkle import group_head
from ledger._state_tree import TILE_ACCOUNTS, ChangedTile, GroupRoot, StateRoot
from ledger.errors import DataDamaged
from ledger.storage.environment import open_environment, translated
from ledger.storage.pages import PAGE_BYTES
from ledger.storage.store import CHECKSUM_BYTES, Hook, no_hook

TREES: Final = ("roots", "groups", "tiles", "rows")
DEPTH_MAX: Final = 64
"""Values of a tile's rows that are looked through at most."""
CHUNK_TILES: Final = 256
"""Tiles whose hashes and sums are one value."""
BATCH_BYTES: Final = 8 << 20
"""What one transaction writes, about."""
CACHED_GROUPS: Final = 16

_NO_BLOCK: Final = layout.U64_MAX
_BLOCK: Final = struct.Struct(">Q")
_PLACE: Final = struct.Struct(">QBIHI")
"""Block, kind, ledger, code, tile (or chunk): the key in ``tiles`` and ``rows``."""
_PREVIOUS: Final = struct.Struct("<Q")
_COUNT: Final = struct.Struct("<I")
_FIELDS_BYTES: Final = 108
_FIELDS: Final = struct.Struct("<BxHIQ")
_BITMAP_BYTES: Final = TILE_ACCOUNTS // 8
_ERASED: Final = 1 << 15
_ROW_ERASED: Final = layout.flag_mask("STATE_ROW", "erased")
_LIMITED: Final = layout.flag_mask("ACCOUNT_SETTINGS", "overdraft", "ceiling")
_BALANCES: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")

Array = np.ndarray[Any, Any]
Get = Callable[[str, bytes], Any]
"""get(tree, key) -> bytes-like, good while the reader lasts, or None"""
Value = tuple[str, bytes, bytes]
Name = tuple[int, int, int]
"""Kind, ledger and code of a group."""


class Trees(Protocol):
    """Where the archive's values are: LMDB, or memory."""

    def write(self, step: str, values: list[Value]) -> None:
        """Write values in one transaction that is durable on return; raises DiskFull,
        DiskFailed."""
        ...

    def reader(self) -> AbstractContextManager[Get]:
        """Return a consistent view, on any thread."""
        ...

    def roots(self) -> Iterable[tuple[bytes, Any]]:
        """Yield keys and values of the tree ``roots``, in order."""
        ...

    def remove_after(self, key: bytes) -> None:
        """Remove everything whose key begins with a later block than ``key`` names."""
        ...

    def clear(self) -> None:
        """Forget everything."""
        ...

    @property
    def size_bytes(self) -> int: ...
    @property
    def transaction_count(self) -> int: ...
    def close(self) -> None: ...


class LmdbTrees:
    """The trees of the archive in an LMDB environment of their own."""

    def __init__(self, path: Path, *, hook: Hook = no_hook) -> None:
        self._path = path
        self._hook = hook
        self._environment, self._trees = open_environment(path, trees=TREES)
        self._size_bytes = self._transactions = 0
        self._measure()

    def _measure(self) -> None:
        # Asked for by threads that may find the environment closed.
        info = self._environment.info()
        self._size_bytes = (int(info["last_pgno"]) + 1) * PAGE_BYTES
        self._transactions = int(info["last_txnid"])

    def write(self, step: str, values: list[Value]) -> None:
        """See ``Trees``."""
        self._hook(step, "before")
        with translated(self._path), self._environment.begin(write=True) as transaction:
            for tree, key, value in values:
                transaction.put(key, value, db=self._trees[tree])
        self._measure()
        self._hook(step, "after")

    @contextmanager
    def reader(self) -> Iterator[Get]:
        """See ``Trees``."""
        with translated(self._path), self._environment.begin(buffers=True) as transaction:
            yield lambda tree, key: transaction.get(key, db=self._trees[tree])

    def roots(self) -> Iterator[tuple[bytes, Any]]:
        """See ``Trees``."""
        with translated(self._path), self._environment.begin(buffers=True) as transaction:
            for key, value in transaction.cursor(db=self._trees["roots"]):
                yield bytes(key), value

    def remove_after(self, key: bytes) -> None:
        """See ``Trees``."""
        later = _BLOCK.pack(_BLOCK.unpack(key)[0] + 1)
        for name in TREES:
            while self._has(name, later):
                with translated(self._path), self._environment.begin(write=True) as transaction:
                    cursor, removed = transaction.cursor(db=self._trees[name]), 0
                    found = cursor.set_range(later)
                    while found and removed < BATCH_BYTES:
                        removed += len(cursor.value())
                        found = cursor.delete()

    def _has(self, name: str, key: bytes) -> bool:
        with translated(self._path), self._environment.begin() as transaction:
            return bool(transaction.cursor(db=self._trees[name]).set_range(key))

    def clear(self) -> None:
        """See ``Trees``."""
        with translated(self._path), self._environment.begin(write=True) as transaction:
            for tree in self._trees.values():
                transaction.drop(tree, delete=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of the file in use."""
        return self._size_bytes

    @property
    def transaction_count(self) -> int:
        """Transactions committed since the environment was made."""
        return self._transactions

    def close(self) -> None:
        """Unmap the file."""
        self._environment.close()


class MemoryTrees:
    """The trees of the archive in a dict, which a memory disk keeps."""

    def __init__(self, values: dict[tuple[str, bytes], bytes], *, hook: Hook = no_hook) -> None:
        self._values = values
        self._hook = hook

    def write(self, step: str, values: list[Value]) -> None:
        """See ``Trees``."""
        self._hook(step, "before")
        self._values.update({(tree, key): value for tree, key, value in values})
        self._hook(step, "after")

    @contextmanager
    def reader(self) -> Iterator[Get]:
        """See ``Trees``."""
        yield lambda tree, key: self._values.get((tree, key))

    def roots(self) -> Iterator[tuple[bytes, Any]]:
        """See ``Trees``."""
        for tree, key in sorted(self._values):
            if tree == "roots":
                yield key, self._values[tree, key]

    def remove_after(self, key: bytes) -> None:
        """See ``Trees``."""
        for name in [name for name in self._values if name[1][: _BLOCK.size] > key]:
            del self._values[name]

    def clear(self) -> None:
        """See ``Trees``."""
        self._values.clear()

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(len(key) + len(value) for (_, key), value in self._values.items())

    transaction_count = 0

    def close(self) -> None:
        """Nothing is open."""


# ----------------------------------------------------------------------------------------------
# Values
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptRoot:
    """A kept state root: of which block, and when that was."""

    block: int
    timestamp: int
    business_date: int
    root: bytes
    previous: int
    """Block of the kept root before it; -1 for none."""
    account_count: int
    group_count: int


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """One group of a kept root; ``fields`` and ``head`` as in ``GroupRoot``."""

    kind: int
    ledger: int
    code: int
    account_count: int
    fields: bytes
    head: bytes
    chunk_blocks: tuple[int, ...]
    """For each chunk of tiles the kept root under which it is stored."""

    @property
    def tile_count(self) -> int:
        """Tiles of the group."""
        return -int(-self.account_count // TILE_ACCOUNTS)


def _fields_of(group: KeptGroup | GroupRoot) -> Name:
    return group.kind, group.ledger, group.code


def _scattered(positions: Array, size: int) -> Array:
    mask = np.zeros(size, np.bool_)
    mask[positions] = True
    return mask


def _pack_rows(rows: Array) -> tuple[Array, Array]:
    """Return the KEPT_ROW rows of STATE_ROW rows, and the KEPT_LIMITS of those that have any."""
    leaves = np.ascontiguousarray(rows["message"]).view(layout.ACCOUNT_LEAF).reshape(-1)
    packed = np.zeros(len(rows), layout.KEPT_ROW)
    packed["slot"] = rows["slot"]
    packed["flags"], packed["state"] = leaves["flags"], leaves["state"]
    for name in ("entry_count", "head", *_BALANCES):
        packed[name] = leaves[name]
    erased = np.flatnonzero(rows["flags"] & _ROW_ERASED)
    if len(erased):
        # Of an erased account the message is its leaf, a word, and two balances as stated.
        message = rows["message"][erased]
        gone = np.zeros(len(erased), layout.KEPT_ROW)
        gone["slot"], gone["state"], gone["head"] = rows["slot"][erased], _ERASED, message[:, :32]
        for name, at in (("debits_posted", 80), ("credits_posted", 96)):
            gone[name] = _u128(message[:, at : at + 16])
        packed[erased] = gone
    limited = leaves[_limited(packed["state"])]
    limits = np.zeros(len(limited), layout.KEPT_LIMITS)
    limits["overdraft"], limits["ceiling"] = limited["overdraft"], limited["ceiling"]
    return packed, limits


def _limited(state: Array) -> Array:
    """Return which rows have limits of their own (a mask of the fields ``state``)."""
    mask: Array = ((state & _LIMITED) != 0) & ((state & _ERASED) == 0)
    return mask


def _u128(data: Array) -> Array:
    return np.ascontiguousarray(data).view(layout.U128).reshape(-1)


class Tile:
    """The rows of one tile as the archive has them, being put together."""

    __slots__ = ("limits", "present", "rows")

    def __init__(self) -> None:
        self.present = np.zeros(TILE_ACCOUNTS, np.bool_)
        self.rows = np.zeros(TILE_ACCOUNTS, layout.KEPT_ROW)
        self.limits = np.zeros(TILE_ACCOUNTS, layout.KEPT_LIMITS)

    def add_older(self, places: Array, rows: Array, limits: Array) -> None:
        """Take the rows at ``places`` that are not there yet; ``limits`` are those of the rows that
        have any."""
        own = np.zeros(len(rows), layout.KEPT_LIMITS)
        own[_limited(rows["state"])] = limits
        new = ~self.present[places]
        chosen = places[new]
        self.rows[chosen], self.limits[chosen] = rows[new], own[new]
        self.present[chosen] = True

    def content(self) -> bytes:
        """Return the value of a tile that needs no older one."""
        rows = self.rows[self.present]
        limits = self.limits[self.present][_limited(rows["state"])]
        return _tile_value(_NO_BLOCK, np.packbits(self.present, bitorder="little"), rows, limits)


def _tile_value(previous: int, bitmap: Array, rows: Array, limits: Array) -> bytes:
    return b"".join((_PREVIOUS.pack(previous), bitmap.tobytes(), rows.tobytes(), limits.tobytes()))


def _rows_of(content: memoryview) -> tuple[int, Array, Array, Array]:
    """Return (block of the value before or -1, places, KEPT_ROW rows, KEPT_LIMITS of those with
    limits) of a value of ``rows``."""
    head = _PREVIOUS.size + _BITMAP_BYTES
    (previous,) = _PREVIOUS.unpack_from(content)
    bitmap = np.frombuffer(content[_PREVIOUS.size : head], np.uint8)
    places = np.flatnonzero(np.unpackbits(bitmap, bitorder="little"))
    end = head + len(places) * layout.KEPT_ROW.itemsize
    rows = np.frombuffer(content[head:end], layout.KEPT_ROW)
    limits = np.frombuffer(content[end:], layout.KEPT_LIMITS)
    return (-1 if previous == _NO_BLOCK else previous), places, rows, limits


# ----------------------------------------------------------------------------------------------
# The archive
# ----------------------------------------------------------------------------------------------


class KeptRoots:
    """The kept state roots of a ledger. Reading is for any thread, writing for one.

    ``identify`` is ``Core.identities``: ids and state salts of slots. Raises DataDamaged when
    opened on an archive of which a root is damaged or missing.
    """

    def __init__(self, trees: Trees, instance: bytes, *, batch_bytes: int = BATCH_BYTES) -> None:
        self._trees = trees
        self._instance = instance
        self.batch_bytes = batch_bytes
        self.identify: Callable[[Array], tuple[Array, Array]] | None = None
        self._groups: dict[int, tuple[KeptGroup, ...]] = {}
        self._groups_lock = threading.Lock()
        self._kept: tuple[KeptRoot, ...] = ()
        self._by_block: dict[int, KeptRoot] = {}
        self._load()

    def _load(self) -> None:
        previous, kept = -1, []
        for key, value in self._trees.roots():
            content = self._content("roots", key, value)
            row = np.frombuffer(content, layout.KEPT_ROOT)[0]
            root = _kept_root(int(_BLOCK.unpack(key)[0]), row)
            if root.previous != previous:
                raise DataDamaged(f"the state root of block {root.previous} is missing")
            kept.append(root)
            previous = root.block
        self._kept = tuple(kept)
        self._by_block = {root.block: root for root in kept}

    # ---- reading ----

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def newest(self) -> KeptRoot | None:
        """The last kept root."""
        kept = self._kept
        return kept[-1] if kept else None

    @property
    def newest_block(self) -> int:
        """Block of the last kept root; -1 for none."""
        kept = self._kept
        return kept[-1].block if kept else -1

    @property
    def size_bytes(self) -> int:
        """Bytes that the archive takes."""
        return self._trees.size_bytes

    @property
    def transaction_count(self) -> int:
        """Transactions committed since the archive was made."""
        return self._trees.transaction_count

    def blocks(self) -> list[tuple[int, int, int, bytes]]:
        """Return (block, timestamp ns, business date, root) of every kept root, oldest first."""
        return [(kept.block, kept.timestamp, kept.business_date, kept.root) for kept in self._kept]

    def kept(self, block: int) -> KeptRoot | None:
        """Return the kept root of a block; None when there is none."""
        return self._by_block.get(block)

    def groups(self, block: int) -> tuple[KeptGroup, ...]:
        """Return the groups of a kept root, in order of (kind, ledger, code); raise LookupError
        when the block has none, DataDamaged when it cannot be read."""
        with self._groups_lock:
            found = self._groups.get(block)
        if found is None:
            self._require(block)
            with self._trees.reader() as get:
                found = self._read_groups(get, block)
            with self._groups_lock:
                while len(self._groups) >= CACHED_GROUPS:
                    del self._groups[next(iter(self._groups))]
                self._groups[block] = found
        return found

    def tile_sums(self, block: int, group_place: int) -> Array:
        """Return hash 32 and sums 60 of every tile of a group: an ``(n, 92)`` array of bytes."""
        group = self._group(block, group_place)
        with self._trees.reader() as get:
            entries = self._read_tiles(get, group)
        return _sums_of(entries)

    def tile(self, block: int, group_place: int, tile: int) -> Array:
        """Return the accounts of a tile as they were at a kept root, in order of ordinals.

        STATE_ROW rows, 256 or, in the last tile, fewer. Their ``last_position`` is 0: the archive
        does not have it. Raises LookupError for a root, group or tile that is not there.
        """
        group = self._group(block, group_place)
        if not 0 <= tile < group.tile_count:
            raise LookupError(f"group {group_place} at block {block} has no tile {tile}")
        with self._trees.reader() as get:
            chunk = self._read_chunk(get, group, tile // CHUNK_TILES)
            found = self._collect(get, group, tile, int(chunk["rows_block"][tile % CHUNK_TILES]))
        return self._state_rows(group, tile, found)

    def written_tiles(self, block: int, group_place: int) -> list[int]:
        """Return the tiles of a group that have rows of their own under a kept root."""
        group = self._group(block, group_place)
        with self._trees.reader() as get:
            entries = self._read_tiles(get, group)
        written: list[int] = np.flatnonzero(entries["rows_block"] == block).tolist()
        return written

    def rows(self, block: int) -> Iterator[Array]:
        """Yield the accounts of a kept root tile by tile, in order of groups and ordinals; see
        ``tile``."""
        for place, group in enumerate(self.groups(block)):
            for tile in range(group.tile_count):
                yield self.tile(block, place, tile)

    def _require(self, block: int) -> KeptRoot:
        kept = self._by_block.get(block)
        if kept is None:
            raise LookupError(f"block {block} has no kept state root")
        return kept

    def _group(self, block: int, place: int) -> KeptGroup:
        groups = self.groups(block)
        if not 0 <= place < len(groups):
            raise LookupError(f"the state root of block {block} has no group {place}")
        return groups[place]

    def _read_groups(self, get: Get, block: int) -> tuple[KeptGroup, ...]:
        content, groups, at = self._get(get, "groups", _BLOCK.pack(block)), [], 0
        while at < len(content):
            fields = bytes(content[at : at + _FIELDS_BYTES])
            kind, code, ledger, account_count = _FIELDS.unpack_from(fields)
            at += _FIELDS_BYTES
            (chunks,) = _COUNT.unpack_from(content, at)
            at += _COUNT.size
            blocks = struct.unpack_from(f"<{chunks}Q", content, at)
            at += 8 * chunks
            head = group_head(fields)
            groups.append(KeptGroup(kind, ledger, code, account_count, fields, head, blocks))
        return tuple(groups)

    def _read_chunk(self, get: Get, group: KeptGroup, chunk: int) -> Array:
        key = _PLACE.pack(group.chunk_blocks[chunk], *_fields_of(group), chunk)
        return np.frombuffer(self._get(get, "tiles", key), layout.KEPT_TILE)

    def _read_tiles(self, get: Get, group: KeptGroup) -> Array:
        chunks = [
            self._read_chunk(get, group, number).tobytes()
            for number in range(len(group.chunk_blocks))
        ]
        return np.frombuffer(b"".join(chunks), layout.KEPT_TILE)

    def _collect(self, get: Get, group: KeptGroup | GroupRoot, tile: int, block: int) -> Tile:
        """Put a tile together from its newest value, that of a kept root, backwards."""
        found, seen = Tile(), 0
        while block >= 0:
            key = _PLACE.pack(block, *_fields_of(group), tile)
            before, places, rows, limits = _rows_of(self._get(get, "rows", key))
            seen += 1
            if before >= block or seen > DEPTH_MAX + 1:
                raise DataDamaged(f"the archive of state roots: tile {tile} runs in a circle")
            found.add_older(places, rows, limits)
            block = before
        return found

    def _state_rows(self, group: KeptGroup, tile: int, found: Tile) -> Array:
        count = min(TILE_ACCOUNTS, group.account_count - tile * TILE_ACCOUNTS)
        if not found.present[:count].all():
            raise DataDamaged(
                f"the archive of state roots: tile {tile} of group {_fields_of(group)} lacks"
                f" account {int(np.argmin(found.present[:count]))}"
            )
        assert self.identify is not None
        rows, limits = found.rows[:count], found.limits[:count]
        ids, salts = self.identify(np.ascontiguousarray(rows["slot"]))
        ordinals = np.arange(count, dtype=np.uint64) + np.uint64(tile * TILE_ACCOUNTS)
        leaves = np.zeros(count, layout.ACCOUNT_LEAF)
        leaves["id"], leaves["state_salt"], leaves["ordinal"] = ids, salts, ordinals
        leaves["kind"], leaves["ledger"], leaves["code"] = _fields_of(group)
        for name in ("flags", "state", "entry_count", "head", *_BALANCES):
            leaves[name] = rows[name]
        leaves["overdraft"], leaves["ceiling"] = limits["overdraft"], limits["ceiling"]
        out = np.zeros(count, layout.STATE_ROW)
        out["message"] = leaves.view(np.uint8).reshape(count, -1)
        for place in np.flatnonzero(rows["state"] & _ERASED).tolist():
            row = rows[place]
            out["flags"][place] = _ROW_ERASED
            message = np.zeros(192, np.uint8)
            message[:32] = row["head"]
            message[32:38] = np.frombuffer(b"erased", np.uint8)
            message[80:96] = np.frombuffer(row["debits_posted"].tobytes(), np.uint8)
            message[96:112] = np.frombuffer(row["credits_posted"].tobytes(), np.uint8)
            out["message"][place] = message
        out["slot"], out["ordinal"] = rows["slot"], ordinals
        out["kind"], out["ledger"], out["code"] = _fields_of(group)
        return out

    # ---- checksums ----

    def _digest(self, tree: str, key: bytes, content: bytes | memoryview) -> bytes:
        hasher = blake3(self._instance + tree.encode() + key)
        return bytes(hasher.update(content).digest(length=CHECKSUM_BYTES))

    def _seal(self, tree: str, key: bytes, content: bytes) -> Value:
        return tree, key, self._digest(tree, key, content) + content

    def _content(self, tree: str, key: bytes, value: Any) -> memoryview:
        content = memoryview(value)[CHECKSUM_BYTES:]
        if self._digest(tree, key, content) != bytes(value[:CHECKSUM_BYTES]):
            raise DataDamaged(
                f"the archive of state roots: {tree} {key.hex()} does not have its checksum"
            )
        return content

    def _get(self, get: Get, tree: str, key: bytes) -> memoryview:
        value = get(tree, key)
        if value is None:
            raise DataDamaged(f"the archive of state roots: {tree} {key.hex()} is missing")
        # A value's rows are small, and the reader may end before they are used.
        return memoryview(bytes(self._content(tree, key, value)))

    # ---- writing, by one thread ----

    def writer(self, *, block: int, timestamp: int, business_date: int) -> RootWriter:
        """Begin to write the root of a block after the newest one; what a crash left of another is
        removed."""
        if block <= self.newest_block:
            raise ValueError(f"block {block} is not after the kept root of {self.newest_block}")
        return RootWriter(self, block, timestamp, business_date)

    def _remove_left_overs(self) -> None:
        if self._kept:
            self._trees.remove_after(_BLOCK.pack(self.newest_block))
        else:
            self._trees.clear()

    def _take(self, kept: KeptRoot) -> None:
        """The root is durable: show it."""
        self._by_block = {**self._by_block, kept.block: kept}
        self._kept = (*self._kept, kept)

    def clear(self) -> None:
        """Forget all roots, in one transaction."""
        self._trees.clear()
        self._kept, self._by_block = (), {}
        with self._groups_lock:
            self._groups.clear()

    def close(self) -> None:
        """Give the environment up."""
        self._trees.close()


def _kept_root(block: int, row: Any) -> KeptRoot:
    previous = int(row["previous"])
    return KeptRoot(
        block=block,
        timestamp=int(row["timestamp"]),
        business_date=int(row["business_date"]),
        root=row["root"].tobytes(),
        previous=-1 if previous == _NO_BLOCK else previous,
        account_count=int(row["account_count"]),
        group_count=int(row["group_count"]),
    )


def _sums_of(entries: Array) -> Array:
    out = np.empty((len(entries), 92), np.uint8)
    out[:, :32], out[:, 32:] = entries["digest"], entries["sums"]
    return out


class RootWriter:
    """Writes one root: the tiles that changed as they come, the root itself last.

    After DiskFull ``flush`` may be tried again; nothing is lost.
    """

    def __init__(self, archive: KeptRoots, block: int, timestamp: int, business_date: int) -> None:
        self._archive = archive
        self._trees = archive._trees
        self._block = block
        self._timestamp = timestamp
        self._business_date = business_date
        self._waiting: list[Value] = []
        self._waiting_bytes = 0
        self._done: KeptRoot | None = None
        self._step = "root_rows"
        self._first = True
        self._written: dict[Name, dict[int, int]] = {}
        """Of each group the tiles with new rows: how deep they are."""
        self._before: dict[Name, Array] = {}
        newest = archive.newest_block
        self._groups_before: Mapping[Name, KeptGroup] = (
            {_fields_of(group): group for group in archive.groups(newest)} if newest >= 0 else {}
        )

    def add(self, changed: list[ChangedTile]) -> None:
        """Take changed tiles, each once. ``flush`` writes them when they are enough."""
        if not changed:
            return
        joined = b"".join(tile.rows.tobytes() for tile in changed)
        rows = np.frombuffer(joined, layout.STATE_ROW)
        packed, limits = _pack_rows(rows)
        ends = np.cumsum([len(tile.rows) for tile in changed])
        limits_before = np.concatenate(([0], np.cumsum(_limited(packed["state"]))))
        places = (rows["ordinal"] % np.uint64(TILE_ACCOUNTS)).astype(np.int64)
        start = 0
        for tile, end in zip(changed, ends.tolist(), strict=True):
            own_limits = limits[limits_before[start] : limits_before[end]]
            self._add_tile(tile, places[start:end], packed[start:end], own_limits)
            start = end

    def _add_tile(self, tile: ChangedTile, places: Array, rows: Array, limits: Array) -> None:
        name = (tile.kind, tile.ledger, tile.code)
        before = self._tiles_before(name)
        previous, depth = _NO_BLOCK, 0
        if tile.tile < len(before):
            previous = int(before["rows_block"][tile.tile])
            depth = int(before["depth"][tile.tile]) + 1
        if depth > DEPTH_MAX:
            whole, depth = Tile(), 0
            whole.add_older(places, rows, limits)
            with self._trees.reader() as get:
                group = self._groups_before[name]
                older = self._archive._collect(get, group, tile.tile, previous)
            kept = older.present
            older_limits = older.limits[kept][_limited(older.rows["state"][kept])]
            whole.add_older(np.flatnonzero(kept), older.rows[kept], older_limits)
            content = whole.content()
        else:
            bitmap = np.packbits(_scattered(places, TILE_ACCOUNTS), bitorder="little")
            content = _tile_value(previous, bitmap, rows, limits)
        self._written.setdefault(name, {})[tile.tile] = depth
        self._put("rows", _PLACE.pack(self._block, *name, tile.tile), content)

    def _tiles_before(self, name: Name) -> Array:
        """Return the KEPT_TILE rows of a group at the kept root before; none for a new group."""
        found = self._before.get(name)
        if found is None:
            group = self._groups_before.get(name)
            if group is None:
                found = np.zeros(0, layout.KEPT_TILE)
            else:
                with self._trees.reader() as get:
                    found = self._archive._read_tiles(get, group)
            self._before[name] = found
        return found

    def _put(self, tree: str, key: bytes, content: bytes) -> None:
        value = self._archive._seal(tree, key, content)
        self._waiting.append(value)
        self._waiting_bytes += len(value[2])

    @property
    def full(self) -> bool:
        """Whether as much waits as one transaction should write."""
        return self._waiting_bytes >= self._archive.batch_bytes

    def flush(self) -> None:
        """Write what waits, in one transaction; after ``finish`` that makes the root count."""
        if self._first:
            self._archive._remove_left_overs()
            self._first = False
        if self._waiting:
            self._trees.write(self._step, self._waiting)
            self._waiting, self._waiting_bytes = [], 0
        if self._done is not None:
            self._archive._take(self._done)
            self._done = None

    def finish(self, state: StateRoot) -> None:
        """Take the root with the rest of its changed tiles; then ``flush`` writes the end."""
        if state.block != self._block:
            raise ValueError(f"the root of block {state.block} where {self._block} was begun")
        self.add(state.changed)
        content = b"".join(self._group_content(group) for group in state.groups)
        key = _BLOCK.pack(self._block)
        self._put("groups", key, content)
        previous = self._archive.newest_block
        row = np.zeros(1, layout.KEPT_ROOT)
        row["root"][0] = np.frombuffer(state.root, np.uint8)
        row["previous"] = _NO_BLOCK if previous < 0 else previous
        row["timestamp"] = self._timestamp
        row["business_date"] = self._business_date
        row["group_count"] = len(state.groups)
        row["account_count"] = sum(group.account_count for group in state.groups)
        self._put("roots", key, row.tobytes())
        self._done = _kept_root(self._block, row[0])
        self._step = "root"

    def _group_content(self, group: GroupRoot) -> bytes:
        """Put the chunks of a group's tiles that changed; return what the root says of the
        group."""
        name = _fields_of(group)
        before = self._tiles_before(name)
        tiles = np.zeros(len(group.tiles), layout.KEPT_TILE)
        tiles["digest"], tiles["sums"] = group.tiles[:, :32], group.tiles[:, 32:]
        tiles["rows_block"][: len(before)] = before["rows_block"]
        tiles["depth"][: len(before)] = before["depth"]
        written = self._written.get(name, {})
        if written:
            places = np.fromiter(written.keys(), np.int64, len(written))
            tiles["rows_block"][places] = self._block
            tiles["depth"][places] = np.fromiter(written.values(), np.uint32, len(written))
        older = self._groups_before.get(name)
        blocks = []
        for chunk in range(-(-len(tiles) // CHUNK_TILES)):
            piece = slice(chunk * CHUNK_TILES, (chunk + 1) * CHUNK_TILES)
            content = tiles[piece].tobytes()
            if older is not None and before[piece].tobytes() == content:
                blocks.append(older.chunk_blocks[chunk])
                continue
            blocks.append(self._block)
            self._put("tiles", _PLACE.pack(self._block, *name, chunk), content)
        chunks = struct.pack(f"<{len(blocks)}Q", *blocks)
        return b"".join((group.fields, _COUNT.pack(len(blocks)), chunks))
