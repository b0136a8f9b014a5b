"""What the engine asks of storage, and what storage asks of the core: the protocols, and what they
exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from blake3 import blake3

from ledger import layout
from ledger.errors import DataDamaged

NO_HASH: Final = bytes(32)
"""The previous hash of block 0."""

CHECKSUM_BYTES: Final = 16
METADATA_CHECKSUM_BYTES: Final = 8

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total)"""

Hook = Callable[[str, str], None]
"""hook(step, "before" | "after"), called around every durable step; what it raises stands for a
failure there."""


def no_hook(step: str, when: str) -> None:
    """Do nothing: the hook of every store that is not under test."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Report nothing."""


class Block(Protocol):
    """A decided block: ``ledger._block.Block``."""

    @property
    def number(self) -> int: ...
    @property
    def entries(self) -> np.ndarray: ...
    @property
    def metadata(self) -> list[bytes]: ...


class Core(Protocol):
    """What storage uses of ``ledger._core.Core``."""

    @property
    def block_number(self) -> int: ...
    @property
    def page_count(self) -> int: ...
    @property
    def hold_page_count(self) -> int: ...
    def dirty_pages(self, kind: str, limit: int) -> list[int]: ...
    def copy_page(self, kind: str, page: int) -> bytes: ...
    def identities(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def load_page(self, kind: str, page: int, data: bytes | memoryview, position: int) -> None: ...
    def small_state(self) -> bytes: ...
    def load_small_state(self, data: bytes) -> None: ...
    def finish_load(self) -> None: ...
    def replay(self, block: Any) -> None: ...
    def fill_account_ids(self, entries: np.ndarray) -> None: ...
    def open_holds(self, transfers: np.ndarray) -> np.ndarray: ...


class Reader(Protocol):
    """A consistent view of the durable blocks, from ``Store.reader``.

    The views that ``block`` returns look into the store's own memory: they must not be used once
    the reader has ended.
    """

    @property
    def last_block(self) -> int:
        """Number of the last durable block; -1 for none."""
        ...

    def block(self, number: int) -> Any:
        """Return the BlockView of a durable block; raise LookupError for a later one, DataDamaged
        for a damaged one."""
        ...

    def value(self, number: int) -> bytes:
        """Return the stored bytes of a durable block; raises as ``block`` does."""
        ...

    def metadata(self, position: int) -> bytes | None:
        """Return the canonical metadata of an entry, None when it has none; raise DataDamaged when
        it is damaged."""
        ...


class Journal(Protocol):
    """The durable blocks in order: the truth."""

    @property
    def last_block(self) -> int: ...
    def append(self, number: int, value: bytes, metadata: list[tuple[int, bytes]]) -> None: ...
    def reader(self) -> AbstractContextManager[Reader]: ...


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the snapshot: its kind (``accounts`` or ``holds``), number, the block it is current
    to, its bytes."""

    kind: str
    number: int
    block: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Floor:
    """The end of a pass: every page below the counts is current to ``block`` at least."""

    block: int
    account_pages: int
    hold_pages: int
    small_state: bytes
    kept_root: int = -1
    """The newest block with a kept state root when the pass began; -1 for none."""
    named_root: int = -1
    """The newest block whose state root a header up to ``block`` names; -1 for none."""


class Pages(Protocol):
    """The snapshot on disk."""

    def write(self, pages: list[Page]) -> None: ...
    def write_floor(self, floor: Floor) -> None: ...
    def read_floor(self) -> Floor | None: ...
    def read(self, kind: str, count: int) -> Iterable[Page]: ...
    def clear(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Recovery:
    """What recovery found: where the journal ends, and how it got there."""

    last_block: int
    """Number of the last block; -1 for an empty journal."""
    last_hash: bytes
    """Hash of the last block; zeros for an empty journal."""
    instance: bytes
    entry_count: int
    """Entries in the whole journal: the number of the next one."""
    replayed_blocks: int
    replayed_entries: int
    seconds: float
    notes: tuple[str, ...]
    """What was not as expected and was mended, in sentences."""
    named_root: int = -1
    """The newest block whose state root a header names; -1 for none."""


class Store(Protocol):
    """Durable storage of one ledger: ``LmdbStore`` on disk, ``MemoryStore`` for tests and use in
    process."""

    instance: bytes
    """The ledger's 16 random bytes, which go into every block's header."""

    def recover(self, core: Core, progress: Progress = no_progress) -> Recovery:
        """Open what is stored, check it, and bring an empty core to the state after the last
        durable block.

        Raises DataDamaged when blocks that were acknowledged cannot be read; all else is rebuilt
        from the journal, and said in ``notes``.
        """
        ...

    def resolve(
        self,
        core: Core,
        transfers: np.ndarray,
        in_flight: Mapping[int, Block],
        namespace: int = 0,
    ) -> np.ndarray:
        """Return RESOLVED rows for the ids and pending ids of events that earlier blocks may know;
        engine thread.

        ``in_flight`` holds the decided blocks that are not known to be durable, by number.
        """
        ...

    def resolve_ids(
        self, core: Core, ids: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """Return RESOLVED rows for those of the ids (a U128 array) that exist; engine thread."""
        ...

    def id_records(self, ids: np.ndarray, namespace: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the index of ids has of these ids: CANDIDATE rows, and HIT rows that name
        them, which are to be compared with the journal; any thread."""
        ...

    def used_timestamps(self, timestamps: np.ndarray, in_flight: Mapping[int, Block]) -> list[int]:
        """Return those of the timestamps that a transfer or expiry has, for
        ``Core.load_used_timestamps``; engine thread."""
        ...

    def insert_ids(self, block: Block) -> None:
        """Take in the ids of a decided block, after ``close_block``; engine thread."""
        ...

    def append(self, value: bytes, block: Block) -> None:
        """Make a block durable before returning; journal thread. Raises DiskFailed or DiskFull:
        then the store is done."""
        ...

    @property
    def roots(self) -> Any:
        """The archive of kept state roots: ``storage.roots.KeptRoots``, after ``recover``."""
        ...

    def snapshot_step(
        self, core: Core, durable: int, named_root: int, *, paused: bool = False
    ) -> None:
        """Copy a few pages at most; engine thread, after ``hash_block`` and before the next block
        is opened. ``paused``, while a state root is being made: copy none.

        ``named_root`` is the newest block whose state root a decided block names.
        """
        ...

    def snapshot_all(self, core: Core, durable: int, named_root: int) -> None:
        """Copy all that changed, without a limit of rate, and wait for it to be written; every
        block is durable."""
        ...

    def reader(self) -> AbstractContextManager[Reader]:
        """Return a view of the durable blocks, on any thread."""
        ...

    def posting_allowed(self) -> bool:
        """Whether the disk has its reserve."""
        ...

    def free_bytes(self) -> int:
        """Bytes that may still be written to the disk."""
        ...

    def drain(self) -> None:
        """Wait for what the background threads have to do."""
        ...

    def close(self) -> None:
        """Stop the threads and give everything up; closing twice is allowed."""
        ...


def metadata_of(block: Block) -> list[tuple[int, bytes]]:
    """Return (position, canonical metadata) of the entries of a block that have metadata, in
    order."""
    if not block.metadata:
        return []
    places = block.entries["metadata"]
    return [
        (layout.position(block.number, int(index)), block.metadata[int(places[index]) - 1])
        for index in np.flatnonzero(places)
    ]


def pack_metadata(position: int, data: bytes) -> bytes:
    """Return the stored form of a metadata object: a checksum that knows the position, and the
    object."""
    digest = blake3(position.to_bytes(8, "big") + data).digest(length=METADATA_CHECKSUM_BYTES)
    return digest + data


def unpack_metadata(position: int, value: bytes) -> bytes:
    """Return the object in a stored value; raise DataDamaged when it is not the one of this
    position."""
    data = value[METADATA_CHECKSUM_BYTES:]
    if pack_metadata(position, data) != value:
        block, index = position >> layout.INDEX_BITS, position & ((1 << layout.INDEX_BITS) - 1)
        raise DataDamaged(
            f"block {block}: the metadata of entry {index} does not have its checksum"
        )
    return data
