"""What the journal of a directory says, entry by entry, and the comparison of every answer with it.

The mirror reads the journal after each recovery, only the blocks that it does not know, and checks
that those it knows
are still the same. It is kept in plain dicts, apart from the ledger's own index of ids and its
walks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ledger import layout
from ledger.config import Config
from ledger.storage.lmdb_store import LmdbStore
from tests.crash.load import SUMS, Request, Seen

KINDS: Final = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
NAMES: Final = {number: name for name, number in KINDS.items()}
_STATUS: Final = layout.STATUS_NUMBERS["TRANSFER"]
_EXISTS: Final = {
    "accounts": layout.STATUS_NUMBERS["ACCOUNT"]["exists"],
    "transfers": _STATUS["exists"],
    "settings": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
    "definitions": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
    "business_date": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
}
_INHERITING: Final = layout.flag_mask("TRANSFER", "post_pending_transfer", "void_pending_transfer")
_BALANCING: Final = layout.flag_mask("TRANSFER", "balancing_debit", "balancing_credit")


class Mismatch(AssertionError):
    """An answer and the journal do not agree."""


@dataclass(slots=True)
class Entry:
    """A journal entry as far as the answers speak of it."""

    position: tuple[int, int]
    kind: str
    record: np.void
    debit_slot: int
    credit_slot: int

    @property
    def timestamp(self) -> int:
        return int(self.record["timestamp"])


@dataclass(slots=True)
class Account:
    """An account's entries: after each, its time, position and balances."""

    id: int
    timestamps: list[int] = field(default_factory=list)
    positions: list[tuple[int, int]] = field(default_factory=list)
    sums: list[tuple[int, ...]] = field(default_factory=list)


def _wide(column: np.ndarray) -> list[int]:
    pairs = zip(column["lo"].tolist(), column["hi"].tolist(), strict=True)
    return [low | high << 64 for low, high in pairs]


class Mirror:
    """The journal of one directory, followed over many lives of its server."""

    def __init__(self, directory: Path, config: Config) -> None:
        self._directory = directory
        self._config = replace(config, write_ahead_bytes=0)
        self.block_hashes: list[bytes] = []
        self.slots: list[Account] = []
        self.accounts: dict[int, tuple[Account, Entry]] = {}
        self.transfers: dict[int, Entry] = {}
        self.burned: dict[int, Entry] = {}
        self.administrative: dict[int, Entry] = {}
        self.changes: dict[tuple[int, int], Entry] = {}
        self.last_timestamp = 0
        self._fed: tuple[int, int] = (-1, -1)
        self._change_positions: list[tuple[int, int]] = []

    # ---- reading the journal ----

    def read(self) -> None:
        """Take in the blocks that are new; raise Mismatch when a known one has changed or an id is
        there twice."""
        store = LmdbStore(self._directory, self._config)
        try:
            store.open_journal()
            with store.reader() as reader:
                known = len(self.block_hashes)
                if reader.last_block < known - 1:
                    raise Mismatch(f"block {known - 1} was there and is gone")
                if known and reader.block(known - 1).hash != self.block_hashes[-1]:
                    raise Mismatch(f"block {known - 1} is another one now")
                for number in range(known, reader.last_block + 1):
                    view = reader.block(number)
                    view.check()
                    self._take_block(number, view.entries())
                    self.block_hashes.append(bytes(view.hash))
        finally:
            store.close()

    def _take_block(self, number: int, entries: np.ndarray) -> None:
        kinds, slots = entries["kind"].tolist(), entries["debit_slot"].tolist()
        credit_slots = entries["credit_slot"].tolist()
        timestamps = entries["record"]["timestamp"].tolist()
        ids = _wide(entries["record"]["id"])
        sums = {
            side: list(zip(*(_wide(entries[side][name]) for name in SUMS), strict=True))
            for side in ("debit", "credit")
        }
        numbers = {side: entries[side]["number"].tolist() for side in ("debit", "credit")}
        records = entries["record"].copy()
        for index, (kind_number, identifier) in enumerate(zip(kinds, ids, strict=True)):
            position = (number, index)
            kind = NAMES[kind_number]
            entry = Entry(position, kind, records[index], slots[index], credit_slots[index])
            if timestamps[index] <= self.last_timestamp:
                raise Mismatch(f"entry {position}: its time is not after the one before it")
            self.last_timestamp = timestamps[index]
            match kind:
                case "account":
                    if slots[index] != len(self.slots) or identifier in self.accounts:
                        raise Mismatch(f"account {identifier} was opened twice")
                    self.slots.append(Account(identifier))
                    self.accounts[identifier] = (self.slots[-1], entry)
                case "transfer" | "burned_id":
                    if identifier in self.transfers or identifier in self.burned:
                        raise Mismatch(f"id {identifier} is there twice, again at {position}")
                    known = self.transfers if kind == "transfer" else self.burned
                    known[identifier] = entry
                case "administration" if identifier == 0:
                    if len(ids) > 1:  # the ledger's own, of a block that it made to seal
                        raise Mismatch(f"entry {position}: a seal is not alone in its block")
                case "account_settings" | "definition" | "administration":
                    if identifier in self.administrative:
                        raise Mismatch(f"id {identifier} is there twice, again at {position}")
                    self.administrative[identifier] = entry
                case _:
                    pass
            if kind in ("transfer", "expiry"):
                self.changes[position] = entry
                self._change_positions.append(position)
            for side, slot in (("debit", slots[index]), ("credit", credit_slots[index])):
                if kind in ("burned_id", "definition", "administration") or slot == layout.NO_SLOT:
                    continue
                account = self.slots[slot]
                if numbers[side][index] != len(account.sums):
                    raise Mismatch(f"entry {position}: not the next entry of account {account.id}")
                account.timestamps.append(timestamps[index])
                account.positions.append(position)
                account.sums.append(sums[side][index])

    # ---- comparing ----

    def _require(self, condition: bool, what: str) -> None:
        if not condition:
            raise Mismatch(what)

    def compare_answers(self, requests: list[Request]) -> int:
        """Check every result of the answered requests; return how many."""
        count = 0
        for request in requests:
            assert request.results is not None
            if request.dry_run:
                for event in request.events:
                    identifier = layout.to_int(event["id"])
                    self._require(identifier not in self.transfers, "a dry run left a transfer")
                continue
            assert request.position is not None
            self._require(
                request.position[0] < len(self.block_hashes),
                f"request {request.number} was answered at {request.position}, which is not there",
            )
            for event, result in zip(request.events, request.results, strict=True):
                self._compare_result(
                    request, event, int(result["status"]), int(result["timestamp"])
                )
                count += 1
        return count

    def _stored(self, kind: str, identifier: int) -> Entry | None:
        if kind == "accounts":
            found = self.accounts.get(identifier)
            return None if found is None else found[1]
        return (self.transfers if kind == "transfers" else self.administrative).get(identifier)

    def _compare_result(
        self, request: Request, event: np.void, status: int, timestamp: int
    ) -> None:
        identifier = layout.to_int(event["id"])
        entry = self._stored(request.kind, identifier)
        what = f"{request.kind} {identifier} (request {request.number}, status {status})"
        if status in (layout.CREATED, _EXISTS[request.kind]):
            if entry is None:
                raise Mismatch(f"{what} was acknowledged and is not there")
            self._require(entry.timestamp == timestamp, f"{what}: another time is stored")
            assert request.position is not None
            self._require(entry.position <= request.position, f"{what}: stored after its answer")
            if request.kind == "transfers":
                self._compare_transfer(what, event, entry)
            return
        self._require(
            entry is None or entry.timestamp != timestamp, f"{what} was refused and is there"
        )
        if request.kind == "transfers":
            burned = self.burned.get(identifier)
            if status in layout.TRANSIENT:
                self._require(burned is not None, f"{what} was refused and its id is not burned")
                assert burned is not None
                self._require(int(burned.record["code"]) == status, f"{what}: burned otherwise")
            elif status == _STATUS["id_already_failed"]:
                self._require(burned is not None, f"{what}: its id is not burned")

    def _compare_transfer(self, what: str, event: np.void, entry: Entry) -> None:
        record, inherits = entry.record, bool(event["flags"] & _INHERITING)
        accounts = {"debit_account_id": entry.debit_slot, "credit_account_id": entry.credit_slot}
        for name, slot in accounts.items():
            wanted = layout.to_int(event[name])
            if not (inherits and wanted == 0):
                self._require(self.slots[slot].id == wanted, f"{what}: another {name} is stored")
        for name in ("pending_id", "user_data_64", "timeout", "ledger", "code", "flags"):
            if not (inherits and not any(event[name].tobytes())) and event[name] != record[name]:
                raise Mismatch(f"{what}: another {name} is stored")
        if not inherits and not event["flags"] & _BALANCING:
            self._require(bool(event["amount"] == record["amount"]), f"{what}: another amount")

    def took_effect(self, request: Request, first_block: int) -> bool:
        """Whether a request without an answer is in the journal, from a block on; raise Mismatch
        when it is there in parts."""
        blocks = set()
        for event in request.events:
            identifier = layout.to_int(event["id"])
            entry = self._stored(request.kind, identifier)
            if entry is None and request.kind == "transfers":
                entry = self.burned.get(identifier)
            if entry is not None and entry.position[0] >= first_block:
                blocks.add(entry.position[0])
        if len(blocks) > 1 and not request.repeated:
            raise Mismatch(f"request {request.number} is spread over blocks {sorted(blocks)}")
        return bool(blocks)

    def compare_resent(self, requests: list[Request], effective: set[int]) -> None:
        """Check the second answers to requests without a first one; ``effective`` are the numbers
        of those that were in the journal."""
        for request in requests:
            assert request.results is not None
            created = int(np.count_nonzero(request.results["status"] == layout.CREATED))
            if created and request.number in effective and not request.repeated:
                raise Mismatch(f"request {request.number} took effect, and {created} events again")

    def compare_seen(self, seen: Seen) -> int:
        """Check everything the readers saw; return how many answers."""
        for one in seen.accounts:
            account = self.accounts[one.account_id][0]
            what = f"account {one.account_id} was read with {one.entry_count} entries"
            self._require(0 < one.entry_count <= len(account.sums), f"{what}, which are not there")
            self._require(
                account.sums[one.entry_count - 1] == one.sums, f"{what} and other balances"
            )
            if one.position is not None:
                position = account.positions[one.entry_count - 1]
                self._require(position <= one.position, f"{what} at an earlier position")
        for at in seen.balances:
            account = self.accounts[at.account_id][0]
            place = bisect_right(account.timestamps, at.at)
            sums = account.sums[place - 1] if place else (0, 0, 0, 0)
            self._require(sums == at.sums, f"account {at.account_id} had other balances at {at.at}")
        for line in seen.lines:
            entry = self.transfers.get(line.transfer_id)
            if entry is None:
                raise Mismatch(f"transfer {line.transfer_id} was in a statement and is not there")
            slot = entry.debit_slot if line.side == "debit" else entry.credit_slot
            account = self.slots[slot]
            number = bisect_left(account.positions, entry.position)
            expected = (
                account.id,
                entry.position,
                number,
                entry.timestamp,
                layout.to_int(entry.record["amount"]),
                account.sums[number],
            )
            found = (
                line.account_id,
                line.position,
                line.entry_number,
                line.timestamp,
                line.amount,
                line.sums,
            )
            self._require(
                found == expected,
                f"transfer {line.transfer_id} was otherwise in a statement: {found}, {expected}",
            )
        return seen.count

    def compare_feed(self, seen: Seen) -> None:
        """Check what the feed gave since the last call: each change once, in order, none left
        out."""
        for event in seen.events:
            place = bisect_right(self._change_positions, self._fed)
            if place == len(self._change_positions):
                raise Mismatch(f"event {event.position} was fed and is not there")
            expected = self._change_positions[place]
            self._require(event.position == expected, f"{event.position} was fed, not {expected}")
            self._fed = event.position
            entry = self.changes[expected]
            transfer_id = entry.record["pending_id" if entry.kind == "expiry" else "id"]
            self._require(
                layout.to_int(transfer_id) == event.transfer_id
                and layout.to_int(entry.record["amount"]) in (event.amount, 0)
                and entry.timestamp == event.timestamp,
                f"the event at {event.position} was fed with another transfer",
            )
            for slot, sums in (
                (entry.debit_slot, event.debit_sums),
                (entry.credit_slot, event.credit_sums),
            ):
                account = self.slots[slot]
                number = bisect_left(account.positions, event.position)
                self._require(
                    account.sums[number] == sums,
                    f"the event at {event.position} was fed with other balances",
                )

    @property
    def counts(self) -> dict[str, Any]:
        """What the journal holds, for the report of a run."""
        return {
            "blocks": len(self.block_hashes),
            "accounts": len(self.accounts),
            "transfers": len(self.transfers),
            "burned": len(self.burned),
            "changes": len(self.changes),
        }
