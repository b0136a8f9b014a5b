"""The memory twin of the store: the same order of durable steps, without a disk.

``MemoryDisk`` is what would survive a crash. A test lets a hook fail a step, throws the store away,
and opens another one on the same disk; ``ledger.State`` uses the store for ids, history and
metadata.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from ledger._pack import BlockView
from ledger.config import Config
from ledger.errors import DataDamaged, DiskFailed
from ledger.storage.ids import IdIndex
from ledger.storage.recovery import recover
from ledger.storage.resolve import Resolver
from ledger.storage.roots import KeptRoots, MemoryTrees
from ledger.storage.snapshot import (
    Pace,
    Snapshot,
    pack_floor,
    pack_page,
    unpack_floor,
    unpack_page,
)
from ledger.storage.store import (
    Block,
    Core,
    Floor,
    Hook,
    Page,
    Progress,
    Recovery,
    metadata_of,
    no_hook,
    no_progress,
    pack_metadata,
    unpack_metadata,
)

MEMORY_PACE: Final = Pace(threaded=False)


class MemoryDisk:
    """What is durable: blocks and metadata in stored form, pages, the floor."""

    def __init__(self, instance: bytes = bytes(16)) -> None:
        self.instance = instance
        self.blocks: list[bytes] = []
        self.metadata: dict[int, bytes] = {}
        self.pages: dict[tuple[str, int], bytes] = {}
        self.floor: bytes | None = None
        self.roots: dict[tuple[str, bytes], bytes] = {}


class MemoryReader:
    """The blocks of a disk as they were when the reader began; see ``store.Reader``."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self.last_block = len(disk.blocks) - 1

    def block(self, number: int) -> Any:
        """Return the BlockView of a durable block; see ``store.Reader``."""
        if not 0 <= number <= self.last_block:
            raise LookupError(f"block {number} is not stored: the last is {self.last_block}")
        return BlockView(self._disk.blocks[number], number=number)

    def value(self, number: int) -> bytes:
        """Return the stored bytes of a durable block; see ``store.Reader``."""
        self.block(number)
        return self._disk.blocks[number]

    def metadata(self, position: int) -> bytes | None:
        """Return the canonical metadata of an entry; see ``store.Reader``."""
        value = self._disk.metadata.get(position)
        return None if value is None else unpack_metadata(position, value)


class MemoryJournal:
    """The journal of a memory disk; a failed step fails all later ones, as on the real one."""

    def __init__(self, disk: MemoryDisk, hook: Hook = no_hook) -> None:
        self._disk = disk
        self._hook = hook
        self._failed = False

    @property
    def last_block(self) -> int:
        """Number of the last block; -1 for none."""
        return len(self._disk.blocks) - 1

    def append(self, number: int, value: bytes, metadata: list[tuple[int, bytes]]) -> None:
        """Store a block and its metadata in one step."""
        if self._failed:
            raise DiskFailed("an earlier write failed")
        if number != self.last_block + 1:
            raise ValueError(f"block {number} does not follow block {self.last_block}")
        self._failed = True
        self._hook("append", "before")
        self._disk.metadata.update((at, pack_metadata(at, data)) for at, data in metadata)
        self._disk.blocks.append(value)
        self._hook("append", "after")
        self._failed = False

    @contextmanager
    def reader(self) -> Iterator[MemoryReader]:
        """Return a view of the blocks as of now."""
        yield MemoryReader(self._disk)


class MemoryPages:
    """The snapshot of a memory disk."""

    def __init__(self, disk: MemoryDisk, hook: Hook = no_hook) -> None:
        self._disk = disk
        self._hook = hook

    def write(self, pages: list[Page]) -> None:
        """Write pages over their older versions, in one step."""
        self._hook("pages", "before")
        for page in pages:
            self._disk.pages[page.kind, page.number] = pack_page(self._disk.instance, page)
        self._hook("pages", "after")

    def write_floor(self, floor: Floor) -> None:
        """Write the floor of a pass whose pages are all written."""
        self._hook("floor", "before")
        self._disk.floor = pack_floor(self._disk.instance, floor)
        self._hook("floor", "after")

    def read_floor(self) -> Floor | None:
        """Return the floor of the last complete pass; None when there is none."""
        stored = self._disk.floor
        return None if stored is None else unpack_floor(self._disk.instance, stored)

    def read(self, kind: str, count: int) -> Iterator[Page]:
        """Yield pages 0 to count - 1 of a kind; raise DataDamaged for one that is missing or
        damaged."""
        for number in range(count):
            value = self._disk.pages.get((kind, number))
            if value is None:
                raise DataDamaged(f"page {number} of the {kind} is missing")
            yield unpack_page(self._disk.instance, kind, number, value)

    def clear(self) -> None:
        """Forget everything."""
        self._disk.pages.clear()
        self._disk.floor = None


class MemoryStore:
    """A store without a disk; see ``store.Store``. Not for more than one thread but for readers."""

    def __init__(
        self,
        config: Config,
        *,
        disk: MemoryDisk | None = None,
        hook: Hook = no_hook,
        monotonic: Callable[[], float] = time.monotonic,
        pace: Pace = MEMORY_PACE,
    ) -> None:
        self._config = config
        self.disk = MemoryDisk() if disk is None else disk
        self.instance = self.disk.instance
        self._journal = MemoryJournal(self.disk, hook)
        self._pages = MemoryPages(self.disk, hook)
        self._ids = IdIndex(self.instance, config.recent_ids)
        self._resolver = Resolver(self._ids, self._journal)
        self._trees = MemoryTrees(self.disk.roots, hook=hook)
        self._roots = KeptRoots(self._trees, self.instance)
        self._snapshot = Snapshot(
            self._pages,
            bytes_per_second=config.snapshot_bytes_per_second,
            pace=pace,
            monotonic=monotonic,
        )

    def recover(self, core: Core, progress: Progress = no_progress) -> Recovery:
        """Bring an empty core to the state of the disk; see ``store.Store``."""
        found, floor = recover(
            core,
            journal=self._journal,
            pages=self._pages,
            ids=self._ids,
            roots=self._roots,
            instance=self.instance,
            notes=[],
            progress=progress,
        )
        self._snapshot.start_from(-1 if floor is None else floor.block)
        return found

    def resolve(
        self, core: Core, transfers: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """See ``store.Store``."""
        return self._resolver.resolve(core, transfers, in_flight, namespace)

    def resolve_ids(
        self, core: Core, ids: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """See ``store.Store``."""
        return self._resolver.resolve_ids(core, ids, in_flight, namespace)

    def id_records(self, ids: np.ndarray, namespace: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``store.Store``."""
        candidates = self._ids.candidates_of(ids, namespace)
        return candidates, self._ids.lookup(candidates)

    def used_timestamps(self, timestamps: np.ndarray, in_flight: Mapping[int, Block]) -> list[int]:
        """See ``store.Store``."""
        return self._resolver.used_timestamps(timestamps, in_flight)

    def insert_ids(self, block: Block) -> None:
        """See ``store.Store``."""
        self._ids.insert_block(block)

    def append(self, value: bytes, block: Block) -> None:
        """See ``store.Store``."""
        self._journal.append(block.number, value, metadata_of(block))

    @property
    def roots(self) -> KeptRoots:
        """See ``store.Store``."""
        return self._roots

    def snapshot_step(
        self, core: Core, durable: int, named_root: int, *, paused: bool = False
    ) -> None:
        """See ``store.Store``."""
        self._snapshot.step(core, durable, (self._roots.newest_block, named_root), paused=paused)

    def snapshot_all(self, core: Core, durable: int, named_root: int) -> None:
        """See ``store.Store``."""
        self._snapshot.copy_all(core, durable, (self._roots.newest_block, named_root))

    @contextmanager
    def reader(self) -> Iterator[MemoryReader]:
        """See ``store.Store``."""
        with self._journal.reader() as reader:
            yield reader

    def posting_allowed(self) -> bool:
        """Memory has no reserve."""
        return True

    def free_bytes(self) -> int:
        """Memory is not counted."""
        return 1 << 62

    def drain(self) -> None:
        """See ``store.Store``."""
        self._snapshot.drain()
        self._ids.drain()

    def close(self) -> None:
        """See ``store.Store``."""
        self._snapshot.close()
        self._ids.close()
