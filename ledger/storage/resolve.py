"""What storage knows of ids of earlier blocks, as RESOLVED rows for the core.

The index of ids answers with positions; the entries there say what the ids stand for. They are read
from the journal, or from the decided blocks that are still on their way to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from blake3 import blake3

from ledger import layout
from ledger.errors import DataDamaged
from ledger.storage.store import Block, Core, Journal, Reader

_TRANSFERS: Final = layout.NAMESPACES["transfer"][0]
_TRANSFER: Final = layout.ENTRY_KINDS["transfer"][0]
_EXPIRY: Final = layout.ENTRY_KINDS["expiry"][0]
_BURNED: Final = layout.ENTRY_KINDS["burned_id"][0]
_HAS_NO_ID: Final = (layout.ENTRY_KINDS["account"][0], _EXPIRY)
_CREATED: Final = layout.OUTCOMES["created"][0]
_ID_BURNED: Final = layout.OUTCOMES["burned"][0]
_POSTED: Final = layout.RESOLUTIONS["posted"][0]
_VOIDED: Final = layout.RESOLUTIONS["voided"][0]
_EXPIRED: Final = layout.RESOLUTIONS["expired"][0]
_POST: Final = layout.flag_mask("TRANSFER", "post_pending_transfer")
_VOID: Final = layout.flag_mask("TRANSFER", "void_pending_transfer")
_HAS_METADATA: Final = layout.flag_mask("ENTRY", "has_metadata")
_INDEXES: Final = (1 << layout.INDEX_BITS) - 1
ROWS_READ_ALONE: Final = 16
"""A block is decoded whole when more than one row in so many is wanted."""
_NOTHING: Final = np.zeros(0, layout.RESOLVED)

REBUILD: Final = "stop the ledger, remove its directory 'ids' and start it; the index is rebuilt"


def _bytes(rows: np.ndarray) -> np.ndarray:
    """Records as rows of bytes: copying nested records by bytes is many times faster than by
    fields."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.dtype.itemsize)


def _read_entries(
    core: Core, reader: Reader, in_flight: Mapping[int, Block], positions: np.ndarray
) -> tuple[np.ndarray, list[bytes | None]]:
    """Return the entries at positions, account ids filled in, and their metadata."""
    entries = np.zeros(len(positions), layout.ENTRY)
    metadata: list[bytes | None] = [None] * len(positions)
    out = _bytes(entries)
    numbers, indexes = positions >> np.uint64(layout.INDEX_BITS), positions & np.uint64(_INDEXES)
    stored = np.ones(len(positions), bool)
    for number in np.unique(numbers).tolist():
        places = np.flatnonzero(numbers == number)
        wanted = indexes[places].astype(np.int64)
        block = in_flight.get(number)
        if block is not None:
            rows = block.entries
            stored[places] = False
            out[places] = _bytes(rows)[wanted]
            if block.metadata:
                for place in places.tolist():
                    at = int(entries["metadata"][place])
                    metadata[place] = block.metadata[at - 1] if at else None
            continue
        try:
            view = reader.block(number)
            if int(wanted.max()) >= view.entry_count:
                raise LookupError
        except LookupError as error:
            raise DataDamaged(
                f"the index of ids names entry {int(wanted.max())} of block {number}, which is not"
                f" there: {REBUILD}"
            ) from error
        if len(places) * ROWS_READ_ALONE > view.entry_count:
            out[places] = _bytes(view.entries())[wanted]
        else:
            for place, index in zip(places.tolist(), wanted.tolist(), strict=True):
                out[place] = _bytes(view.entries(index, index + 1))[0]
        for place in places[entries["flags"][places] & _HAS_METADATA != 0].tolist():
            metadata[place] = reader.metadata(int(positions[place]))
    if stored.all():
        core.fill_account_ids(entries)
    elif stored.any():
        from_journal = entries[stored]
        core.fill_account_ids(from_journal)
        out[stored] = _bytes(from_journal)
    return entries, metadata


class Resolver:
    """Answers from the index of ids and the journal; engine thread."""

    def __init__(self, ids: Any, journal: Journal) -> None:
        self._ids = ids
        self._journal = journal

    def resolve(
        self,
        core: Core,
        transfers: np.ndarray,
        in_flight: Mapping[int, Block],
        namespace: int = 0,
    ) -> np.ndarray:
        """Return what is known of the ids (and pending ids) of events; see ``store.Store``."""
        if namespace == _TRANSFERS:
            candidates = self._ids.candidates(transfers, core.open_holds(transfers))
        else:
            candidates = self._ids.candidates_of(transfers["id"], namespace)
        return self._look_up(core, candidates, in_flight)

    def resolve_ids(
        self, core: Core, ids: np.ndarray, in_flight: Mapping[int, Block], namespace: int = 0
    ) -> np.ndarray:
        """Return what is known of ids; see ``store.Store``."""
        return self._look_up(core, self._ids.candidates_of(ids, namespace), in_flight)

    def _look_up(
        self, core: Core, candidates: np.ndarray, in_flight: Mapping[int, Block]
    ) -> np.ndarray:
        if len(candidates) == 0:
            return _NOTHING
        try:
            found = self._ids.lookup(candidates)
        except DataDamaged as error:
            raise DataDamaged(f"{error}: {REBUILD}") from error
        if len(found) == 0:
            return _NOTHING
        with self._journal.reader() as reader:
            entries, metadata = _read_entries(core, reader, in_flight, found["position"])
        return _joined(candidates, found, entries, metadata)

    # ---- timestamps of imported accounts ----

    def used_timestamps(self, timestamps: np.ndarray, in_flight: Mapping[int, Block]) -> list[int]:
        """Return those of the timestamps that a transfer or expiry has; see ``store.Store``."""
        if len(timestamps) == 0:
            return []
        used = []
        with self._journal.reader() as reader:
            for timestamp in timestamps:
                if self._is_used(reader, in_flight, int(timestamp)):
                    used.append(int(timestamp))
        return used

    @staticmethod
    def _is_used(reader: Reader, in_flight: Mapping[int, Block], timestamp: int) -> bool:
        """Transfers and expiries have rising timestamps, so the first block that reaches one is the
        only that may have it."""
        low, high = 0, reader.last_block + 1
        while low < high:
            middle = (low + high) // 2
            if reader.block(middle).last_transfer_timestamp < timestamp:
                low = middle + 1
            else:
                high = middle
        blocks = [in_flight[number].entries for number in sorted(in_flight)]
        if low <= reader.last_block:
            blocks.insert(0, reader.block(low).entries())
        for entries in blocks:
            of_transfers = (entries["kind"] == _TRANSFER) | (entries["kind"] == _EXPIRY)
            if np.any(entries["record"]["timestamp"][of_transfers] == timestamp):
                return True
        return False


def _same(ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    same: np.ndarray = (ids["lo"] == others["lo"]) & (ids["hi"] == others["hi"])
    return same


def _joined(
    candidates: np.ndarray, found: np.ndarray, entries: np.ndarray, metadata: list[bytes | None]
) -> np.ndarray:
    """Drop what belongs to other ids with the same hash, and put an id's entry and its resolution
    together."""
    places = found["candidate"].astype(np.int64)
    wanted = candidates[places]
    records, kinds = entries["record"], entries["kind"]
    is_transfer = wanted["namespace"] == _TRANSFERS
    of_transfer = (kinds == _TRANSFER) | (kinds == _BURNED)
    has_id = ~np.isin(kinds, _HAS_NO_ID)
    owns = ~found["resolved"] & has_id & (of_transfer == is_transfer)
    owns &= _same(records["id"], wanted["id"])
    rows = np.flatnonzero(owns)
    if len(rows) == 0:
        return _NOTHING
    resolutions = np.zeros(len(candidates), np.uint8)
    resolves = found["resolved"] & is_transfer & _same(records["pending_id"], wanted["id"])
    flags = records["flags"]
    for condition, resolution in (
        (kinds == _EXPIRY, _EXPIRED),
        ((kinds == _TRANSFER) & (flags & _POST != 0), _POSTED),
        ((kinds == _TRANSFER) & (flags & _VOID != 0), _VOIDED),
    ):
        resolutions[places[resolves & condition]] = resolution
    out = np.zeros(len(rows), layout.RESOLVED)
    record_bytes = layout.TRANSFER.itemsize
    _bytes(out)[:, :record_bytes] = _bytes(entries)[rows, :record_bytes]
    out["namespace"] = wanted["namespace"][rows]
    out["outcome"] = np.where(kinds[rows] == _BURNED, _ID_BURNED, _CREATED)
    out["resolution"] = resolutions[places[rows]]
    out["kind"] = kinds[rows]
    for place, row in enumerate(rows.tolist()):
        data = metadata[row]
        if data is not None:
            out["metadata_digest"][place] = np.frombuffer(blake3(data).digest(), np.uint8)
    return out
