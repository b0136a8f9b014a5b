"""``sanyuan serve`` on a store that says a block is durable a moment before it is: what the kill
test must notice."""

from __future__ import annotations

import queue
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from ledger import cli
from ledger.cli import serve
from ledger.storage.lmdb_store import LmdbStore

LATE_S = 0.1


class HastyStore(LmdbStore):
    """Stores blocks in order, but late."""

    def recover(self, core: Any, *rest: Any) -> Any:
        """See ``Store``."""
        self._late: queue.SimpleQueue[tuple[bytes, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._append_late, daemon=True).start()
        return super().recover(core, *rest)

    def append(self, value: bytes, block: Any) -> None:
        """See ``Store``; it is not durable on return."""
        copy = SimpleNamespace(
            number=block.number, entries=block.entries.copy(), metadata=list(block.metadata)
        )
        self._late.put((value, copy))

    def _append_late(self) -> None:
        while True:
            value, block = self._late.get()
            time.sleep(LATE_S)
            super().append(value, block)


if __name__ == "__main__":
    serve.LmdbStore = HastyStore
    cli.main(sys.argv[1:])
