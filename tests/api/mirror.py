"""The oracle's ledger, filled from a journal: what bundles of a real server must be, byte for byte.

Entries, salts and metadata are read from the stored blocks; every hash, tree, balance and path is
the oracle's own.
"""

from __future__ import annotations

from typing import Any

from ledger import layout
from tests.model import proofs as oracle

PENDING, POST, VOID = oracle.PENDING, oracle.POST, oracle.VOID


class Mirror(oracle.Ledger):
    """A journal as the oracle sees it. ``log`` gives the records, ``states`` are those of the
    blocks in ``kept``; the newest state of a checkpoint is led to by the last interval."""

    def __init__(self, reader: Any, core: Any, log: Any, kept: list[int]) -> None:
        super().__init__("")
        self.records = [log.record(index) for index in range(log.size)]
        self.origin = self.records[0].split("\n")[1].removeprefix("origin ")
        self.intervals = [
            tuple(map(int, record.split("\n")[3].split(" ")[1:]))  # type: ignore[misc]
            for record in self.records
        ]
        for number in range(reader.last_block + 1):
            self._read_block(reader, core, number)
            if number in kept:
                self.keep_state()
        self.size = len(self.records)

    def interval_of_state(self, block: int) -> int:
        if f"\nstate {block} " in self.records[self.size - 1]:
            return self.size - 1
        return super().interval_of_state(block)

    def _read_block(self, reader: Any, core: Any, number: int) -> None:
        view = reader.block(number)
        self.instance = view.instance
        rows = view.entries()
        core.fill_account_ids(rows)
        entries = []
        for index, row in enumerate(rows):
            entries.append(self._read_entry(reader, view, index, row))
        header = view.header_bytes
        block = oracle.Block(
            header, entries, view.first_entry, view.last_timestamp, view.business_date
        )
        assert oracle.root_of(
            [entry.leaf for entry in entries], oracle.keyed_join("node")
        ) == bytes(view.root)
        self.blocks.append(block)

    def _read_entry(self, reader: Any, view: Any, index: int, row: Any) -> oracle.Entry:
        record = row["record"]
        whole = {
            name: layout.to_int(record[name])
            for name in ("id", "amount", "pending_id", "user_data_128")
        }
        entry = oracle.Entry(
            oracle.KIND_NAME[int(row["kind"])],
            id=whole["id"],
            amount=whole["amount"],
            pending_id=whole["pending_id"],
            user_data=(
                whole["user_data_128"],
                int(record["user_data_64"]),
                int(record["user_data_32"]),
            ),
            timeout=int(record["timeout"]),
            ledger=int(record["ledger"]),
            code=int(record["code"]),
            flags=int(record["flags"]),
            timestamp=int(record["timestamp"]),
            released=layout.to_int(row["released"]),
            number=view.first_entry + index,
        )
        salts = oracle.blake3(b"", key=view.seed).digest(length=64, seek=64 * index)
        entry.ext_salt = salts[32:]
        metadata = reader.metadata(layout.position(view.number, index))
        entry.metadata = None if metadata is None else metadata.decode()
        ids = [layout.to_int(record[f"{side}_account_id"]) for side in ("debit", "credit")]
        if entry.kind == "account":
            ordinal = sum(
                (one.ledger, one.code) == (entry.ledger, entry.code)
                for one in self.accounts.values()
            )
            opened = oracle.Account(ids[0], entry.ledger, entry.code, entry.flags, ordinal)
            self.accounts[ids[0]] = opened
            opened.salt = salts[16:32]
        sides = [oracle.OWN] if entry.kind in ("account", "account_settings") else []
        if entry.kind in ("transfer", "expiry"):
            sides = [oracle.DEBIT, oracle.CREDIT]
        for place, side in enumerate(sides):
            account = self.accounts[ids[place]]
            salt = salts[16 * place : 16 * place + 16]
            one = oracle.Side(side, account.id, len(account.entries), salt)
            entry.sides.append(one)
            account.entries.append((entry, one))
        self._follow(entry)
        return entry

    def _follow(self, entry: oracle.Entry) -> None:
        """What an entry does to its accounts."""
        if entry.kind == "account_settings":
            settings = (entry.amount, entry.pending_id, entry.flags)
            self.accounts[entry.sides[0].account].settings = settings
        if entry.kind not in ("transfer", "expiry"):
            return
        posted = entry.kind == "transfer" and not entry.flags & (PENDING | VOID)
        for side, place in zip(entry.sides, (0, 2), strict=True):
            balances = self.accounts[side.account].balances
            if entry.kind == "transfer" and entry.flags & PENDING:
                balances[place] += entry.amount
            balances[place] -= entry.released
            if posted:
                balances[place + 1] += entry.amount
