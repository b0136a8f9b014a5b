"""A bank over a store, one block at a time and without threads of its own: what the engine does, so
that faults can be placed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from ledger import _pack, layout
from ledger._block import Block
from ledger._core import Core
from ledger.config import Config
from ledger.storage.rebuilt_roots import keep_root
from tests.unit.test_core import fingerprint

PENDING = layout.flag_mask("TRANSFER", "pending")
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")
SECOND = 1_000_000_000

CONFIG = Config(
    holds=10_000,
    recent_ids=1024,
    write_ahead_bytes=0,
    disk_reserve_bytes=0,
    snapshot_bytes_per_second=1 << 20,
)

Request = tuple[str, list[dict[str, Any]], dict[int, bytes]]


def script(seed: int, block_count: int, *, account_count: int = 300) -> list[list[Request]]:
    """Return the requests of so many blocks: accounts, transfers, holds, repeats of old ids,
    settings, definitions."""
    rng = random.Random(seed)
    blocks: list[list[Request]] = []
    accounts: list[int] = []
    transfers: list[int] = []
    serial = 1000

    def new_id() -> int:
        nonlocal serial
        serial += rng.randrange(1, 5)
        # Some ids are in order and some are not.
        return serial if rng.random() < 0.7 else serial << 64 | rng.randrange(1 << 40)

    for number in range(block_count):
        requests: list[Request] = []
        if number == 0 or (len(accounts) < account_count and rng.random() < 0.4):
            rows = []
            for _ in range(rng.randrange(20, 120)):
                accounts.append(new_id())
                flags = rng.choice([0, 0, 2, 4])
                rows.append(
                    {"id": accounts[-1], "ledger": 1, "code": rng.randrange(1, 4), "flags": flags}
                )
            requests.append(("ACCOUNT", rows, {0: b'{"name":"first"}'}))
        if rng.random() < 0.2:
            row = {"id": new_id(), "account_id": rng.choice(accounts), "overdraft": 500, "flags": 1}
            requests.append(("ACCOUNT_SETTINGS", [row], {}))
        if rng.random() < 0.1:
            row = {"id": new_id(), "kind": 2, "ledger": 1, "code": 1, "exponent": 2}
            requests.append(("DEFINITION", [row], {0: b'{"name":"current accounts"}'}))
        rows = []
        for _ in range(rng.randrange(1, 40)):
            dice = rng.random()
            row = {
                "id": new_id(),
                "debit_account_id": rng.choice(accounts),
                "credit_account_id": rng.choice(accounts),
                "amount": rng.randrange(1000),
                "ledger": 1,
                "code": 1,
                "user_data_64": rng.randrange(1 << 60),
            }
            if dice < 0.1 and transfers:
                row["id"] = rng.choice(transfers)
            elif dice < 0.35:
                row |= {"flags": PENDING, "timeout": rng.choice([0, 0, 1, 3])}
            elif dice < 0.6 and transfers:
                flags = rng.choice([POST, POST, VOID])
                row |= {"debit_account_id": 0, "credit_account_id": 0, "ledger": 0, "code": 0}
                row |= {"flags": flags, "pending_id": rng.choice(transfers[-60:])}
                row["amount"] = layout.U128_MAX if flags == POST else 0
            transfers.append(row["id"])
            rows.append(row)
        requests.append(("TRANSFER", rows, {0: b'{"text":"%d"}' % number}))
        if number % 5 == 3:  # the day ends with the block
            row = {"id": (1 << 120) + number, "date": 20260101 + number}
            requests.append(("BUSINESS_DATE", [row], {}))
        blocks.append(requests)
    return blocks


class Bank:
    """A recovered store with its core. ``post`` returns when the block is durable; what it returned
    is acknowledged."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.core = Core(holds_max=CONFIG.holds)
        self.recovery = store.recover(self.core)
        self.last_hash = self.recovery.last_hash
        self.durable = self.recovery.last_block
        self.named_root = self.recovery.named_root

    def post(self, requests: list[Request], now: int) -> list[np.ndarray]:
        """Decide requests as one block, store it, and return their results."""
        block, answers, core = Block(), [], self.core
        date = core.business_date
        core.open_block(block, core.block_number + 1)
        core.expire(now, 1000)
        for kind, rows, metadata in requests:
            events = layout.record_array(layout.DTYPES[kind], rows)
            results = np.zeros(len(rows), layout.RESULT)
            now += len(rows) + 1000
            if kind == "TRANSFER":
                core.load_resolved(self.store.resolve(core, events, {}))
            elif kind != "ACCOUNT":
                core.load_resolved(self.store.resolve(core, events, {}, 1))
            method = {
                "ACCOUNT": core.create_accounts,
                "TRANSFER": core.create_transfers,
                "ACCOUNT_SETTINGS": core.change_settings,
                "DEFINITION": core.define,
                "BUSINESS_DATE": core.move_business_date,
            }[kind]
            method(events, now, results, metadata=metadata or None)
            answers.append(results)
        core.close_block()
        if block.count == 0:
            return answers
        self.store.insert_ids(block)
        core.hash_block(block, bytes([block.number % 251]) * 32)
        header = _pack.build_header(
            instance=self.store.instance,
            number=block.number,
            first_entry=block.first_entry,
            last_timestamp=block.last_timestamp,
            last_account_timestamp=block.last_account_timestamp,
            last_transfer_timestamp=block.last_transfer_timestamp,
            entry_count=block.count,
            business_date=block.business_date,
            previous_hash=self.last_hash,
            root=block.root,
            **self._next_named(),
        )
        value = _pack.encode_block(block, header)
        self.store.append(value, block)
        self.last_hash = _pack.BlockView(value).hash
        self.durable = block.number
        if core.business_date != date:
            keep_root(core, self.store.roots)
        self.store.snapshot_step(core, self.durable, self.named_root)
        return answers

    def _next_named(self) -> dict[str, Any]:
        """What the next header says of the first state root that none has named."""
        for block, _, _, root in self.store.roots.blocks():
            if block > self.named_root:
                self.named_root = block
                return {"state_block": block, "state_root": root}
        return {}

    def run(self, blocks: list[list[Request]], start: int = 0) -> list[list[np.ndarray]]:
        """Post the blocks of a script from ``start`` on, each at its own time."""
        return [
            self.post(requests, time_of(start + place))
            for place, requests in enumerate(blocks[start:])
        ]

    def books(self) -> dict[str, object]:
        """Return everything that may be asked about the books, and the kept state roots."""
        return {**fingerprint(self.core), "roots": self.store.roots.blocks()}


def time_of(number: int) -> int:
    """When the block with this number of a script is posted."""
    return SECOND * (1 + number)


def history(bank: Bank, ids: list[int]) -> list[object]:
    """Return every entry and metadata object of the journal, and what is known of ids."""
    answers: list[object] = []
    with bank.store.reader() as reader:
        for number in range(reader.last_block + 1):
            view = reader.block(number)
            entries = view.entries()
            bank.core.fill_account_ids(entries)
            answers.append((view.header_bytes, entries.tobytes()))
            has_metadata = np.flatnonzero(entries["flags"] & 1)
            answers.extend(
                reader.metadata(layout.position(number, int(index))) for index in has_metadata
            )
    array = np.array([layout.from_int(value) for value in ids], layout.U128)
    resolved = bank.store.resolve_ids(bank.core, array, {})
    answers.append(sorted(row.tobytes() for row in resolved))
    return answers
