"""The journal: one value per block and one per metadata object, appended, one transaction per
block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb

from ledger import layout
from ledger._pack import BlockView
from ledger.errors import DataDamaged, DiskFailed, Unavailable
from ledger.storage.directory import JOURNAL_TREES
from ledger.storage.environment import open_environment, translated
from ledger.storage.pages import PAGE_BYTES
from ledger.storage.space import WriteAhead, commit_bytes_max
from ledger.storage.store import Hook, no_hook, pack_metadata, unpack_metadata

VIEWS_MAX: Final = 4096
"""Blocks that a reader keeps open."""

CLOSE_TIMEOUT_S: Final = 30.0
ADVICE: Final = "restore the ledger from its latest backup with 'sanyuan restore'"


def key_of(number: int) -> bytes:
    """Return the key of a block number or a position: 8 bytes, so that keys are in order of
    numbers."""
    return number.to_bytes(8, "big")


class LmdbReader:
    """A read transaction of the journal; see ``store.Reader``."""

    def __init__(self, transaction: Any, blocks: Any, metadata: Any) -> None:
        self._transaction = transaction
        self._blocks = blocks
        self._metadata = metadata
        self._views: dict[int, Any] = {}
        with transaction.cursor(db=blocks) as cursor:
            self.last_block = int.from_bytes(cursor.key(), "big") if cursor.last() else -1

    def _get(self, number: int, tree: Any) -> Any:
        try:
            return self._transaction.get(key_of(number), db=tree)
        except lmdb.Error as error:
            # LMDB compares what it finds with what it expects, as far as it goes.
            what = f"block {number if tree is self._blocks else number >> layout.INDEX_BITS}"
            raise DataDamaged(
                f"{what} cannot be read from the journal ({error}): {ADVICE}"
            ) from error

    def block(self, number: int) -> Any:
        """Return the BlockView of a durable block; see ``store.Reader``."""
        view = self._views.get(number)
        if view is None:
            if not 0 <= number <= self.last_block:
                raise LookupError(f"block {number} is not stored: the last is {self.last_block}")
            value = self._get(number, self._blocks)
            if value is None:
                raise DataDamaged(f"block {number} is missing from the journal: {ADVICE}")
            view = BlockView(value, number=number)
            if len(self._views) >= VIEWS_MAX:
                self._views.clear()
            self._views[number] = view
        return view

    def value(self, number: int) -> bytes:
        """Return the stored bytes of a durable block; see ``store.Reader``."""
        self.block(number)
        return bytes(self._get(number, self._blocks))

    def metadata(self, position: int) -> bytes | None:
        """Return the canonical metadata of an entry; see ``store.Reader``."""
        value = self._get(position, self._metadata)
        if value is not None:
            return unpack_metadata(position, bytes(value))
        block = self.block(position >> layout.INDEX_BITS)
        index = position & ((1 << layout.INDEX_BITS) - 1)
        has_metadata = layout.flag_mask("ENTRY", "has_metadata")
        if index < block.entry_count and block.entries(index, index + 1)["flags"][0] & has_metadata:
            raise DataDamaged(
                f"block {block.number}: the metadata of entry {index} is missing: {ADVICE}"
            )
        return None

    @property
    def stored_counts(self) -> tuple[int, int]:
        """How many blocks and metadata objects are stored."""
        return (
            self._transaction.stat(self._blocks)["entries"],
            self._transaction.stat(self._metadata)["entries"],
        )

    def end(self) -> None:
        """End the transaction; views of blocks must not be used from here on."""
        self._views.clear()
        self._transaction.abort()


class LmdbJournal:
    """The journal's environment. ``append`` belongs to one thread; readers may be on any.

    Raises DataDamaged when the files are not what was written.
    """

    def __init__(
        self,
        path: Path,
        *,
        write_ahead_bytes: int = 0,
        reserve_bytes: int = 0,
        hook: Hook = no_hook,
    ) -> None:
        self._path = path
        self._hook = hook
        self._failed: DiskFailed | None = None
        self._readers = 0
        self._idle = threading.Condition()
        try:
            self._environment, trees = open_environment(
                path, trees=JOURNAL_TREES, newest_first="blocks"
            )
        except DataDamaged as error:
            raise DataDamaged(f"{error}: {ADVICE}") from error
        self._blocks, self._metadata = trees["blocks"], trees["metadata"]
        try:
            with self.reader() as reader:
                self.last_block = reader.last_block
                block_count, _ = reader.stored_counts
                if block_count != self.last_block + 1:
                    raise DataDamaged(
                        f"{path}: {block_count} blocks are stored where the last is"
                        f" {self.last_block}: {ADVICE}"
                    )
            self._ahead = WriteAhead(
                path / "data.mdb",
                self._used_bytes,
                ahead_bytes=write_ahead_bytes,
                reserve_bytes=reserve_bytes,
            )
        except BaseException:
            self._environment.close()
            raise

    def _used_bytes(self) -> int:
        return (int(self._environment.info()["last_pgno"]) + 1) * PAGE_BYTES

    @property
    def transaction_count(self) -> int:
        """Transactions committed since the environment was made."""
        return int(self._environment.info()["last_txnid"])

    def append(self, number: int, value: bytes, metadata: list[tuple[int, bytes]]) -> None:
        """Store a block and its metadata in one transaction that is durable on return.

        Raises DiskFull or DiskFailed; after that the journal takes no more blocks until it is
        opened again.
        """
        if self._failed is not None:
            raise DiskFailed(f"{self._path}: an earlier write failed: {self._failed}")
        if number != self.last_block + 1:
            raise ValueError(f"block {number} does not follow block {self.last_block}")
        sizes = [len(value), *(len(data) for _, data in metadata)]
        try:
            self._hook("append", "before")
            with self._ahead.room(commit_bytes_max(sizes)), translated(self._path):
                with self._environment.begin(write=True) as transaction:
                    stored = transaction.put(key_of(number), value, db=self._blocks, append=True)
                    for position, data in metadata:
                        stored &= transaction.put(
                            key_of(position),
                            pack_metadata(position, data),
                            db=self._metadata,
                            append=True,
                        )
                    if not stored:
                        raise DataDamaged(f"{self._path}: block {number} is there already")
            self._hook("append", "after")
        except DiskFailed as error:
            self._failed = error
            raise
        self.last_block = number

    def append_all(self, blocks: list[tuple[int, bytes, list[tuple[int, bytes]]]]) -> None:
        """Store blocks (number, value, metadata) in one transaction; see ``append``."""
        first = self.last_block + 1
        if [number for number, _, _ in blocks] != list(range(first, first + len(blocks))):
            raise ValueError(f"blocks that do not follow block {self.last_block}")
        self._hook("append", "before")
        with translated(self._path), self._environment.begin(write=True) as transaction:
            for number, value, metadata in blocks:
                transaction.put(key_of(number), value, db=self._blocks, append=True)
                for position, data in metadata:
                    stored = pack_metadata(position, data)
                    transaction.put(key_of(position), stored, db=self._metadata, append=True)
        self._hook("append", "after")
        self.last_block = first + len(blocks) - 1

    @contextmanager
    def reader(self) -> Iterator[LmdbReader]:
        """Return a view of the durable blocks as of now. Raises Unavailable when too many are
        open."""
        with self._idle:
            if self._readers < 0:
                raise Unavailable("stopping", "the ledger is stopping")
            self._readers += 1
        reader = None
        try:
            with translated(self._path):
                try:
                    transaction = self._environment.begin(write=False, buffers=True)
                except lmdb.ReadersFullError as error:
                    raise Unavailable("too_many_readers", "too many reads at once") from error
                reader = LmdbReader(transaction, self._blocks, self._metadata)
            yield reader
        finally:
            if reader is not None:
                reader.end()
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()

    @property
    def written_ahead_bytes(self) -> int:
        """Bytes of space written ahead."""
        return self._ahead.written_ahead_bytes

    def drain(self) -> None:
        """Wait until space is written ahead."""
        self._ahead.drain()

    def close(self) -> None:
        """Stop writing ahead, wait for the readers, and unmap the file."""
        self._ahead.close()
        with self._idle:
            if self._readers < 0:
                return
            ended = self._idle.wait_for(lambda: self._readers == 0, CLOSE_TIMEOUT_S)
            if ended:
                # A reader that never ends keeps the file mapped: unmapping it would kill the
                # process.
                self._readers = -1
                self._environment.close()
