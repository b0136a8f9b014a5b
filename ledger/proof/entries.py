"""One entry as proofs show it: what is hashed into its leaf, each part opened or as its hash.

This is the only place that knows how an ENTRY row, its salts and its metadata become the parts of
a leaf; so what was erased is left out here, and nowhere else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from ledger import layout
from ledger._merkle import KEYS, keyed_hash, side_digest
from ledger.errors import DataDamaged, RequestRefused
from ledger.proof.canonical import b64

DEBIT: Final = 1
CREDIT: Final = 2
OWN: Final = 3
RECORD_BYTES: Final = 96
_TWO_SIDES: Final = frozenset(layout.ENTRY_KINDS[name][0] for name in ("transfer", "expiry"))
_ONE_SIDE: Final = frozenset(
    layout.ENTRY_KINDS[name][0] for name in ("account", "account_settings")
)
HAS_METADATA: Final = layout.flag_mask("ENTRY", "has_metadata")
INDEX_MASK: Final = (1 << layout.INDEX_BITS) - 1


class EntryErased(RequestRefused):
    """Of an entry nothing but the leaf is left."""

    def __init__(self, number: int) -> None:
        super().__init__("transfer_not_found", f"the entry {number} was erased with its account")


class Reader(Protocol):
    """A consistent view of the durable blocks: ``storage.store.Reader``."""

    @property
    def last_block(self) -> int: ...
    def block(self, number: int) -> Any: ...
    def metadata(self, position: int) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Side:
    """One side of an entry: its hash S and, unless it was erased, what S opens to."""

    digest: bytes
    account_id: int
    number: int
    salt: bytes | None
    """None when only the hash is left."""


@dataclass(frozen=True, slots=True)
class Ext:
    """An entry's metadata: the digest in its leaf and, unless it was erased, salt and text."""

    digest: bytes
    salt: bytes | None
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry with all that its leaf is made of."""

    position: int
    kind: int
    record: bytes
    """The TRANSFER record without its account ids, 96 bytes."""
    released: int
    debit: Side | None
    """The debit side; of openings and settings the account's own."""
    credit: Side | None
    ext: Ext | None

    @property
    def index(self) -> int:
        """Its place in its block."""
        return self.position & INDEX_MASK

    @property
    def block(self) -> int:
        """The number of its block."""
        return self.position >> layout.INDEX_BITS

    @property
    def leaf(self) -> bytes:
        """T, the entry's leaf."""
        sides = (side.digest if side else bytes(32) for side in (self.debit, self.credit))
        ext = self.ext.digest if self.ext else bytes(32)
        leaf: bytes = keyed_hash(KEYS[KIND_NAMES[self.kind]], self.record + b"".join(sides) + ext)
        return leaf

    def side_of(self, account_id: int) -> int:
        """Return which side an account has in the entry: DEBIT, CREDIT or OWN."""
        if self.debit is not None and self.debit.salt and self.debit.account_id == account_id:
            return OWN if self.kind in _ONE_SIDE else DEBIT
        if self.credit is not None and self.credit.salt and self.credit.account_id == account_id:
            return CREDIT
        raise DataDamaged(f"the entry at position {self.position} is not one of the account")


KIND_NAMES: Final = {number: name for name, (number, _) in layout.ENTRY_KINDS.items()}


def read_entry(reader: Reader, position: int, row: np.ndarray) -> Entry:
    """Return the entry of a position; ``row`` is its ENTRY row with account ids, an array of one.

    Raises EntryErased for an entry of which nothing but the leaf is left.
    """
    view = reader.block(position >> layout.INDEX_BITS)
    index = position & INDEX_MASK
    private = view.private().entry(index)
    if private.leaf is not None:
        raise EntryErased(view.first_entry + index)
    data = row.tobytes()
    kind, flags = data[_KIND], data[_FLAGS]
    released = int.from_bytes(data[_RELEASED], "little")
    debit = credit = None
    if kind in _TWO_SIDES:
        debit = _side(
            data[_DEBIT_ID],
            data[_DEBIT_NUMBER],
            released,
            DEBIT,
            kind,
            private.debit_salt,
            private.debit,
        )
        credit = _side(
            data[_CREDIT_ID],
            data[_CREDIT_NUMBER],
            released,
            CREDIT,
            kind,
            private.credit_salt,
            private.credit,
        )
    elif kind in _ONE_SIDE:
        debit = _side(
            data[_DEBIT_ID],
            data[_DEBIT_NUMBER],
            released,
            OWN,
            kind,
            private.debit_salt,
            private.debit,
        )
    ext = None
    if private.ext is not None:
        ext = Ext(private.ext, None, b"")
    elif flags & HAS_METADATA:
        metadata = reader.metadata(position)
        if metadata is None or private.ext_salt is None:
            raise DataDamaged(f"the metadata of the entry at position {position} is missing")
        digest = keyed_hash(KEYS["ext"], private.ext_salt + metadata)
        ext = Ext(digest, private.ext_salt, metadata)
    return Entry(position, kind, data[:16] + data[48:128], released, debit, credit, ext)


def _side(
    account_id: bytes,
    number: bytes,
    released: int,
    side: int,
    kind: int,
    salt: bytes | None,
    bare: bytes | None,
) -> Side:
    if salt is None:
        if bare is None:
            raise DataDamaged("a side has neither its salt nor its hash")
        return Side(bare, 0, 0, None)
    given = int.from_bytes(account_id, "little")
    place = int.from_bytes(number, "little")
    return Side(side_digest(given, place, released, side, kind, salt), given, place, salt)


def _field(*names: str) -> slice:
    """The bytes of a field of an ENTRY row."""
    dtype, start = layout.ENTRY, 0
    for name in names:
        assert dtype.fields is not None
        dtype, offset = dtype.fields[name][:2]
        start += offset
    return slice(start, start + dtype.itemsize)


_RELEASED: Final = _field("released")
_DEBIT_ID: Final = _field("record", "debit_account_id")
_CREDIT_ID: Final = _field("record", "credit_account_id")
_DEBIT_NUMBER: Final = _field("debit", "number")
_CREDIT_NUMBER: Final = _field("credit", "number")
_KIND: Final = _field("kind").start
_FLAGS: Final = _field("flags").start


# ----------------------------------------------------------------------------------------------
# As bundles write it
# ----------------------------------------------------------------------------------------------


def side_item(side: Side | None, *, opened: bool) -> Any:
    """Return a side of an ``entry`` item."""
    if side is None:
        return None
    if not opened or side.salt is None:
        return b64(side.digest)
    return {"account": str(side.account_id), "number": str(side.number), "salt": b64(side.salt)}


def ext_item(ext: Ext | None, *, opened: bool) -> Any:
    """Return the ext of an ``entry`` item."""
    if ext is None:
        return None
    if not opened or ext.salt is None:
        return b64(ext.digest)
    return {"salt": b64(ext.salt), "metadata": ext.metadata.decode()}


RELEASED: Final = 1
OTHER_HASH: Final = 2
OTHER_OPENED: Final = 4
EXT_HASH: Final = 8
EXT_OPENED: Final = 16
_HEAD: Final = struct.Struct("<BBB96s16s")


def packed(
    entry: Entry, account_id: int, *, counterparty: bool = False, metadata: bool = False
) -> bytes:
    """Return an entry of a statement, seen from one of its accounts.

    ``counterparty`` opens the other side, ``metadata`` the ext; what was erased stays a hash.
    """
    which = entry.side_of(account_id)
    own, other = (entry.credit, entry.debit) if which == CREDIT else (entry.debit, entry.credit)
    assert own is not None
    assert own.salt is not None
    bits, tail = 0, []
    if entry.released:
        bits |= RELEASED
        tail.append(entry.released.to_bytes(16, "little"))
    if other is not None:
        if counterparty and other.salt is not None:
            bits |= OTHER_OPENED
            tail.append(other.account_id.to_bytes(16, "little"))
            tail.append(other.number.to_bytes(8, "little") + other.salt)
        else:
            bits |= OTHER_HASH
            tail.append(other.digest)
    if entry.ext is not None:
        if metadata and entry.ext.salt is not None:
            bits |= EXT_OPENED
            tail.append(entry.ext.salt + len(entry.ext.metadata).to_bytes(2, "little"))
            tail.append(entry.ext.metadata)
        else:
            bits |= EXT_HASH
            tail.append(entry.ext.digest)
    return _HEAD.pack(entry.kind, which, bits, entry.record, own.salt) + b"".join(tail)
