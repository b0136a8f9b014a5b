"""Interval records: what one leaf of the outer log says of the blocks between two seals.

A record is a pure function of the journal and the log's origin, so the log can be made again at any
time. The exact text is in docs/proofs.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from ledger import layout
from ledger._merkle import block_hash, tree_root
from ledger.errors import DataDamaged
from ledger.proof.notes import ED25519, BadNote, VerifierKey, check_name, decode_base64
from ledger.proof.notes import encode_base64 as b64

RECORD_BYTES_MAX: Final = 1024
ORIGIN_BYTES_MAX: Final = 200
"""So a record with a key in it, which names the origin twice, stays within its limit."""
FIRST_LINE: Final = "sanyuan interval v1"

SEAL: Final = layout.flag_mask("BLOCK", "seal")
ANNOUNCES_KEY: Final = layout.flag_mask("BLOCK", "announces_key")
SIGNING_KEY: Final = layout.DEFINITION_KINDS["signing_key"][0]
"""The kind of a definition that announces a signing key: its metadata has the vkey."""

_HAS_METADATA: Final = layout.flag_mask("ENTRY", "has_metadata")
_DEFINITION: Final = layout.ENTRY_KINDS["definition"][0]
_NUMBER: Final = r"(0|[1-9][0-9]{0,19})"
_HASH: Final = r"([A-Za-z0-9+/]{43}=)"
_FORM: Final = re.compile(
    rf"{FIRST_LINE}\n"
    r"origin (\S+)\n"
    r"instance ([0-9a-f]{32})\n"
    rf"blocks {_NUMBER} {_NUMBER}\n"
    rf"entries {_NUMBER} {_NUMBER}\n"
    rf"time {_NUMBER}\n"
    rf"date {_NUMBER}\n"
    rf"root {_HASH}\n"
    rf"last {_HASH}\n"
    rf"state (?:none|{_NUMBER} {_NUMBER} {_NUMBER} {_NUMBER} {_HASH})\n"
    r"(?:key (\S+)\n)?"
)


class DoesNotFollow(DataDamaged):
    """A block of the journal is not the one that comes after what the log has."""


class View(Protocol):
    """A stored block: ``ledger._rows.BlockView``."""

    @property
    def header_bytes(self) -> bytes: ...
    def entries(self, start: int = 0, stop: int | None = None) -> Any: ...


class Reader(Protocol):
    """The durable blocks, as storage shows them."""

    def block(self, number: int) -> Any: ...
    def metadata(self, position: int) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class State:
    """A state root and the block after which it was taken."""

    block: int
    timestamp: int
    """Last timestamp of that block, ns."""
    date_before: int
    """The business date before that block: an earlier one when the block ended a day."""
    business_date: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One interval: its blocks and entries, its end, and the newest state root known by then."""

    origin: str
    instance: bytes
    first_block: int
    last_block: int
    first_entry: int
    entry_count: int
    timestamp: int
    """Last timestamp of the last block, ns."""
    business_date: int
    root: bytes
    """Root of the tree over the interval's block hashes."""
    last_hash: bytes
    state: State | None
    key: str | None
    """The vkey of the signing key that was announced in the interval."""

    def text(self) -> str:
        """Return the record as it stands in the log."""
        state = self.state
        lines = [
            FIRST_LINE,
            f"origin {self.origin}",
            f"instance {self.instance.hex()}",
            f"blocks {self.first_block} {self.last_block}",
            f"entries {self.first_entry} {self.entry_count}",
            f"time {self.timestamp}",
            f"date {self.business_date}",
            f"root {b64(self.root)}",
            f"last {b64(self.last_hash)}",
            "state none"
            if state is None
            else f"state {state.block} {state.timestamp} {state.date_before}"
            f" {state.business_date} {b64(state.root)}",
        ]
        if self.key is not None:
            lines.append(f"key {self.key}")
        return "\n".join(lines) + "\n"


def parse_record(text: str) -> Record:
    """Return what a record says; raise DataDamaged unless it is one in its only form."""
    match = _FORM.fullmatch(text)
    if match is None or len(text.encode("utf-8", "surrogatepass")) > RECORD_BYTES_MAX:
        raise DataDamaged("not an interval record in its one form")
    origin, instance, *numbers, root, last = match.groups()[:10]
    first_block, last_block, first_entry, entry_count, timestamp, date = map(int, numbers)
    state_block, state_time, date_before, state_date, state_root, key = match.groups()[10:]
    try:
        state = None
        if state_block is not None:
            state_hash = decode_base64(state_root)
            times = (int(state_time), int(date_before), int(state_date))
            state = State(int(state_block), *times, state_hash)
        record = Record(
            origin=check_name(origin),
            instance=bytes.fromhex(instance),
            first_block=first_block,
            last_block=last_block,
            first_entry=first_entry,
            entry_count=entry_count,
            timestamp=timestamp,
            business_date=date,
            root=decode_base64(root),
            last_hash=decode_base64(last),
            state=state,
            key=key,
        )
        announced = None if key is None else VerifierKey.parse(key)
    except BadNote as error:
        raise DataDamaged(f"not an interval record: {error}") from error
    whole = (last_block, first_entry + entry_count, timestamp)
    dates = [date] if state is None else [date, state.business_date, state.date_before]
    if (
        first_block > last_block
        or entry_count <= last_block - first_block  # no block is empty
        or max(whole) > layout.U64_MAX
        or any(one and not 1000_01_01 <= one <= 9999_12_31 for one in dates)
        or (state is not None and (state.block >= last_block or state.timestamp > timestamp))
        or (state is not None and not state.date_before <= state.business_date <= date)
        or (announced is not None and (announced.name != origin or announced.kind != ED25519))
    ):
        raise DataDamaged("an interval record that contradicts itself")
    return record


# ----------------------------------------------------------------------------------------------
# From block headers
# ----------------------------------------------------------------------------------------------


def _reading(name: str) -> Any:
    """Return a function that reads one whole-number field of a header's bytes."""
    dtype, offset = layout.BLOCK_HEADER.fields[name][:2]  # type: ignore[index]
    end = offset + dtype.itemsize
    return lambda header: int.from_bytes(header[offset:end], "little")


def _bytes_of(name: str) -> slice:
    dtype, offset = layout.BLOCK_HEADER.fields[name][:2]  # type: ignore[index]
    return slice(offset, offset + dtype.itemsize)


_number: Final = _reading("number")
_first_entry: Final = _reading("first_entry")
_entry_count: Final = _reading("entry_count")
_last_timestamp: Final = _reading("last_timestamp")
_business_date: Final = _reading("business_date")
_flags: Final = _reading("flags")
_state_block: Final = _reading("state_block")
_STATE_ROOT: Final = _bytes_of("state_root")
_PREVIOUS_HASH: Final = _bytes_of("previous_hash")
_INSTANCE: Final = _bytes_of("instance")
_NO_HASH: Final = bytes(32)


class Intervals:
    """Reads block headers in order and makes a record at each seal."""

    def __init__(self, origin: str, instance: bytes, previous: Record | None = None) -> None:
        """Begin after a record of the same log, or at block 0."""
        if check_name(origin) and len(origin.encode()) > ORIGIN_BYTES_MAX:
            raise ValueError(f"an origin of more than {ORIGIN_BYTES_MAX} bytes")
        self._origin = origin
        self._instance = instance
        self._next_block = 0 if previous is None else previous.last_block + 1
        self._last_hash = _NO_HASH if previous is None else previous.last_hash
        self._state = None if previous is None else previous.state
        self._begin()

    @property
    def next_block(self) -> int:
        """The first block that was not read yet."""
        return self._next_block

    @property
    def open_blocks(self) -> int:
        """Blocks read since the last seal."""
        return len(self._hashes)

    def _begin(self) -> None:
        self._first_entry = 0
        self._hashes: list[bytes] = []
        self._key: str | None = None

    def read(self, reader: Reader, last_block: int) -> Iterator[Record]:
        """Yield the record of each interval that ends up to ``last_block``, in order.

        Goes on where the call before ended, however that was. Raises DoesNotFollow when a block
        does not follow the one before it or is of another ledger.
        """
        while self._next_block <= last_block:
            record = self._take(reader, self._next_block)
            if record is not None:
                yield record

    def _take(self, reader: Reader, number: int) -> Record | None:
        view = reader.block(number)
        header: bytes = view.header_bytes
        if (
            header[_PREVIOUS_HASH] != self._last_hash
            or header[_INSTANCE] != self._instance
            or _number(header) != number
        ):
            raise DoesNotFollow(
                f"block {number} does not follow the block before it that the log has, or is of"
                " another ledger"
            )
        state, key, flags = self._state, self._key, _flags(header)
        if header[_STATE_ROOT] != _NO_HASH and (
            state is None or _state_block(header) > state.block
        ):
            state = self._read_state(reader, header)
        if flags & ANNOUNCES_KEY:
            key = self._announced(reader, view, number) or key
        digest = block_hash(header)

        # From here on nothing fails, so a block counts as a whole or not at all.
        if not self._hashes:
            self._first_entry = _first_entry(header)
        self._hashes.append(digest)
        self._last_hash, self._state, self._key = digest, state, key
        self._next_block = number + 1
        if not flags & SEAL:
            return None
        record = Record(
            origin=self._origin,
            instance=self._instance,
            first_block=number + 1 - len(self._hashes),
            last_block=number,
            first_entry=self._first_entry,
            entry_count=_first_entry(header) + _entry_count(header) - self._first_entry,
            timestamp=_last_timestamp(header),
            business_date=_business_date(header),
            root=interval_root(self._hashes),
            last_hash=digest,
            state=state,
            key=key,
        )
        self._begin()
        return record

    @staticmethod
    def _read_state(reader: Reader, header: bytes) -> State:
        block = _state_block(header)
        if block >= _number(header):
            raise DataDamaged(f"block {_number(header)} names the state root of a later block")
        of = reader.block(block).header_bytes
        before = _business_date(reader.block(block - 1).header_bytes) if block else 0
        dates = (before, _business_date(of))
        return State(block, _last_timestamp(of), *dates, header[_STATE_ROOT])

    def _announced(self, reader: Reader, view: View, number: int) -> str | None:
        """Return the last signing key of this log that a block announces."""
        entries = view.entries()
        found = None
        for index, entry in enumerate(entries):
            if (
                int(entry["kind"]) != _DEFINITION
                or int(entry["record"]["timeout"]) != SIGNING_KEY
                or not int(entry["flags"]) & _HAS_METADATA
            ):
                continue
            metadata = reader.metadata(layout.position(number, index))
            found = announced_key(metadata or b"", self._origin) or found
        return found


def announced_key(metadata: bytes, origin: str) -> str | None:
    """Return the vkey that a signing-key definition announces, None when it is none of this log."""
    try:
        text = json.loads(metadata)["vkey"]
        key = VerifierKey.parse(text)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return text if key.name == origin and key.kind == ED25519 else None


def interval_root(block_hashes: list[bytes]) -> bytes:
    """Return the root of the tree over the hashes of an interval's blocks."""
    rows = np.frombuffer(b"".join(block_hashes), "u1").reshape(-1, 32)
    root: bytes = tree_root(rows, "interval")
    return root
