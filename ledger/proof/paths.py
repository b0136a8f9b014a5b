"""Paths inside of blocks and intervals. No inner node is stored: what is asked for is hashed again.

Of blocks that were used, the roots of runs of 256 entries are kept, an eighth of a byte an entry;
so the next proof from the same block hashes 256 entries and not 65,536.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import numpy as np

from ledger import layout
from ledger._merkle import block_leaves, tree_path, tree_root
from ledger.errors import DataDamaged
from ledger.proof.entries import Reader

RUN: Final = 256
BLOCK_CACHE_BYTES: Final = 16 << 20
INTERVAL_CACHE_BYTES: Final = 8 << 20
K = TypeVar("K", bound=Hashable)


class Recent(Generic[K]):
    """Arrays that were used lately, up to a number of bytes; for any thread."""

    def __init__(self, size_bytes: int) -> None:
        self._most = size_bytes
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[K, np.ndarray] = OrderedDict()

    def get(self, key: K, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return what is kept under a key, or make it and keep it."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += made.nbytes
            while self._size > self._most and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._size -= dropped.nbytes
        return made


class Paths:
    """Makes paths from entries to block roots and from blocks to the roots of intervals.

    ``fill_account_ids(entries)`` fills in the account ids of ENTRY rows; safe on any thread.
    """

    def __init__(self, fill_account_ids: Callable[[np.ndarray], None]) -> None:
        self._fill = fill_account_ids
        self._runs: Recent[int] = Recent(BLOCK_CACHE_BYTES)
        self._intervals: Recent[tuple[int, int]] = Recent(INTERVAL_CACHE_BYTES)

    def row(self, reader: Reader, position: int) -> np.ndarray:
        """Return the ENTRY row of a position, an array of one with account ids."""
        index = position & (1 << layout.INDEX_BITS) - 1
        rows: np.ndarray = reader.block(position >> layout.INDEX_BITS).entries(index, index + 1)
        self._fill(rows)
        return rows

    def in_block(self, reader: Reader, position: int) -> tuple[bytes, bytes]:
        """Return (leaf, path to the block's root) of the entry of a position.

        Raises DataDamaged when what is stored does not lead to the root in the block's header.
        """
        number, index = position >> layout.INDEX_BITS, position & (1 << layout.INDEX_BITS) - 1
        view = reader.block(number)
        runs = self._runs.get(number, lambda: self._run_roots(reader, number))
        run, place = divmod(index, RUN)
        start = run * RUN
        leaves = self._leaves(reader, number, start, min(start + RUN, view.entry_count))
        if tree_root(leaves) != runs[run].tobytes():
            raise DataDamaged(f"block {number}: entry {index} does not lead to the block's root")
        lower: bytes = tree_path(leaves, place)
        upper: bytes = tree_path(runs, run)
        return leaves[place].tobytes(), lower + upper

    def _run_roots(self, reader: Reader, number: int) -> np.ndarray:
        view = reader.block(number)
        leaves = self._leaves(reader, number, 0, view.entry_count)
        roots = [tree_root(leaves[start : start + RUN]) for start in range(0, len(leaves), RUN)]
        runs = np.frombuffer(b"".join(roots), np.uint8).reshape(-1, 32)
        if tree_root(runs) != view.root:
            raise DataDamaged(f"block {number}: its entries do not lead to the root in its header")
        return runs

    def _leaves(self, reader: Reader, number: int, start: int, stop: int) -> np.ndarray:
        view = reader.block(number)
        entries = view.entries(start, stop)
        self._fill(entries)
        private = view.private()
        if stop - start < view.entry_count:
            private = private.part(start, stop)
        first = layout.position(number, start)
        metadata = [reader.metadata(first + i) for i in private.metadata_indexes.tolist()]
        leaves: np.ndarray = block_leaves(entries, private, private.ext_digests(metadata))
        return leaves

    def in_interval(
        self, reader: Reader, number: int, *, first: int, last: int, root: bytes
    ) -> bytes:
        """Return the path of block ``number`` to the root of the interval of blocks ``first`` to
        ``last``; raise DataDamaged when the stored blocks do not lead to it."""
        hashes = self._intervals.get((first, last), lambda: _hashes(reader, first, last, root))
        path: bytes = tree_path(hashes, number - first, "interval")
        return path


def _hashes(reader: Reader, first: int, last: int, root: bytes) -> np.ndarray:
    joined = b"".join(reader.block(number).hash for number in range(first, last + 1))
    hashes = np.frombuffer(joined, np.uint8).reshape(-1, 32)
    if tree_root(hashes, "interval") != root:
        raise DataDamaged(
            f"blocks {first} to {last} do not lead to the root in their interval's record"
        )
    return hashes
