"""The child of the power-loss test: ``sanyuan serve`` as it is, on a store that also writes notes.

The notes are a digest of the state after each block and one of each stored block, taken while the
server runs; they go to
a file that the recorder does not watch. The background work of the store is cut into small pieces,
so that much of it
falls between two blocks.
"""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any, BinaryIO, Final

import lmdb
from blake3 import blake3

from ledger import cli
from ledger._pack import BlockView
from ledger.cli import serve
from ledger.config import Config
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.snapshot import Pace
from tests.unit.test_core import fingerprint

KNOBS: Final = {
    "holds": 1 << 12,
    "recent_ids": 1 << 10,
    "write_ahead_bytes": 2 << 20,
    "disk_reserve_bytes": 0,
    "snapshot_bytes_per_second": 1 << 30,
}
CONFIG: Final = Config(**KNOBS)
PACE: Final = Pace(chunk_bytes=1 << 16, step_bytes=1 << 15, pass_interval_s=0.03)


def state_digest(core: Any) -> bytes:
    """Return a digest of everything that may be asked about the books."""
    return blake3(repr(fingerprint(core)).encode()).digest()


def value_digest(view: Any) -> bytes:
    """Return a digest of all that a stored block holds, but its metadata."""
    return blake3(view.header_bytes + view.seed + view.entries().tobytes()).digest()


class WatchedStore(LmdbStore):
    """The store as it is, which notes the state after each block and the block's bytes."""

    notes: BinaryIO
    _lock = threading.Lock()
    _noted = -1

    def __init__(self, directory: Path, config: Config) -> None:
        super().__init__(directory, config, pace=PACE)

    def _note(self, what: str, block: int, digest: bytes) -> None:
        with self._lock:
            pickle.dump((what, block, digest), self.notes)
            self.notes.flush()

    def recover(self, core: Any, *rest: Any) -> Any:
        """See ``Store``."""
        found = super().recover(core, *rest)
        self._note("state", found.last_block, state_digest(core))
        self._noted = found.last_block
        return found

    def snapshot_step(
        self, core: Any, durable: int, named_root: int, *, paused: bool = False
    ) -> None:
        """See ``Store``."""
        if core.block_number != self._noted:
            self._noted = core.block_number
            self._note("state", core.block_number, state_digest(core))
        super().snapshot_step(core, durable, named_root, paused=paused)

    def append(self, value: bytes, block: Any) -> None:
        """See ``Store``."""
        self._note("value", block.number, value_digest(BlockView(value)))
        super().append(value, block)


def read_notes(file: Path) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """Return the digests of the states and of the stored blocks, by block; -1 is the empty ledger.

    Raises AssertionError when a recovery led to another state than the one noted before.
    """
    notes: dict[str, dict[int, bytes]] = {"state": {}, "value": {}}
    with open(file, "rb") as opened:
        while opened.peek(1):
            what, block, digest = pickle.load(opened)
            assert notes[what].setdefault(block, digest) == digest, (what, block)
    return notes["state"], notes["value"]


def main(directory: str, notes: str, sync: bool) -> None:
    """Serve a directory until SIGTERM; without ``sync`` LMDB is told not to sync."""
    if not sync:
        opened = lmdb.open
        lmdb.open = lambda *given, **options: opened(
            *given, **(options | {"sync": False, "metasync": False})
        )
    with open(notes, "ab") as WatchedStore.notes:
        serve.LmdbStore = WatchedStore
        cli.main(["serve", directory, "--port", "0"])
