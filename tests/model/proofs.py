"""The oracle of proofs: docs/proofs.md written plainly, in the order of that document.

A small ledger's whole history with every hash, tree, record, signature, bundle and zip, made with
lists and recursion. It decides nothing: balances follow the entries it is told. It shares no code
with the ledger or the verifiers; the ``blake3`` and ``cryptography`` packages do the arithmetic.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KIND = {
    "account": 1,
    "transfer": 2,
    "expiry": 3,
    "burned_id": 4,
    "account_settings": 5,
    "definition": 6,
    "administration": 8,
}
KIND_NAME = {number: name for name, number in KIND.items()}
DEBIT, CREDIT, OWN = 1, 2, 3
SIDE_NAME = {DEBIT: "debit", CREDIT: "credit", OWN: "own"}
PENDING, POST, VOID, CLOSING_DEBIT, CLOSING_CREDIT, IMPORTED = 2, 4, 8, 64, 128, 256
ACCOUNT_IMPORTED, CLOSED = 16, 32
SEAL = 1
ZEROS = bytes(32)
DAY_NS = 86_400 * 10**9


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def keyed(name: str, message: bytes) -> bytes:
    key = blake3(b"", derive_key_context=f"sanyuan 2026 v1 {name}").digest()
    return blake3(message, key=key).digest()


def drawn(name: str, size: int = 32) -> bytes:
    """Bytes that look random and are always the same."""
    return blake3(name.encode()).digest(size)


# ----------------------------------------------------------------------------------------------
# Trees of RFC 6962's shape, by their recursive definitions
# ----------------------------------------------------------------------------------------------


def split(count: int) -> int:
    """The largest power of two below the count."""
    return 1 << (count - 1).bit_length() - 1


def root_of(nodes: Sequence, join: Callable):
    if len(nodes) <= 1:
        return nodes[0] if nodes else ZEROS
    k = split(len(nodes))
    return join(root_of(nodes[:k], join), root_of(nodes[k:], join))


def path_of(nodes: Sequence, index: int, join: Callable) -> list:
    if len(nodes) == 1:
        return []
    k = split(len(nodes))
    if index < k:
        return [*path_of(nodes[:k], index, join), root_of(nodes[k:], join)]
    return [*path_of(nodes[k:], index - k, join), root_of(nodes[:k], join)]


def consistency_of(nodes: Sequence, old: int, join: Callable, whole: bool = True) -> list:
    """SUBPROOF of RFC 6962, 2.1.2."""
    if old == len(nodes):
        return [] if whole else [root_of(nodes, join)]
    k = split(len(nodes))
    if old <= k:
        return [*consistency_of(nodes[:k], old, join, whole), root_of(nodes[k:], join)]
    return [*consistency_of(nodes[k:], old - k, join, False), root_of(nodes[:k], join)]


def keyed_join(name: str) -> Callable[[bytes, bytes], bytes]:
    return lambda left, right: keyed(name, left + right)


def sha_leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def sha_join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


# ----------------------------------------------------------------------------------------------
# Inside a block
# ----------------------------------------------------------------------------------------------


@dataclass
class Side:
    side: int
    account: int
    number: int
    salt: bytes = b""


@dataclass
class Entry:
    """One entry; ``sides`` are debit and credit, or the own one alone, or none."""

    kind: str
    id: int = 0
    amount: int = 0
    pending_id: int = 0
    user_data: tuple[int, int, int] = (0, 0, 0)
    timeout: int = 0
    ledger: int = 0
    code: int = 0
    flags: int = 0
    timestamp: int = 0
    released: int = 0
    sides: list[Side] = field(default_factory=list)
    metadata: str | None = None
    ext_salt: bytes = b""
    number: int = 0

    @property
    def record(self) -> bytes:
        return (
            little(self.id, 16)
            + little(self.amount, 16)
            + little(self.pending_id, 16)
            + little(self.user_data[0], 16)
            + little(self.user_data[1], 8)
            + little(self.user_data[2], 4)
            + little(self.timeout, 4)
            + little(self.ledger, 4)
            + little(self.code, 2)
            + little(self.flags, 2)
            + little(self.timestamp, 8)
        )

    def side_hash(self, side: Side) -> bytes:
        return keyed(
            "side",
            little(side.account, 16)
            + little(side.number, 8)
            + little(self.released, 16)
            + bytes([side.side, KIND[self.kind]])
            + bytes(6)
            + side.salt,
        )

    @property
    def ext(self) -> bytes:
        if self.metadata is None:
            return ZEROS
        return keyed("ext", self.ext_salt + self.metadata.encode())

    @property
    def leaf(self) -> bytes:
        hashes = [self.side_hash(side) for side in self.sides] + [ZEROS, ZEROS]
        return keyed(self.kind, self.record + hashes[0] + hashes[1] + self.ext)


@dataclass
class Block:
    header: bytes
    entries: list[Entry]
    first_entry: int
    time: int
    date: int

    @property
    def number(self) -> int:
        return int.from_bytes(self.header[32:40], "little")

    @property
    def hash(self) -> bytes:
        return keyed("block", self.header)


# ----------------------------------------------------------------------------------------------
# State root of a block
# ----------------------------------------------------------------------------------------------


@dataclass
class Account:
    id: int
    ledger: int
    code: int
    flags: int
    ordinal: int
    salt: bytes = b""
    balances: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    """Debits pending and posted, credits pending and posted."""
    settings: tuple[int, int, int] = (0, 0, 0)
    """Overdraft, ceiling, flags."""
    entries: list[tuple[Entry, Side]] = field(default_factory=list)

    @property
    def head(self) -> bytes:
        """The chain over all its entries, from the opening on."""
        head = self.entries[0][0].leaf
        for entry, _ in self.entries[1:]:
            head = keyed("chain", head + entry.leaf)
        return head

    def message(self) -> bytes:
        return (
            little(self.id, 16)
            + b"".join(little(balance, 16) for balance in self.balances)
            + little(self.settings[0], 16)
            + little(self.settings[1], 16)
            + self.head
            + little(len(self.entries), 8)
            + little(self.ordinal, 8)
            + little(self.ledger, 4)
            + little(self.code, 2)
            + little(self.flags, 2)
            + little(self.settings[2], 2)
            + bytes([0])
            + bytes(5)
            + self.salt
        )


Sums = tuple[int, int, int]
Node = tuple[bytes, Sums]


def number_at(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "little")


def sums_of(messages: Iterable[bytes]) -> Sums:
    debits, credits, net = 0, 0, 0
    for message in messages:
        debit, credit = number_at(message, 32, 16), number_at(message, 64, 16)
        debits, credits, net = debits + debit, credits + credit, net + max(credit - debit, 0)
    return (debits, credits, net)


def sums_bytes(sums: Sums) -> bytes:
    return b"".join(little(one, 20) for one in sums)


def sum_join(left: Node, right: Node) -> Node:
    message = b"".join(node[0] + sums_bytes(node[1]) + bytes(4) for node in (left, right))
    return keyed("sum", message), tuple(a + b for a, b in zip(left[1], right[1], strict=True))


class Group:
    """The accounts of one (kind, ledger, code), in tiles of 256."""

    def __init__(self, messages: list[bytes], tile_sums: dict[int, Sums] | None = None) -> None:
        self.messages = messages
        self.leaves = [keyed("account_state", message) for message in messages]
        self.tiles: list[Node] = []
        for tile, start in enumerate(range(0, len(messages), 256)):
            sums = sums_of(messages[start : start + 256])
            sums = (tile_sums or {}).get(tile, sums)
            root = root_of(self.leaves[start : start + 256], keyed_join("tile"))
            self.tiles.append((root, sums))
        first = messages[0]
        top_hash, top_sums = root_of(self.tiles, sum_join)
        self.fields = (
            first[170:171]  # kind
            + bytes(1)
            + first[164:166]  # code
            + first[160:164]  # ledger
            + little(len(messages), 8)
            + top_hash
            + sums_bytes(top_sums)
        )

    @property
    def key(self) -> tuple[int, int, int]:
        f = self.fields
        return f[0], number_at(f, 4, 4), number_at(f, 2, 2)

    @property
    def head(self) -> bytes:
        return keyed("group", self.fields + bytes(20))

    def tile_path(self, ordinal: int) -> list[bytes]:
        start = ordinal // 256 * 256
        return path_of(self.leaves[start : start + 256], ordinal - start, keyed_join("tile"))

    def sum_path(self, tile: int) -> bytes:
        path = path_of(self.tiles, tile, sum_join)
        return b"".join(node[0] + sums_bytes(node[1]) for node in path)


class State:
    """The state after a block: its groups in order, and the root over them."""

    def __init__(self, block: Block, date_before: int, groups: list[Group]) -> None:
        self.block = block.number
        self.time = block.time
        self.date_before = date_before
        self.date = block.date
        self.groups = groups

    @property
    def root(self) -> bytes:
        top = root_of([group.head for group in self.groups], keyed_join("groups"))
        count = little(len(self.groups), 8)
        return keyed("state", little(self.block, 8) + count + top + bytes(16))

    def find(self, account: int) -> tuple[int, int]:
        """The group's index and the ordinal of an account."""
        for index, group in enumerate(self.groups):
            for ordinal, message in enumerate(group.messages):
                if number_at(message, 0, 16) == account:
                    return index, ordinal
        raise KeyError(account)

    def file(self, erased: Iterable[int] = ()) -> bytes:
        """state.bin, with the rows of these accounts as those of erased ones."""
        rows = []
        for group in self.groups:
            for message in group.messages:
                if number_at(message, 0, 16) in erased:
                    stated = message[32:48] + message[64:80]
                    leaf = keyed("account_state", message)
                    rows.append((leaf + b"erased").ljust(80, b"\0") + stated + bytes(80))
                else:
                    rows.append(message)
        return b"".join(rows)


# ----------------------------------------------------------------------------------------------
# Keys, notes, policies
# ----------------------------------------------------------------------------------------------


class Signer:
    """A key of a log (type 1) or of a witness (type 4), always the same for one seed."""

    def __init__(self, name: str, type: int, seed: str | None = None) -> None:
        self.name = name
        self.type = type
        self._private = Ed25519PrivateKey.from_private_bytes(drawn(f"key {seed or name}"))
        self.public = self._private.public_key().public_bytes_raw()
        self.id = hashlib.sha256(f"{name}\n".encode() + bytes([type]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.id.hex()}+{b64(bytes([self.type]) + self.public)}"

    def line(self, text: str, time: int = 0) -> str:
        """The signature line for a checkpoint's text; a witness signs at a POSIX time."""
        if self.type == 4:
            signed = self._private.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
            signature = time.to_bytes(8, "big") + signed
        else:
            signature = self._private.sign(text.encode())
        return f"— {self.name} {b64(self.id + signature)}\n"


def checkpoint_text(origin: str, records: Sequence[str]) -> str:
    root = root_of([sha_leaf(record.encode()) for record in records], sha_join)
    return f"{origin}\n{len(records)}\n{b64(root if records else hashlib.sha256().digest())}\n"


# ----------------------------------------------------------------------------------------------
# A ledger's history
# ----------------------------------------------------------------------------------------------


class Ledger:
    """Accounts, entries, blocks, states and interval records, as they come about."""

    def __init__(self, origin: str, *, start: int = 1_767_571_200 * 10**9) -> None:
        self.origin = origin
        self.instance = drawn(f"instance {origin}", 16)
        self.log = Signer(origin, 1)
        self.time = start
        self.date = 0
        self.accounts: dict[int, Account] = {}
        self.transfers: dict[int, Entry] = {}
        self.waiting: list[Entry] = []
        self.blocks: list[Block] = []
        self.states: dict[int, State] = {}
        self.records: list[str] = []
        self.intervals: list[tuple[int, int]] = []
        self.state_named: State | None = None
        self._unnamed: State | None = None
        self._tree_of: dict[int, State] = {}

    # -- Entries -------------------------------------------------------------------------------

    def _add(self, entry: Entry, sides: Sequence[tuple[int, int]] = ()) -> Entry:
        """Give the entry its time, numbers and salts, and put it into the accounts' chains."""
        if not entry.timestamp:
            self.time += 1
            entry.timestamp = self.time
        index = len(self.waiting)
        entry.number = self.entry_count + index
        salts = blake3(b"", key=self._seed()).digest(length=64, seek=64 * index)
        for place, (side, account_id) in enumerate(sides):
            account = self.accounts[account_id]
            salt = salts[16 * place : 16 * place + 16]
            entry.sides.append(Side(side, account_id, len(account.entries), salt))
            account.entries.append((entry, entry.sides[-1]))
        if entry.kind == "account":
            self.accounts[entry.id].salt = salts[16:32]
        entry.ext_salt = salts[32:64]
        self.waiting.append(entry)
        return entry

    def _seed(self) -> bytes:
        return drawn(f"seed {self.origin} {len(self.blocks)}")

    @property
    def entry_count(self) -> int:
        return self.blocks[-1].first_entry + len(self.blocks[-1].entries) if self.blocks else 0

    def open(self, id: int, *, ledger: int, code: int, flags: int = 0, **more) -> Entry:
        ordinal = sum((a.ledger, a.code) == (ledger, code) for a in self.accounts.values())
        self.accounts[id] = Account(id, ledger, code, flags, ordinal)
        entry = Entry("account", id, ledger=ledger, code=code, flags=flags, **more)
        return self._add(entry, [(OWN, id)])

    def transfer(self, id: int, debit: int, credit: int, amount: int, **more) -> Entry:
        ledger = self.accounts[debit].ledger
        entry = Entry("transfer", id, amount, **{"ledger": ledger, "code": 7, **more})
        place = 0 if entry.flags & PENDING else 1
        self.transfers[id] = self._add(entry, [(DEBIT, debit), (CREDIT, credit)])
        self.accounts[debit].balances[place] += amount
        self.accounts[credit].balances[place + 2] += amount
        if entry.flags & CLOSING_DEBIT:
            self.accounts[debit].flags |= CLOSED
        if entry.flags & CLOSING_CREDIT:
            self.accounts[credit].flags |= CLOSED
        return entry

    def _resolve(self, entry: Entry, pending_id: int, posted: int) -> Entry:
        pending = self.transfers[pending_id]
        entry.released = pending.amount
        entry.ledger, entry.code = pending.ledger, pending.code
        debit, credit = (side.account for side in pending.sides)
        self._add(entry, [(DEBIT, debit), (CREDIT, credit)])
        for account, place in ((debit, 0), (credit, 2)):
            self.accounts[account].balances[place] -= pending.amount
            self.accounts[account].balances[place + 1] += posted
        return entry

    def post(self, id: int, pending_id: int, amount: int, **more) -> Entry:
        entry = Entry("transfer", id, amount, pending_id, flags=POST, **more)
        return self._resolve(entry, pending_id, amount)

    def void(self, id: int, pending_id: int, **more) -> Entry:
        pending = self.transfers[pending_id]
        entry = Entry("transfer", id, pending.amount, pending_id, flags=VOID, **more)
        self._reopen(pending)
        return self._resolve(entry, pending_id, 0)

    def expire(self, pending_id: int) -> Entry:
        self._reopen(self.transfers[pending_id])
        return self._resolve(Entry("expiry", pending_id=pending_id), pending_id, 0)

    def _reopen(self, pending: Entry) -> None:
        for side, flag in zip(pending.sides, (CLOSING_DEBIT, CLOSING_CREDIT), strict=True):
            if pending.flags & flag:
                self.accounts[side.account].flags &= ~CLOSED

    def settings(self, id: int, account: int, overdraft: int, ceiling: int, flags: int) -> Entry:
        a = self.accounts[account]
        entry = Entry("account_settings", id, overdraft, ceiling, ledger=a.ledger, code=a.code)
        entry.flags = flags
        a.settings = (overdraft, ceiling, flags)
        return self._add(entry, [(OWN, account)])

    def burn(self, id: int, status: int) -> Entry:
        return self._add(Entry("burned_id", id, code=status))

    def define(self, id: int, *, ledger: int, exponent: int, metadata: str) -> Entry:
        entry = Entry("definition", id, timeout=1, ledger=ledger, metadata=metadata)
        entry.user_data = (0, 0, exponent)
        return self._add(entry)

    def move_date(self, id: int, date: int) -> Entry:
        self.date = date
        return self._add(Entry("administration", id, user_data=(0, 0, date)))

    # -- Blocks, states, intervals -------------------------------------------------------------

    def close_block(
        self,
        *,
        seal: bool = False,
        forge_header: Callable[[bytearray], None] | None = None,
        forge_record: Callable[[str], str] = str,
    ) -> Block:
        """Make a block of the waiting entries; with a seal also the record of its interval."""
        last = self.blocks[-1] if self.blocks else None
        named, self._unnamed = self._unnamed, None
        header = b"".join(
            (
                b"SANYUAN\0",
                little(0, 4) + little(1, 4),
                self.instance,
                little(len(self.blocks), 8),
                little(1, 8),
                little(self.entry_count, 8),
                little(self.time, 8) * 3,
                little(named.block if named else 0, 8),
                little(len(self.waiting), 4),
                little(SEAL if seal else 0, 4),
                little(self.date, 4) + bytes(4),
                last.hash if last else ZEROS,
                root_of([entry.leaf for entry in self.waiting], keyed_join("node")),
                named.root if named else ZEROS,
                bytes(56),
            )
        )
        if forge_header:
            forged = bytearray(header)
            forge_header(forged)
            header = bytes(forged)
        first_entry = self.entry_count
        block = Block(header, self.waiting, first_entry, self.time, self.date)
        self.blocks.append(block)
        self.waiting = []
        self.state_named = named or self.state_named
        if seal:
            first = self.intervals[-1][1] + 1 if self.intervals else 0
            self.intervals.append((first, block.number))
            self.records.append(forge_record(self._record(first, block)))
        return block

    def _record(self, first: int, last: Block) -> str:
        blocks = self.blocks[first : last.number + 1]
        count = sum(len(block.entries) for block in blocks)
        root = root_of([block.hash for block in blocks], keyed_join("interval"))
        named = self.state_named
        state = "none"
        if named:
            dates = f"{named.date_before} {named.date}"
            state = f"{named.block} {named.time} {dates} {b64(named.root)}"
        return (
            "sanyuan interval v1\n"
            f"origin {self.origin}\n"
            f"instance {self.instance.hex()}\n"
            f"blocks {first} {last.number}\n"
            f"entries {blocks[0].first_entry} {count}\n"
            f"time {last.time}\n"
            f"date {last.date}\n"
            f"root {b64(root)}\n"
            f"last {b64(last.hash)}\n"
            f"state {state}\n"
        )

    def keep_state(
        self,
        change: Callable[[dict[tuple[int, int], list[bytes]]], None] | None = None,
        tile_sums: dict[tuple[int, int], dict[int, Sums]] | None = None,
    ) -> State:
        """Keep the state after the last block, named by the next block's header. A forger may
        change the messages, by (ledger, code), or state other sums for tiles.
        """
        messages: dict[tuple[int, int], list[bytes]] = {}
        for account in self.accounts.values():  # in order of opening
            messages.setdefault((account.ledger, account.code), []).append(account.message())
        if change:
            change(messages)
        groups = [Group(messages[key], (tile_sums or {}).get(key)) for key in sorted(messages)]
        before = self.blocks[-2].date if len(self.blocks) > 1 else 0
        state = State(self.blocks[-1], before, groups)
        self.states[state.block] = self._unnamed = state
        return state

    # -- The outer log -------------------------------------------------------------------------

    def checkpoint(
        self,
        witnesses: Sequence[Signer] = (),
        *,
        size: int | None = None,
        signers: Sequence[Signer] | None = None,
        time: int = 1_767_830_400,
    ) -> str:
        text = checkpoint_text(self.origin, self.records[:size])
        lines = [signer.line(text) for signer in ([self.log] if signers is None else signers)]
        lines += [witness.line(text, time + at) for at, witness in enumerate(witnesses)]
        return text + "\n" + "".join(lines)

    def interval_of_block(self, number: int) -> int:
        return next(i for i, (first, last) in enumerate(self.intervals) if first <= number <= last)

    def interval_of_state(self, block: int) -> int:
        line = f"state {block} "
        return next(
            index
            for index, record in enumerate(self.records)
            if any(one.startswith(line) for one in record.split("\n"))
        )

    def entry(self, number: int) -> tuple[Block, int]:
        """The block of an entry and the index in it."""
        for block in self.blocks:
            if block.first_entry <= number < block.first_entry + len(block.entries):
                return block, number - block.first_entry
        raise KeyError(number)


# ----------------------------------------------------------------------------------------------
# bundle.json
# ----------------------------------------------------------------------------------------------


def canonical(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text + "\n"


def sealed(bundle: dict) -> dict:
    """The bundle with the digest that it must have."""
    rest = {name: value for name, value in bundle.items() if name != "sha256"}
    return {**rest, "sha256": hashlib.sha256(canonical(rest).encode()).hexdigest()}


class Bundle:
    """A bundle being made: items take the intervals, blocks and states that they need."""

    def __init__(self, ledger: Ledger, note: str) -> None:
        self.ledger = ledger
        self.size = int(note.split("\n")[1])
        self.note = note
        self.intervals: list[dict] = []
        self.blocks: list[dict] = []
        self.states: list[dict] = []
        self.items: list[dict] = []
        self._places: dict[object, int] = {}

    def value(self) -> dict:
        return sealed(
            {
                "format": "sanyuan bundle v1",
                "origin": self.ledger.origin,
                "instance": self.ledger.instance.hex(),
                "checkpoint": self.note,
                "intervals": self.intervals,
                "blocks": self.blocks,
                "states": self.states,
                "items": self.items,
            }
        )

    def text(self) -> str:
        return canonical(self.value())

    def _once(self, key: object, parts: list[dict], part: Callable[[], dict]) -> int:
        if key not in self._places:
            made = part()
            self._places[key] = len(parts)
            parts.append(made)
        return self._places[key]

    def interval(self, index: int) -> int:
        records = self.ledger.records[: self.size]
        leaves = [sha_leaf(record.encode()) for record in records]
        return self._once(
            ("interval", index),
            self.intervals,
            lambda: {
                "index": index,
                "record": records[index],
                "path": b64(b"".join(path_of(leaves, index, sha_join))),
            },
        )

    def block(self, number: int) -> int:
        index = self.ledger.interval_of_block(number)
        first, last = self.ledger.intervals[index]
        hashes = [block.hash for block in self.ledger.blocks[first : last + 1]]
        place = self.interval(index)
        return self._once(
            ("block", number),
            self.blocks,
            lambda: {
                "interval": place,
                "header": b64(self.ledger.blocks[number].header),
                "path": b64(b"".join(path_of(hashes, number - first, keyed_join("interval")))),
            },
        )

    def state(self, block: int, group: int | None = None) -> int:
        """Place a state: with all groups, or with one."""
        state = self.ledger.states[block]
        place = self.interval(self.ledger.interval_of_state(block))
        if group is None:
            groups = [b64(one.fields) for one in state.groups]
            return self._once(
                ("state", block),
                self.states,
                lambda: {"interval": place, "block": block, "groups": groups},
            )
        heads = [one.head for one in state.groups]
        return self._once(
            ("state", block, group),
            self.states,
            lambda: {
                "interval": place,
                "block": block,
                "group_count": len(heads),
                "index": group,
                "group": b64(state.groups[group].fields),
                "path": b64(b"".join(path_of(heads, group, keyed_join("groups")))),
            },
        )

    def _add(self, item: dict) -> int:
        self.items.append(item)
        return len(self.items) - 1

    def add_entry(self, number: int, *, hide: Sequence[str] = (), hide_ext: bool = False) -> int:
        block, index = self.ledger.entry(number)
        entry = block.entries[index]
        sides: dict[str, object] = {"debit": None, "credit": None}
        for side in entry.sides:
            name = "credit" if side.side == CREDIT else "debit"
            sides[name] = b64(entry.side_hash(side))
            if name not in hide:
                sides[name] = {
                    "account": str(side.account),
                    "number": str(side.number),
                    "salt": b64(side.salt),
                }
        opened = any(isinstance(side, dict) for side in sides.values())
        ext: object = None
        if entry.metadata is not None:
            ext = {"salt": b64(entry.ext_salt), "metadata": entry.metadata}
            ext = b64(entry.ext) if hide_ext else ext
        leaves = [one.leaf for one in block.entries]
        return self._add(
            {
                "type": "entry",
                "block": self.block(block.number),
                "index": index,
                "kind": KIND[entry.kind],
                "record": b64(entry.record),
                "released": str(entry.released if opened else 0),
                "ext": ext,
                "path": b64(b"".join(path_of(leaves, index, keyed_join("node")))),
                **sides,
            }
        )

    def add_account(
        self, account: int, block: int, *, newest: bool = False, whole: bool = False
    ) -> int:
        state = self.ledger.states[block]
        index, ordinal = state.find(account)
        group = state.groups[index]
        place = self.state(block, None if whole else index)
        if newest:
            self.interval(self.size - 1)
        return self._add(
            {
                "type": "account",
                "state": place,
                "group": index,
                "leaf": b64(group.messages[ordinal]),
                "tile_path": b64(b"".join(group.tile_path(ordinal))),
                "sums": b64(sums_bytes(group.tiles[ordinal // 256][1])),
                "sum_path": b64(group.sum_path(ordinal // 256)),
                "newest": newest,
            }
        )

    def add_statement(
        self,
        account: int,
        opening: int | None,
        closing: int,
        *,
        disclose: bool = False,
        hide_ext: bool = False,
        newest: bool = False,
        whole: bool = False,
    ) -> int:
        """Add the states of two blocks (the first may be None) and all entries between them."""
        first, start = None, 0
        if opening is not None:
            first = self.add_account(account, opening, whole=whole)
            start = self._entry_count(account, opening)
        last = self.add_account(account, closing, newest=newest, whole=whole)
        entries = self.ledger.accounts[account].entries[start : self._entry_count(account, closing)]
        lines = [b64(statement_line(e, s, disclose, hide_ext)) for e, s in entries]
        return self._add(
            {
                "type": "statement",
                "account": str(account),
                "opening": first,
                "closing": last,
                "entries": lines,
            }
        )

    def _entry_count(self, account: int, block: int) -> int:
        state = self.ledger.states[block]
        group, ordinal = state.find(account)
        return number_at(state.groups[group].messages[ordinal], 144, 8)

    def add_trial_balance(self, block: int) -> int:
        return self._add({"type": "trial_balance", "state": self.state(block)})

    def add_tile(self, block: int, group: int, tile: int, erased: Iterable[int] = ()) -> int:
        tree = self.ledger.states[block].groups[group]
        leaves = [
            b64(keyed("account_state", one) if number_at(one, 0, 16) in erased else one)
            for one in tree.messages[256 * tile : 256 * tile + 256]
        ]
        return self._add(
            {
                "type": "tile",
                "state": self.state(block, group),
                "group": group,
                "tile": tile,
                "leaves": leaves,
                "sums": b64(sums_bytes(tree.tiles[tile][1])),
                "sum_path": b64(tree.sum_path(tile)),
            }
        )

    def add_full_state(self, block: int) -> int:
        state = self.state(block)
        return self._add({"type": "full_state", "state": state, "file": "state.bin"})

    def add_consistency(self, old: str) -> int:
        leaves = [sha_leaf(record.encode()) for record in self.ledger.records[: self.size]]
        size = int(old.split("\n")[1])
        path = consistency_of(leaves, size, sha_join) if size else []
        return self._add({"type": "consistency", "old": old, "path": b64(b"".join(path))})

    def add_erased(self, number: int) -> int:
        block, index = self.ledger.entry(number)
        leaves = [one.leaf for one in block.entries]
        return self._add(
            {
                "type": "erased",
                "block": self.block(block.number),
                "index": index,
                "leaf": b64(leaves[index]),
                "path": b64(b"".join(path_of(leaves, index, keyed_join("node")))),
            }
        )

    def add_sample(
        self,
        count: int,
        *,
        seed: str | None = None,
        witness: str | None = None,
        erased: Iterable[int] = (),
    ) -> int:
        places = [
            self.add_erased(number)
            if number in erased
            else self.add_entry(number, hide=("debit", "credit"))
            for number in self.drawn_entries(count, seed=seed, witness=witness)
        ]
        self.interval(self.size - 1)
        return self._add(
            {"type": "sample", "count": count, "seed": seed, "witness": witness, "items": places}
        )

    def drawn_entries(self, count: int, *, seed: str | None, witness: str | None) -> list[int]:
        if witness is None:
            secret = hashlib.sha256((seed or "").encode()).digest()
        else:
            line = next(one for one in self.note.split("\n") if one.startswith(f"— {witness} "))
            secret = hashlib.sha256(base64.b64decode(line.split(" ")[2])[4:]).digest()
        total = self.ledger.blocks[self.ledger.intervals[self.size - 1][1]]
        limit = total.first_entry + len(total.entries)
        chosen: list[int] = []
        draw = 0
        while len(chosen) < count:
            message = b"sanyuan sample v1\n" + secret + draw.to_bytes(8, "big")
            value = int.from_bytes(hashlib.sha256(message).digest()[:8], "big")
            draw += 1
            if value < 2**64 - 2**64 % limit and value % limit not in chosen:
                chosen.append(value % limit)
        return chosen


def statement_line(entry: Entry, side: Side, disclose: bool, hide_ext: bool = False) -> bytes:
    """One entry of a statement, from one side."""
    others = [one for one in entry.sides if one is not side]
    bits, tail = 0, b""
    if entry.released:
        bits |= 1
        tail += little(entry.released, 16)
    for other in others:
        bits |= 4 if disclose else 2
        opened = little(other.account, 16) + little(other.number, 8) + other.salt
        tail += opened if disclose else entry.side_hash(other)
    if entry.metadata is not None:
        bits |= 8 if hide_ext else 16
        data = entry.metadata.encode()
        tail += entry.ext if hide_ext else entry.ext_salt + little(len(data), 2) + data
    return bytes([KIND[entry.kind], side.side, bits]) + entry.record + side.salt + tail


# ----------------------------------------------------------------------------------------------
# The zip
# ----------------------------------------------------------------------------------------------


def manifest(files: dict[str, bytes], origin: str) -> bytes:
    names = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
        if name != "manifest.json"
    }
    value = {"files": names, "format": "sanyuan export v1", "origin": origin}
    return canonical(value).encode()


def in_order(files: dict[str, bytes]) -> dict[str, bytes]:
    first = ["manifest.json", "README.txt", "bundle.json"]
    return {name: files[name] for name in first + sorted(set(files) - set(first))}


def export(bundle: Bundle, **more: bytes) -> dict[str, bytes]:
    """All files of an export, in order; ``more`` are named with _ for the first dot."""
    files = {"README.txt": b"Read docs/proofs.md.\n", "bundle.json": bundle.text().encode()}
    files["checkpoint"] = bundle.note.encode()
    for interval in bundle.intervals:
        path = base64.b64decode(interval["path"])
        lines = [f"{b64(path[at : at + 32])}\n" for at in range(0, len(path), 32)]
        head = f"c2sp.org/tlog-proof@v1\nindex {interval['index']}\n"
        name = f"interval-{interval['index']}.tlog-proof"
        files[name] = (head + "".join(lines) + "\n" + bundle.note).encode()
    for item in bundle.items:
        if item["type"] == "statement":
            opening, closing = (
                None if place is None else bundle.states[bundle.items[place]["state"]]["block"]
                for place in (item["opening"], item["closing"])
            )
            disclosed = any(base64.b64decode(one)[2] & 4 for one in item["entries"])
            table = statement_csv(bundle, int(item["account"]), opening, closing, disclosed)
            files[f"statement-{item['account']}.csv"] = table
        if item["type"] == "trial_balance":
            state = bundle.ledger.states[bundle.states[item["state"]]["block"]]
            files["trial-balance.csv"] = trial_balance_csv(state)
    files |= {name.replace("_", ".", 1): data for name, data in more.items()}
    return in_order({**files, "manifest.json": manifest(files, bundle.ledger.origin)})


STATEMENT_COLUMNS = (
    "number,timestamp,time,kind,id,pending_id,side,amount,released,counterparty,ledger,code,flags,"
    "user_data_128,user_data_64,user_data_32,debits_pending,debits_posted,credits_pending,"
    "credits_posted\n"
)


def time_text(timestamp: int) -> str:
    seconds = datetime.fromtimestamp(timestamp // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{timestamp % 10**9:09d}Z"


def statement_csv(
    bundle: Bundle, account: int, opening: int | None, closing: int, disclosed: bool
) -> bytes:
    balances, start = [0, 0, 0, 0], 0
    rows = [STATEMENT_COLUMNS]
    if opening is not None:
        state = bundle.ledger.states[opening]
        group, ordinal = state.find(account)
        message = state.groups[group].messages[ordinal]
        balances = [number_at(message, at, 16) for at in (16, 32, 48, 64)]
        start = bundle._entry_count(account, opening)
        numbers = ",".join(str(one) for one in balances)
        rows.append(f"{start - 1},,,opening,,,,,,,,,,,,,{numbers}\n")
    end = bundle._entry_count(account, closing)
    for entry, side in bundle.ledger.accounts[account].entries[start:end]:
        if side.side != OWN:
            place = 0 if side.side == DEBIT else 2
            if entry.flags & PENDING:
                balances[place] += entry.amount
            else:
                balances[place] -= entry.released
                if entry.kind == "transfer" and not entry.flags & VOID:
                    balances[place + 1] += entry.amount
        others = [one.account for one in entry.sides if one is not side] if disclosed else []
        columns = [side.number, entry.timestamp, time_text(entry.timestamp), entry.kind, entry.id]
        columns += [entry.pending_id, SIDE_NAME[side.side], entry.amount, entry.released]
        columns += [*others, *([] if others else [""]), entry.ledger, entry.code, entry.flags]
        columns += [*entry.user_data, *balances]
        rows.append(",".join(str(one) for one in columns) + "\n")
    return "".join(rows).encode()


def trial_balance_csv(state: State) -> bytes:
    rows = ["ledger,code,account_count,debits_posted,credits_posted,credit_balances\n"]
    for group in state.groups:
        _, ledger, code = group.key
        sums = [number_at(group.fields, at, 20) for at in (48, 68, 88)]
        columns = [ledger, code, len(group.messages), *sums]
        rows.append(",".join(str(one) for one in columns) + "\n")
    return "".join(rows).encode()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    """The one exact form of a zip with these files in this order."""
    body, directory = b"", b""
    for name, data in files.items():
        common = struct.pack("<HHHHIII", 0x0800, 0, 0, 0x21, zlib.crc32(data), len(data), len(data))
        sizes = struct.pack("<HH", len(name), 0)
        directory += b"PK\1\2" + struct.pack("<HH", 20, 20) + common + sizes
        directory += struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        body += b"PK\3\4" + struct.pack("<H", 20) + common + sizes + name.encode() + data
    counts = struct.pack("<HHHHIIH", 0, 0, len(files), len(files), len(directory), len(body), 0)
    return body + directory + b"PK\5\6" + counts
