"""The store on disk: four LMDB environments in one data directory that this process has for
itself."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np

from ledger.config import Config
from ledger.errors import DataDamaged, LedgerError
from ledger.storage import backup as backup_file
from ledger.storage import space
from ledger.storage.directory import Directory
from ledger.storage.environment import disk_error, open_environment
from ledger.storage.ids import IdIndex
from ledger.storage.journal import LmdbJournal, LmdbReader
from ledger.storage.recovery import recover
from ledger.storage.resolve import REBUILD, Resolver
from ledger.storage.roots import KeptRoots, LmdbTrees
from ledger.storage.snapshot import LmdbPages, Pace, Snapshot
from ledger.storage.store import (
    Block,
    Core,
    Hook,
    Progress,
    Recovery,
    metadata_of,
    no_hook,
    no_progress,
)

_LOG = logging.getLogger(__name__)

SYNCS_PER_COMMIT: Final = 2
"""LMDB syncs the data, and then the meta page that shows it."""


class LmdbStore:
    """Durable storage of one ledger; see ``store.Store`` for what each method promises.

    The constructor takes the lock of the directory and reads its format; ``recover`` opens the
    environments. Raises DirectoryInUse, ConfigurationError, FormatTooNew, DataDamaged and
    DiskFailed.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        *,
        hook: Hook = no_hook,
        monotonic: Callable[[], float] = time.monotonic,
        pace: Pace | None = None,
    ) -> None:
        self._config = config
        self._hook = hook
        self._monotonic = monotonic
        self._pace = pace or Pace(pass_interval_s=config.snapshot_interval_ms / 1000)
        self._directory = Directory(directory)
        self.instance = self._directory.instance
        self._journal: LmdbJournal | None = None
        self._pages: LmdbPages | None = None
        self._ids: Any = None
        self._ids_environment: Any = None
        self._roots: KeptRoots | None = None
        self._resolver: Resolver | None = None
        self._snapshot: Snapshot | None = None
        self._device_syncs = 0

    # ---- opening ----

    def open_journal(self) -> LmdbJournal:
        """Check and open the journal alone, for reading; ``recover`` does it otherwise."""
        if self._journal is None:
            self._journal = LmdbJournal(
                self._directory.part("journal"),
                write_ahead_bytes=self._config.write_ahead_bytes,
                reserve_bytes=self._config.disk_reserve_bytes,
                hook=self._hook,
            )
        return self._journal

    def recover(self, core: Core, progress: Progress = no_progress) -> Recovery:
        """Open, check and load everything; see ``store.Store``."""
        notes: list[str] = []
        progress("checking", 0, 4)
        journal = self.open_journal()
        progress("checking", 1, 4)
        self._pages = self._rebuilt(
            "state",
            "the snapshot",
            lambda path: LmdbPages(path, self.instance, hook=self._hook),
            notes,
        )
        progress("checking", 2, 4)
        self._ids = self._rebuilt("ids", "the index of ids", self._open_ids, notes)
        progress("checking", 3, 4)
        self._roots = self._rebuilt(
            "roots",
            "the archive of state roots",
            self._open_roots,
            notes,
        )
        progress("checking", 4, 4)
        self._resolver = Resolver(self._ids, journal)
        found, floor = recover(
            core,
            journal=journal,
            pages=self._pages,
            ids=self._ids,
            roots=self._roots,
            instance=self.instance,
            notes=notes,
            progress=progress,
            may_write=self.posting_allowed,
            monotonic=self._monotonic,
        )
        self._snapshot = Snapshot(
            self._pages,
            bytes_per_second=self._config.snapshot_bytes_per_second,
            pace=self._pace,
            monotonic=self._monotonic,
        )
        self._snapshot.start_from(-1 if floor is None else floor.block)
        for note in notes:
            _LOG.warning("%s: %s", self._directory.path, note)
        return found

    def _open_ids(self, path: Path) -> Any:
        self._ids_environment, _ = open_environment(path, trees=IdIndex.TREES)
        try:
            return IdIndex(self.instance, self._config.recent_ids, self._ids_environment)
        except BaseException:
            self._ids_environment.close()
            raise

    def _open_roots(self, path: Path) -> KeptRoots:
        trees = LmdbTrees(path, hook=self._hook)
        try:
            return KeptRoots(trees, self.instance)
        except BaseException:
            trees.close()
            raise

    def _rebuilt(
        self, part: str, what: str, opened: Callable[[Path], Any], notes: list[str]
    ) -> Any:
        """Open a part that the journal can replace; when it is damaged, put it aside and begin a
        new one."""
        path = self._directory.part(part)
        try:
            return opened(path)
        except DataDamaged as error:
            notes.append(f"{what} is damaged ({error}); it was rebuilt from the journal")
        try:
            shutil.rmtree(path)
        except OSError as error:
            raise disk_error(error, path) from error
        return opened(path)

    # ---- serving ----

    def resolve(
        self, core: Core, transfers: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """See ``store.Store``."""
        assert self._resolver is not None
        return self._resolver.resolve(core, transfers, in_flight, namespace)

    def resolve_ids(
        self, core: Core, ids: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """See ``store.Store``."""
        assert self._resolver is not None
        return self._resolver.resolve_ids(core, ids, in_flight, namespace)

    def id_records(self, ids: np.ndarray, namespace: int) -> tuple[np.ndarray, np.ndarray]:
        """See ``store.Store``."""
        assert self._ids is not None
        candidates = self._ids.candidates_of(ids, namespace)
        return candidates, self._ids.lookup(candidates)

    def used_timestamps(self, timestamps: np.ndarray, in_flight: Mapping[int, Block]) -> list[int]:
        """See ``store.Store``."""
        assert self._resolver is not None
        return self._resolver.used_timestamps(timestamps, in_flight)

    def insert_ids(self, block: Block) -> None:
        """See ``store.Store``."""
        self._ids.insert_block(block)

    def append(self, value: bytes, block: Block) -> None:
        """See ``store.Store``."""
        assert self._journal is not None
        self._journal.append(block.number, value, metadata_of(block))
        try:
            self._ids.maintain(block.number)
        except DataDamaged as error:
            raise DataDamaged(f"{error}: {REBUILD}") from error

    @property
    def roots(self) -> KeptRoots:
        """See ``store.Store``."""
        assert self._roots is not None
        return self._roots

    def snapshot_step(
        self, core: Core, durable: int, named_root: int, *, paused: bool = False
    ) -> None:
        """See ``store.Store``."""
        assert self._snapshot is not None
        self._snapshot.step(core, durable, (self.roots.newest_block, named_root), paused=paused)

    def snapshot_all(self, core: Core, durable: int, named_root: int) -> None:
        """See ``store.Store``."""
        assert self._snapshot is not None
        self._snapshot.copy_all(core, durable, (self.roots.newest_block, named_root))

    @contextmanager
    def reader(self) -> Iterator[LmdbReader]:
        """See ``store.Store``."""
        with self.open_journal().reader() as reader:
            yield reader

    def posting_allowed(self) -> bool:
        """See ``store.Store``."""
        return self.free_bytes() >= self._config.disk_reserve_bytes

    def free_bytes(self) -> int:
        """See ``store.Store``."""
        return space.free_bytes(self._directory.path)

    @property
    def device_syncs(self) -> int:
        """Syncs of the disk for commits since the directory was made: a commit of LMDB is two."""
        parts = (self._journal, self._pages, self._roots)
        if any(part is None for part in parts) or self._ids_environment is None:
            return self._device_syncs
        try:
            transactions = sum(part.transaction_count for part in parts if part is not None)
            transactions += int(self._ids_environment.info()["last_txnid"])
        except lmdb.Error:  # closed meanwhile
            return self._device_syncs
        self._device_syncs = SYNCS_PER_COMMIT * transactions
        return self._device_syncs

    @property
    def written_ahead_bytes(self) -> int:
        """Bytes of the journal's file written ahead with zeros."""
        return 0 if self._journal is None else self._journal.written_ahead_bytes

    def backup(self, file: Path, progress: Progress = no_progress) -> int:
        """Write all durable blocks to a new file, while serving, on any thread; return the last
        block's number."""
        with self.reader() as reader:
            return backup_file.write(file, self.instance, reader, progress)

    def drain(self) -> None:
        """See ``store.Store``."""
        if self._snapshot is not None:
            self._snapshot.drain()
        if self._ids is not None:
            self._ids.drain()
        if self._journal is not None:
            self._journal.drain()

    def close(self) -> None:
        """See ``store.Store``."""
        for part in (
            self._snapshot,
            self._ids,
            self._ids_environment,
            self._pages,
            self._roots,
            self._journal,
        ):
            if part is not None:
                try:
                    part.close()
                except LedgerError as error:
                    _LOG.warning("%s: %s", self._directory.path, error)
        self._snapshot = self._ids = self._ids_environment = self._pages = None
        self._roots = None
        self._directory.close()
