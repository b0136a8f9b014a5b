"""The outer log: an RFC 6962 tree over interval records, kept as the static files of C2SP
tlog-tiles.

::

    DIR/log/checkpoint                    the newest published checkpoint
    DIR/log/tile/entries/000[.p/7]        records, each after its size (u16, big-endian)
    DIR/log/tile/<level>/x001/234[.p/7]   hashes

A file holds 256 of them, with the ending ``.p/7`` the first seven.

Everything is derived: the tiles from the records, the records from the journal. A full file is
durable before the partial ones that it replaces are removed; partial ones are not synced, since the
start compares the last of them with the journal anyway.
"""

from __future__ import annotations

import re
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from ledger.errors import DataDamaged
from ledger.proof import tree
from ledger.proof.files import NEW, Hook, failed, no_hook, write_file
from ledger.proof.interval import Record, parse_record
from ledger.proof.notes import BadNote, Checkpoint, encode_base64, parse_checkpoint, parse_note

T = TypeVar("T")
U = TypeVar("U")

WIDTH: Final = 256
"""Hashes in a full tile, and records in a full bundle."""
HASH_BYTES: Final = 32
LOG: Final = "log"
"""The folder of the log in the data directory."""
CHECKPOINT: Final = "checkpoint"
ENTRIES: Final = "entries"
PROOF_FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
_CACHED_TILES: Final = 256
_CACHED_BUNDLES: Final = 64
_REMEMBERED_STARTS: Final = 1 << 16
_ADVICE: Final = "remove the folder: the next start makes it again from the journal"

TILE_PATH: Final = re.compile(
    r"(?P<level>entries|[0-9]|[1-5][0-9]|6[0-3])/(?P<number>(?:x[0-9]{3}/)*[0-9]{3})"
    r"(?:\.p/(?P<width>[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))?"
)
"""What can follow ``/tile/`` in the address of a file."""


def number_path(number: int) -> str:
    """Return a tile's number as a path: 1234067 is x001/x234/067."""
    path = f"{number % 1000:03d}"
    while number := number // 1000:
        path = f"x{number % 1000:03d}/{path}"
    return path


@dataclass(frozen=True, slots=True)
class _Tip:
    """The tree's right edge at one size. Never changed, so a reader needs no lock."""

    size: int
    edges: tuple[tuple[bytes, ...], ...]
    """For each level the hashes of its last, partial tile; the highest level has one or more."""
    records: tuple[bytes, ...]
    """The records of the last, partial bundle."""


_EMPTY: Final = _Tip(0, ((),), ())


class OuterLog:
    """The log in one directory. One thread appends and publishes; any thread reads."""

    def __init__(self, directory: Path, *, hook: Hook = no_hook) -> None:
        """Load what is there and mend what follows from the records; raises DiskFailed.

        The log may be shorter afterwards than it was: the publisher appends what is missing.
        """
        self.directory = directory
        self._tiles = directory / "tile"
        self._hook = hook
        self._tip = _EMPTY
        self._checkpoint: str | None = None
        self._partial: dict[int | str, tuple[int, int]] = {}
        """Number and width of the partial file last written at each level."""
        self._cache_lock = Lock()
        self._tile_cache: OrderedDict[tuple[int, int], list[list[bytes]]] = OrderedDict()
        self._bundle_cache: OrderedDict[int, tuple[bytes, ...]] = OrderedDict()
        self._starts: dict[int, Record] = {}
        self.reload()

    # ------------------------------------------------------------------------------------------
    # Reading
    # ------------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Records in the log, those that no checkpoint covers yet among them."""
        return self._tip.size

    def record(self, index: int) -> str:
        """Return the text of a record; raise IndexError when there is none, DataDamaged when its
        file is missing or wrong.
        """
        return self._record(self._tip, index).decode()

    def last_record(self) -> Record | None:
        """Return the last record, None in an empty log."""
        tip = self._tip
        return parse_record(self._record(tip, tip.size - 1).decode()) if tip.size else None

    def root(self, size: int | None = None) -> bytes:
        """Return the root hash of the tree of the first ``size`` records, by default of all."""
        tip = self._tip
        size = tip.size if size is None else size
        if not 0 <= size <= tip.size:
            raise IndexError(f"the log has {tip.size} records, not {size}")
        return self._hash(tip, 0, size) if size else tree.EMPTY_ROOT

    def path(self, index: int, size: int) -> list[bytes]:
        """Return the inclusion path of a record in the tree of ``size`` records.

        Raises IndexError when there is no such record, DataDamaged when the stored hashes do not
        lead from the record to the root.
        """
        tip = self._tip
        if not 0 <= index < size <= tip.size:
            raise IndexError(f"no record {index} in a tree of {size}; the log has {tip.size}")
        path = tree.inclusion_path(index, size, lambda start, end: self._hash(tip, start, end))
        leaf = tree.leaf_hash(self._record(tip, index))
        root = self._hash(tip, 0, size)
        if not tree.inclusion_holds(leaf, index=index, size=size, path=path, root=root):
            raise DataDamaged(f"{self._tiles}: the hashes are not those of the records: {_ADVICE}")
        return path

    def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof that the tree of ``new`` records begins with that of ``old``; raises
        IndexError for sizes that are not old <= new <= size.
        """
        tip = self._tip
        if not 0 <= old <= new <= tip.size:
            raise IndexError(f"no consistency from {old} to {new}; the log has {tip.size} records")
        return tree.consistency_path(old, new, lambda start, end: self._hash(tip, start, end))

    def interval_of_block(self, block: int) -> int | None:
        """Return the index of the record whose interval has a block, None when none has it yet."""
        index = self._first(lambda record: record.last_block >= block)
        return index if block >= 0 else None

    def interval_of_state(self, block: int) -> int | None:
        """Return the index of the first record that names the state root of a block, None when
        none does.
        """
        index = self._first(lambda record: record.state is not None and record.state.block >= block)
        if index is None:
            return None
        state = parse_record(self.record(index)).state
        return index if state is not None and state.block == block else None

    def checkpoint(self) -> str | None:
        """Return the newest published checkpoint, a signed note; None before the first."""
        return self._checkpoint

    def tlog_proof(self, index: int, note: str) -> str:
        """Return the C2SP tlog-proof of a record under a checkpoint of this log; raises as ``path``
        does, and BadNote.
        """
        size = parse_checkpoint(parse_note(note).text).size
        path = "".join(f"{encode_base64(one)}\n" for one in self.path(index, size))
        return f"{PROOF_FIRST_LINE}\nindex {index}\n{path}\n{note}"

    def _record(self, tip: _Tip, index: int) -> bytes:
        if not 0 <= index < tip.size:
            raise IndexError(f"no record {index}; the log has {tip.size}")
        number, place = divmod(index, WIDTH)
        full = number < tip.size // WIDTH
        return (self._bundle(number) if full else tip.records)[place]

    def _first(self, holds: Callable[[Record], bool]) -> int | None:
        """Return the first index whose record fulfils a condition that, once true, stays true."""
        tip = self._tip
        low, high = 0, -(-tip.size // WIDTH)
        while low < high:  # the number of bundles that begin before it holds
            middle = (low + high) // 2
            if holds(self._start(tip, middle)):
                high = middle
            else:
                low = middle + 1
        low, high = max(0, (low - 1) * WIDTH), min(tip.size, low * WIDTH + 1)
        while low < high:
            middle = (low + high) // 2
            if holds(parse_record(self._record(tip, middle).decode())):
                high = middle
            else:
                low = middle + 1
        return low if low < tip.size else None

    def _start(self, tip: _Tip, number: int) -> Record:
        """Return the first record of a bundle."""
        found = self._starts.get(number)
        if found is None:
            found = parse_record(self._record(tip, number * WIDTH).decode())
            if number < tip.size // WIDTH:
                if len(self._starts) >= _REMEMBERED_STARTS:
                    self._starts.clear()
                self._starts[number] = found
        return found

    def _hash(self, tip: _Tip, start: int, end: int) -> bytes:
        """Return the hash of the tree over the leaves from ``start`` to ``end``, which are a node
        of the tree or its right edge.
        """
        count = end - start
        if count & (count - 1) or start % count:
            middle = start + tree.split(count)
            return tree.node_hash(self._hash(tip, start, middle), self._hash(tip, middle, end))
        level, height = divmod(count.bit_length() - 1, 8)
        number, place = divmod(start >> 8 * level, WIDTH)
        if number == tip.size >> 8 * (level + 1):
            return tree.root_of(tip.edges[level][place : place + (1 << height)])
        return self._tile(level, number)[height][place >> height]

    def _tile(self, level: int, number: int) -> list[list[bytes]]:
        """Return a full tile and the eight levels of nodes above it."""
        key = (level, number)
        found = self._cached(self._tile_cache, key)
        if found is None:
            levels = [self._read_tile(level, number)]
            while len(levels[-1]) > 1:
                below = levels[-1]
                nodes = zip(below[::2], below[1::2], strict=True)
                levels.append([tree.node_hash(*pair) for pair in nodes])
            found = levels
            self._keep(self._tile_cache, key, found, _CACHED_TILES)
        return found

    def _bundle(self, number: int) -> tuple[bytes, ...]:
        found = self._cached(self._bundle_cache, number)
        if found is None:
            found = self._read_bundle(number, WIDTH)
            self._keep(self._bundle_cache, number, found, _CACHED_BUNDLES)
        return found

    def _cached(self, cache: OrderedDict[T, U], key: T) -> U | None:
        with self._cache_lock:
            if key in cache:
                cache.move_to_end(key)
            return cache.get(key)

    def _keep(self, cache: OrderedDict[T, U], key: T, value: U, most: int) -> None:
        with self._cache_lock:
            cache[key] = value
            while len(cache) > most:
                cache.popitem(last=False)

    # ------------------------------------------------------------------------------------------
    # Files
    # ------------------------------------------------------------------------------------------

    def file(self, level: int | str, number: int, width: int = WIDTH) -> Path:
        """Return where a tile is, or with the level ``entries`` a bundle of records."""
        return _tile_file(self._tiles, level, number, width)

    def _partials(self, level: int | str, number: int) -> Path:
        return self.file(level, number, 1).parent

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise DataDamaged(f"{path} is missing: {_ADVICE}") from error
        except OSError as error:
            raise failed(error, path) from error

    def _read_tile(self, level: int, number: int) -> list[bytes]:
        path = self.file(level, number)
        data = self._read(path)
        if len(data) != WIDTH * HASH_BYTES:
            raise DataDamaged(f"{path} has {len(data)} bytes: {_ADVICE}")
        return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]

    def _read_bundle(self, number: int, width: int) -> tuple[bytes, ...]:
        path = self.file(ENTRIES, number, width)
        data = self._read(path)
        records: list[bytes] = []
        at = 0
        while at + 2 <= len(data):
            end = at + 2 + int.from_bytes(data[at : at + 2], "big")
            records.append(data[at + 2 : end])
            at = end
        if at != len(data) or len(records) != width:
            raise DataDamaged(f"{path} is not {width} records: {_ADVICE}")
        return tuple(records)

    def content(self, level: int | str, number: int, width: int) -> bytes | None:
        """Return what a file of the log must have; None when the log is too short for it."""
        tip = self._tip
        last = number == tip.size >> (8 if level == ENTRIES else 8 * (int(level) + 1))
        if level == ENTRIES:
            if number * WIDTH + width > tip.size:
                return None
            return _bundled((tip.records if last else self._bundle(number))[:width])
        if number * WIDTH + width > tip.size >> 8 * int(level):
            return None
        hashes = tip.edges[int(level)] if last else self._read_tile(int(level), number)
        return b"".join(hashes[:width])

    # ------------------------------------------------------------------------------------------
    # Writing: one thread
    # ------------------------------------------------------------------------------------------

    def append(self, record: str) -> None:
        """Put a record at the end. Full tiles are durable on return, partial ones are written by
        ``write_edge``. Raises DiskFailed; the log is then as before.
        """
        tip = self._tip
        data = record.encode()
        records = (*tip.records, data)
        full: list[tuple[int | str, int]] = []
        number = tip.size // WIDTH
        if len(records) == WIDTH:
            self._write_full(ENTRIES, number, _bundled(records))
            full.append((ENTRIES, number))
            records = ()
        edges = list(tip.edges)
        carried = tree.leaf_hash(data)
        for level in range(len(edges) + 1):
            if level == len(edges):
                edges.append(())
            hashes = (*edges[level], carried)
            if len(hashes) < WIDTH:
                edges[level] = hashes
                break
            number = tip.size >> 8 * (level + 1)
            self._write_full(level, number, b"".join(hashes))
            full.append((level, number))
            edges[level] = ()
            carried = tree.root_of(hashes)
        self._tip = _Tip(tip.size + 1, tuple(edges), records)
        for level_of_file, number in full:
            shutil.rmtree(self._partials(level_of_file, number), ignore_errors=True)

    def _write_full(self, level: int | str, number: int, data: bytes) -> None:
        self._hook("tile", "before")
        write_file(self.file(level, number), data, sync=True)
        self._hook("tile", "after")

    def write_edge(self) -> None:
        """Write the partial tiles of the present size; raises DiskFailed."""
        tip = self._tip
        self._hook("edge", "before")
        self._write_partial(ENTRIES, tip.size // WIDTH, len(tip.records), _bundled(tip.records))
        for level, hashes in enumerate(tip.edges):
            self._write_partial(level, tip.size >> 8 * (level + 1), len(hashes), b"".join(hashes))
        self._hook("edge", "after")

    def _write_partial(self, level: int | str, number: int, width: int, data: bytes) -> None:
        if width and self._partial.get(level) != (number, width):
            write_file(self.file(level, number, width), data, sync=False)
            self._partial[level] = (number, width)

    def write_edge_of(self, size: int) -> None:
        """Write the partial tiles of an earlier size again, where the full ones are not there."""
        tip = self._tip
        if not 0 <= size <= tip.size:
            raise IndexError(f"the log has {tip.size} records, not {size}")
        width = size % WIDTH
        if width and size // WIDTH == tip.size // WIDTH:
            data = _bundled(tip.records[:width])
            write_file(self.file(ENTRIES, size // WIDTH, width), data, sync=False)
        for level, hashes in enumerate(tip.edges):
            number, width = divmod(size >> 8 * level, WIDTH)
            if width and number == tip.size >> 8 * (level + 1):
                data = b"".join(hashes[:width])
                write_file(self.file(level, number, width), data, sync=False)

    def publish(self, note: str) -> None:
        """Let a signed checkpoint be the one that is shown to everybody; raises DiskFailed."""
        self._hook("checkpoint", "before")
        write_file(self.directory / CHECKPOINT, note.encode(), sync=True)
        self._checkpoint = note
        self._hook("checkpoint", "after")

    def truncate(self, size: int) -> None:
        """Take the records from ``size`` on away: for those that nobody was shown."""
        tip = self._tip
        if not 0 <= size <= tip.size:
            raise IndexError(f"the log has {tip.size} records, not {size}")
        kept = [self._record(tip, at) for at in range(size - size % WIDTH, size)]
        # From the end backwards: cut off in the middle, what is left is a shorter log.
        for level in (ENTRIES, *range(len(tip.edges))):
            height = 0 if level == ENTRIES else int(level)
            for number in range(tip.size >> 8 * (height + 1), (size >> 8 * (height + 1)) - 1, -1):
                shutil.rmtree(self._partials(level, number), ignore_errors=True)
                self.file(level, number).unlink(missing_ok=True)
        if kept:
            data = _bundled(tuple(kept))
            write_file(self.file(ENTRIES, size // WIDTH, len(kept)), data, sync=False)
        self.reload()

    def replace_tiles(self, other: OuterLog) -> None:
        """Take the tiles of another log, which is below this one's directory, as this one's."""
        try:
            shutil.rmtree(self._tiles, ignore_errors=True)
            if other._tiles.exists():
                other._tiles.rename(self._tiles)
            shutil.rmtree(other.directory, ignore_errors=True)
        except OSError as error:
            raise failed(error, self._tiles) from error
        self.reload()

    # ------------------------------------------------------------------------------------------
    # Loading
    # ------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the log from its files. Hashes are made again from the records where they are
        missing, and at the right edge always. Records that cannot be read, and all that depend
        on them, are put aside as ``tile.damaged``; raises DiskFailed.
        """
        self._forget()
        try:
            self._tip = self._load()
        except DataDamaged:
            self._forget()
            aside = self._tiles.with_name("tile.damaged")
            try:
                shutil.rmtree(aside, ignore_errors=True)
                self._tiles.rename(aside)
            except OSError as error:
                raise failed(error, self._tiles) from error
            self._tip = _EMPTY
        self._checkpoint = _read_note(self.directory)

    def _forget(self) -> None:
        with self._cache_lock:
            self._tile_cache.clear()
            self._bundle_cache.clear()
        self._starts = {}
        self._partial = {}

    def _load(self) -> _Tip:
        bundles = 0
        while self.file(ENTRIES, bundles).exists():
            bundles += 1
        records: tuple[bytes, ...] = ()
        for width in self._widths(bundles):
            try:
                records = self._read_bundle(bundles, width)
                break
            except DataDamaged:
                continue
        if bundles:
            shutil.rmtree(self._partials(ENTRIES, bundles - 1), ignore_errors=True)
        edges = [tuple(map(tree.leaf_hash, records))]
        self._mend(0, bundles)
        level, below = 0, bundles
        while below:
            level += 1
            full = below // WIDTH
            self._mend(level, full)
            edge = range(full * WIDTH, below)
            edges.append(tuple(tree.root_of(self._read_tile(level - 1, n)) for n in edge))
            below = full
        return _Tip(bundles * WIDTH + len(records), tuple(edges), records)

    def _widths(self, number: int) -> Iterator[int]:
        """Yield the widths of the partial bundles with a number, the widest first."""
        folder = self._partials(ENTRIES, number)
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        yield from sorted((int(name) for name in names if name.isdecimal()), reverse=True)

    def _made(self, level: int, number: int) -> list[bytes]:
        """Return what a full tile must have, from the level below it."""
        if level == 0:
            return [tree.leaf_hash(record) for record in self._bundle(number)]
        first = number * WIDTH
        return [tree.root_of(self._read_tile(level - 1, first + i)) for i in range(WIDTH)]

    def _mend(self, level: int, count: int) -> None:
        """Write the full tiles of a level that are missing, and the last one if it is wrong."""
        for number in range(count):
            try:
                whole = self.file(level, number).stat().st_size == WIDTH * HASH_BYTES
            except FileNotFoundError:
                whole = False
            if whole and number < count - 1:
                continue
            hashes = self._made(level, number)
            if not whole or self._read_tile(level, number) != hashes:
                self._write_full(level, number, b"".join(hashes))
        if count:
            shutil.rmtree(self._partials(level, count - 1), ignore_errors=True)

    def published(self) -> Checkpoint | None:
        """Return what the published checkpoint says, None before the first."""
        note = self._checkpoint
        return None if note is None else parse_checkpoint(parse_note(note).text)


def _bundled(records: tuple[bytes, ...]) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in records)


def _read_note(directory: Path) -> str | None:
    path = directory / CHECKPOINT
    try:
        note = path.read_text("utf-8")
        parse_checkpoint(parse_note(note).text)
    except FileNotFoundError:
        return None
    except (BadNote, UnicodeDecodeError):
        return None  # the next one takes its place
    except OSError as error:
        raise failed(error, path) from error
    return note


def read_checkpoint(directory: Path) -> Checkpoint | None:
    """Return what the published checkpoint of a log's folder says, None where there is none;
    raises DiskFailed.
    """
    note = _read_note(directory)
    return None if note is None else parse_checkpoint(parse_note(note).text)


def differences(directory: Path, right: OuterLog, shown: Checkpoint) -> Iterator[str]:
    """Yield in words what is wrong in a log's folder; nothing in it is changed.

    ``right`` is the log made anew from the journal, elsewhere; ``shown`` the published checkpoint,
    whose tiles must be there.
    """
    if shown.size > right.size or right.root(shown.size) != shown.root:
        yield f"{directory / CHECKPOINT}: the journal does not lead to the published checkpoint"
        return
    tiles = directory / "tile"
    for path in sorted(path for path in tiles.rglob("*") if path.is_file()):
        name = path.relative_to(tiles).as_posix()
        match = TILE_PATH.fullmatch(name)
        if match is None:
            if not name.endswith(NEW):  # left over from a write that was cut off
                yield f"{path}: no tile has this name"
            continue
        level = match["level"] if match["level"] == ENTRIES else int(match["level"])
        number = int(re.sub("[^0-9]", "", match["number"]))
        if path.read_bytes() != right.content(level, number, int(match["width"] or WIDTH)):
            yield f"{path}: not what follows from the journal"
    for level in (ENTRIES, *range(8)):
        full, width = divmod(shown.size >> (0 if level == ENTRIES else 8 * int(level)), WIDTH)
        needed = [(number, WIDTH) for number in range(full)] + ([(full, width)] if width else [])
        for number, wide in needed:
            paths = {
                tiles / str(level) / number_path(number),
                _tile_file(tiles, level, number, wide),
            }
            if not any(path.exists() for path in paths):
                yield f"{_tile_file(tiles, level, number, wide)} is missing"


def _tile_file(tiles: Path, level: int | str, number: int, width: int) -> Path:
    name = number_path(number) + ("" if width == WIDTH else f".p/{width}")
    return tiles / str(level) / name
