"""``ledger.State``: the core with the memory store, in process. One call is one block; time is only
what is passed in.

The parts that the engine shares live here too: the kinds of requests and the chain of block
headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._history import History
from ledger._merkle import block_hash
from ledger._pack import encode_block
from ledger.config import Config
from ledger.errors import RequestRefused
from ledger.storage.memory import MemoryStore

MAGIC: Final = b"SANYUAN\0"
ANNOUNCES_KEY: Final = layout.flag_mask("BLOCK", "announces_key")


@dataclass(frozen=True, slots=True)
class RequestKind:
    """A kind of request: the records it brings, the method of the core that decides it, the
    namespace of its ids."""

    name: str
    dtype: np.dtype
    method: str
    namespace: int | None
    """None where the core itself knows every id (accounts)."""


_TRANSFER_IDS: Final = layout.NAMESPACES["transfer"][0]
_ADMINISTRATIVE_IDS: Final = layout.NAMESPACES["administrative"][0]

REQUEST_KINDS: Final[dict[str, RequestKind]] = {
    kind.name: kind
    for kind in (
        RequestKind("accounts", layout.ACCOUNT, "create_accounts", None),
        RequestKind("transfers", layout.TRANSFER, "create_transfers", _TRANSFER_IDS),
        RequestKind("settings", layout.ACCOUNT_SETTINGS, "change_settings", _ADMINISTRATIVE_IDS),
        RequestKind("definitions", layout.DEFINITION, "define", _ADMINISTRATIVE_IDS),
        RequestKind(
            "business_date", layout.BUSINESS_DATE, "move_business_date", _ADMINISTRATIVE_IDS
        ),
    )
}


class Chain:
    """The chain of block headers: each holds the hash of the one before."""

    def __init__(self, instance: bytes, last_hash: bytes) -> None:
        """Continue after the block whose hash is ``last_hash``; 32 zero bytes before block 0."""
        self.instance = instance
        self.last_hash = last_hash

    def header(
        self, block: Block, *, flags: int = 0, state: tuple[int, bytes] | None = None
    ) -> bytes:
        """Return the 256 header bytes of a hashed block, and make it the last of the chain.

        ``flags`` are block flags; ``announces_key`` follows from the entries. ``state`` is an
        earlier block and its state root.
        """
        header = np.zeros(1, layout.BLOCK_HEADER)
        row = header[0]
        row["magic"] = np.frombuffer(MAGIC, "u1")
        row["format"] = layout.FORMAT_VERSION
        row["rules"] = layout.RULES_VERSION
        row["instance"] = np.frombuffer(self.instance, "u1")
        row["number"] = block.number
        row["first_entry"] = block.first_entry
        row["last_timestamp"] = block.last_timestamp
        row["last_account_timestamp"] = block.last_account_timestamp
        row["last_transfer_timestamp"] = block.last_transfer_timestamp
        row["entry_count"] = block.count
        row["business_date"] = block.business_date
        row["flags"] = flags | (ANNOUNCES_KEY if block.announces_key else 0)
        if state is not None:
            row["state_block"] = state[0]
            row["state_root"] = np.frombuffer(state[1], "u1")
        row["previous_hash"] = np.frombuffer(self.last_hash, "u1")
        row["root"] = np.frombuffer(block.root, "u1")
        data = header.tobytes()
        self.last_hash = block_hash(data)
        return data


def records(dtype: np.dtype, events: Any) -> np.ndarray:
    """Return ``events`` as a contiguous 1-D array of ``dtype``.

    Takes arrays and single records of that dtype or one with the same field names, bytes of whole
    records, and lists of dicts by field name. Raises TypeError for anything else.
    """
    if isinstance(events, bytes | bytearray | memoryview):
        return np.frombuffer(events, dtype).copy()
    if isinstance(events, np.void):
        events = np.array([events], events.dtype)
    if isinstance(events, np.ndarray):
        array = np.atleast_1d(events)
        if array.ndim != 1:
            raise TypeError(f"records must be 1-D, not of shape {array.shape}")
        if array.dtype != dtype:
            if array.size == 0:
                return np.zeros(0, dtype)
            if array.dtype.names is None or set(array.dtype.names) - set(dtype.names or ()):
                raise TypeError(f"records have other fields than the ledger's: {array.dtype}")
            converted = np.zeros(array.shape, dtype)
            for name in array.dtype.names:
                converted[name] = array[name]
            return converted
        return np.ascontiguousarray(array)
    if isinstance(events, Sequence):
        if all(isinstance(event, np.void) for event in events):
            return np.array(list(events), dtype) if len(events) else np.zeros(0, dtype)
        if all(isinstance(event, Mapping) for event in events):
            return layout.record_array(dtype, [dict(event) for event in events])
    raise TypeError(f"records must be an array, bytes or a list of dicts, not {type(events)}")


def id_array(ids: Any) -> np.ndarray:
    """Return ids as a contiguous U128 array; takes such an array, or a sequence of ints below
    2^128."""
    if isinstance(ids, np.ndarray) and ids.dtype == layout.U128:
        return np.ascontiguousarray(np.atleast_1d(ids))
    return np.array([layout.from_int(int(value)) for value in ids], layout.U128)


def find_transfers(
    store: Any, core: Core, ids: np.ndarray, in_flight: Mapping[int, Block]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (TRANSFER array, found bool array) in the order of ``ids``; rows not found hold
    zeros."""
    resolved = store.resolve_ids(core, ids, in_flight)
    resolved = resolved[
        (resolved["outcome"] == layout.OUTCOMES["created"][0])
        & (resolved["kind"] == layout.ENTRY_KINDS["transfer"][0])
    ]
    places = {layout.to_int(row): place for place, row in enumerate(resolved["record"]["id"])}
    found = np.zeros(len(ids), np.bool_)
    transfers = np.zeros(len(ids), layout.TRANSFER)
    for index, value in enumerate(ids):
        place = places.get(layout.to_int(value))
        if place is not None:
            transfers[index] = resolved["record"][place]
            found[index] = True
    return transfers, found


class State:
    """A ledger in memory, with every rule and no clock, disk or server.

    ``event i of n`` of a request happens at ``timestamp_ns - n + i + 1``; timestamps must advance
    from call to call. Events are record arrays of the dtypes in :mod:`ledger.layout` (or what
    :func:`records` can make into one). ``metadata`` maps an event's index to its canonical JSON
    bytes; ``dry_run`` answers as the real request would and leaves nothing; ``explain`` fills
    :attr:`explanations` with the reasons of the refusals.
    """

    def __init__(self, config: Config | None = None) -> None:
        self._config = config or Config()
        self._store = MemoryStore(self._config)
        self._core = Core(holds_max=self._config.holds)
        recovery = self._store.recover(self._core)
        self._history = History(self._core)
        self._block = Block()
        self._chain = Chain(recovery.instance, recovery.last_hash)
        self.explanations: list[dict[str, object]] = []

    # ------------------------------------------------------------------------------------------
    # Requests
    # ------------------------------------------------------------------------------------------

    def create_accounts(
        self,
        events: Any,
        timestamp_ns: int,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> np.ndarray:
        """Open accounts (ACCOUNT records); return one RESULT for each event, in order."""
        return self._post("accounts", events, timestamp_ns, metadata, dry_run, explain)

    def create_transfers(
        self,
        events: Any,
        timestamp_ns: int,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> np.ndarray:
        """Create transfers (TRANSFER records); return one RESULT for each event, in order."""
        return self._post("transfers", events, timestamp_ns, metadata, dry_run, explain)

    def change_settings(
        self,
        events: Any,
        timestamp_ns: int,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> np.ndarray:
        """Replace the settings of accounts (ACCOUNT_SETTINGS records); return one RESULT for each
        event."""
        return self._post("settings", events, timestamp_ns, metadata, dry_run, explain)

    def define(
        self,
        events: Any,
        timestamp_ns: int,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> np.ndarray:
        """Declare ledgers and codes (DEFINITION records); return one RESULT for each event."""
        return self._post("definitions", events, timestamp_ns, metadata, dry_run, explain)

    def move_business_date(
        self,
        events: Any,
        timestamp_ns: int,
        *,
        metadata: Mapping[int, bytes] | None = None,
        dry_run: bool = False,
        explain: bool = False,
    ) -> np.ndarray:
        """Move the business date forward (BUSINESS_DATE records); return one RESULT for each
        event."""
        return self._post("business_date", events, timestamp_ns, metadata, dry_run, explain)

    def expire(self, timestamp_ns: int) -> int:
        """Expire every pending transfer whose time has come at ``timestamp_ns``; return how many.

        Expiry i of k happens at ``timestamp_ns - k + i + 1``. One call is one block, so at most
        65,536; the rest expires with the next call.
        """
        core = self._core
        if not 0 < core.next_expiry <= timestamp_ns:
            return 0
        self._check_advances(timestamp_ns, 1)
        core.open_block(self._block, core.block_number + 1)
        made = core.expire(timestamp_ns, layout.BLOCK_ENTRIES_MAX)
        self._commit()
        return int(made)

    # ------------------------------------------------------------------------------------------
    # Reads
    # ------------------------------------------------------------------------------------------

    def lookup_accounts(self, ids: Any) -> np.ndarray:
        """Return the ACCOUNT records of those ids that exist, in the order of ``ids``."""
        accounts, found = self._core.lookup_accounts(id_array(ids))
        found_accounts: np.ndarray = accounts[found]
        return found_accounts

    def lookup_transfers(self, ids: Any) -> np.ndarray:
        """Return the TRANSFER records of those ids that exist, in the order of ``ids``."""
        transfers, found = find_transfers(self._store, self._core, id_array(ids), {})
        found_transfers: np.ndarray = transfers[found]
        return found_transfers

    def get_account_transfers(self, filter: Any) -> np.ndarray:
        """Return the TRANSFER records of one account that an ACCOUNT_FILTER matches; empty for an
        invalid filter."""
        record = records(layout.ACCOUNT_FILTER, filter)[0]
        with self._store.reader() as reader:
            answer: np.ndarray = self._history.account_transfers(
                reader, record, self._core.block_number
            )
            return answer

    def get_account_balances(self, filter: Any) -> np.ndarray:
        """Return the ACCOUNT_BALANCE records after each transfer that an ACCOUNT_FILTER matches.

        Empty for an account without the history flag and for an invalid filter.
        """
        record = records(layout.ACCOUNT_FILTER, filter)[0]
        with self._store.reader() as reader:
            answer: np.ndarray = self._history.account_balances(
                reader, record, self._core.block_number
            )
            return answer

    def query_accounts(self, filter: Any) -> np.ndarray:
        """Return the ACCOUNT records that a QUERY_FILTER matches; empty for an invalid filter."""
        answer: np.ndarray = self._core.query_accounts(records(layout.QUERY_FILTER, filter)[0])
        return answer

    def query_transfers(self, filter: Any) -> np.ndarray:
        """Return the TRANSFER records that a QUERY_FILTER matches; empty for an invalid filter."""
        record = records(layout.QUERY_FILTER, filter)[0]
        with self._store.reader() as reader:
            answer: np.ndarray = self._history.query_transfers(
                reader, record, self._core.block_number
            )
            return answer

    def get_change_events(self, filter: Any) -> np.ndarray:
        """Return the CHANGE_EVENT records in the range of a CHANGE_EVENTS_FILTER; empty for an
        invalid filter."""
        record = records(layout.CHANGE_EVENTS_FILTER, filter)[0]
        with self._store.reader() as reader:
            answer: np.ndarray = self._history.change_events(
                reader, record, self._core.block_number
            )
            return answer

    @property
    def core(self) -> Core:
        """The state machine itself, for look-ups that have no name here."""
        return self._core

    # ------------------------------------------------------------------------------------------
    # One block
    # ------------------------------------------------------------------------------------------

    def _check_advances(self, timestamp_ns: int, count: int) -> None:
        last = self._core.last_timestamp
        if timestamp_ns > layout.TIMESTAMP_MAX:
            raise RequestRefused(
                "timestamp_out_of_range", f"{timestamp_ns} ns is above {layout.TIMESTAMP_MAX}"
            )
        if timestamp_ns - count < last:
            raise RequestRefused(
                "timestamp_must_advance",
                f"{count} events up to {timestamp_ns} ns begin before the last one, {last} ns",
            )

    def _post(
        self,
        kind_name: str,
        events: Any,
        timestamp_ns: int,
        metadata: Mapping[int, bytes] | None,
        dry_run: bool,
        explain: bool,
    ) -> np.ndarray:
        kind = REQUEST_KINDS[kind_name]
        array = records(kind.dtype, events)
        results = np.zeros(len(array), layout.RESULT)
        if len(array) == 0:
            return results
        if len(array) > layout.BLOCK_ENTRIES_MAX:
            raise RequestRefused(
                "too_many_events",
                f"{len(array)} events in one request; at most {layout.BLOCK_ENTRIES_MAX}",
            )
        self._check_advances(timestamp_ns, len(array))
        core, store = self._core, self._store
        resolved = asked = None
        if kind.namespace is not None:
            resolved = store.resolve(
                core, array.view(layout.TRANSFER), {}, namespace=kind.namespace
            )
        else:
            asked = core.questioned_timestamps(array)
        core.open_block(self._block, core.block_number + 1)
        if resolved is not None:
            core.load_resolved(resolved)
        if asked is not None and len(asked):
            core.load_used_timestamps(store.used_timestamps(asked, {}))
        explanations = getattr(core, kind.method)(
            array, timestamp_ns, results, metadata=metadata, dry_run=dry_run, explain=explain
        )
        if explain:
            self.explanations = explanations or []
        self._commit()
        return results

    def _commit(self) -> None:
        core, block = self._core, self._block
        core.close_block()
        if not block.count:
            return
        self._store.insert_ids(block)
        core.hash_block(block, hashlib.sha256(block.number.to_bytes(8, "little")).digest())
        self._store.append(encode_block(block, self._chain.header(block)), block)
