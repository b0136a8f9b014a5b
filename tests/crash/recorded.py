"""The child of the power-loss test: one life of an engine over its real LMDB files, under load,
recorded by the shim.

It answers as the server does, when the engine's future is done, by sending to a socket: the shim
records what is sent in
one order with the writes and syncs. Beside that it writes down the fingerprint of the state after
each block, and its
stored value's digest, taken while it runs. It ends without closing anything.

The parent runs ``main`` in a process of its own.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lmdb
import numpy as np
from blake3 import blake3

from ledger import layout
from ledger._pack import BlockView
from ledger.config import Config
from ledger.engine import Engine
from ledger.storage import directory as data_directory
from ledger.storage.lmdb_store import LmdbStore
from ledger.storage.snapshot import Pace
from tests.crash.load import DTYPES, Request, Traffic
from tests.unit.test_core import fingerprint

CONFIG: Final = Config(
    holds=1 << 12,
    recent_ids=1 << 10,
    write_ahead_bytes=2 << 20,
    disk_reserve_bytes=0,
    snapshot_bytes_per_second=1 << 30,
)
PACE: Final = Pace(chunk_bytes=1 << 16, step_bytes=1 << 15, pass_interval_s=0.03)
SENT: Final = struct.Struct("<8sq")
"""What is sent for a reply: a mark, and the number of the last block that it may reflect."""
MARK: Final = b"ANSWERED"


@dataclass(slots=True)
class Notes:
    """What the lives of the engine wrote down, for the parent."""

    traffic: Traffic
    answered: list[Request] = field(default_factory=list)
    unknown: list[Request] = field(default_factory=list)
    states: dict[int, bytes] = field(default_factory=dict)
    """Digest of the state after each block; -1 is the empty ledger."""
    values: dict[int, bytes] = field(default_factory=dict)
    """Digest of the stored value of each block."""


def state_digest(core: Any) -> bytes:
    """Return a digest of everything that may be asked about the books."""
    return blake3(repr(fingerprint(core)).encode()).digest()


def value_digest(view: Any) -> bytes:
    """Return a digest of all that a stored block holds, but its metadata."""
    return blake3(view.header_bytes + view.seed + view.entries().tobytes()).digest()


class WatchedStore(LmdbStore):
    """The store as it is, which notes the state after each block and the block's bytes."""

    notes: Notes

    def recover(self, core: Any, *rest: Any) -> Any:
        """See ``Store``."""
        found = super().recover(core, *rest)
        self.notes.states[found.last_block] = state_digest(core)
        return found

    def snapshot_step(self, core: Any, durable: int) -> None:
        """See ``Store``."""
        if core.block_number not in self.notes.states:
            self.notes.states[core.block_number] = state_digest(core)
        super().snapshot_step(core, durable)

    def append(self, value: bytes, block: Any) -> None:
        """See ``Store``."""
        self.notes.values[block.number] = value_digest(BlockView(value))
        super().append(value, block)


class Life:
    """One life of the engine."""

    def __init__(self, engine: Engine, notes: Notes, reply_socket: socket.socket) -> None:
        self.engine = engine
        self.notes = notes
        self._socket = reply_socket
        self._ended = False

    async def run(self, requests_max: int) -> None:
        """Post so many requests over several connections, and read beside them."""
        if not any(self.notes.traffic.accounts.values()):
            for request in self.notes.traffic.opening():
                await self._post(request)
        readers = [asyncio.ensure_future(self._read()) for _ in range(2)]
        share = requests_max // 4
        await asyncio.gather(*(self._write(share) for _ in range(4)))
        self._ended = True
        await asyncio.gather(*readers)

    async def _write(self, count: int) -> None:
        for _ in range(count):
            await self._post(self.notes.traffic.next())
            await asyncio.sleep(random.random() * 0.004)

    def _answer(self, block: int) -> None:
        self._socket.send(SENT.pack(MARK, block))

    async def _post(self, request: Request) -> None:
        events = np.ascontiguousarray(request.events, DTYPES[request.kind])
        future = self.engine.submit(
            request.kind, events, metadata=request.metadata, dry_run=request.dry_run
        )
        reply = await asyncio.wrap_future(future)
        request.results = reply.results
        request.position = (
            reply.position >> layout.INDEX_BITS,
            reply.position & ((1 << layout.INDEX_BITS) - 1),
        )
        self._answer(reply.position >> layout.INDEX_BITS)
        self.notes.answered.append(request)
        self.notes.traffic.answered(request)

    async def _read(self) -> None:
        """What a read answers may be of a block that was decided only just now."""
        while not self._ended:
            future = self.engine.read(lambda core: (core.block_number, core.trial_balance()))
            block, _ = await asyncio.wrap_future(future)
            self._answer(block)
            await asyncio.sleep(0.003)


def main(directory: str, notes: str, requests_max: int, sync: bool) -> None:
    """Live once and end as a crash does."""
    if not sync:
        opened = lmdb.open
        lmdb.open = lambda *given, **options: opened(
            *given, **(options | {"sync": False, "metasync": False})
        )
    notes_file = Path(notes)
    if notes_file.exists():
        written = pickle.loads(notes_file.read_bytes())
    else:
        written = Notes(Traffic(1, large_events=120))
        data_directory.create(Path(directory))
    listener = socket.create_server(("127.0.0.1", 0))
    reply_socket = socket.create_connection(listener.getsockname())
    store = WatchedStore(Path(directory), CONFIG, pace=PACE)
    store.notes = written
    engine = Engine(store, CONFIG)
    engine.start()
    asyncio.run(Life(engine, written, reply_socket).run(requests_max))
    notes_file.write_bytes(pickle.dumps(written))
    os._exit(0)
