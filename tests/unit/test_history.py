"""Statements, balances at a time, queries, change events, against a walk over all entries."""

import random

import numpy as np
import pytest

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._history import History
from ledger._pack import BlockView, build_header, encode_block
from ledger.errors import DataDamaged

KIND = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
EVENT = {name: number for name, (number, _) in layout.CHANGE_EVENT_TYPES.items()}
NONE = layout.NO_POSITION
BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
CLOSED = layout.flag_mask("ACCOUNT", "closed")
HISTORY = layout.flag_mask("ACCOUNT", "history")


class Journal:
    """A log with consistent chains, in blocks; it is Reader and what History asks of the core."""

    def __init__(self):
        self.blocks = []
        self.open = []
        self.accounts = {}
        self.order = []
        self.log = []
        self.values = {}
        self.opened = 0
        self.time = 1000
        self.money_time = 0
        self.pending = {}

    # The Reader.

    @property
    def last_block(self):
        return len(self.blocks) - 1

    def block(self, number):
        self.opened += 1
        return BlockView(self.blocks[number], number=number)

    # The core.

    def account_details(self, id):
        account = self.accounts.get(id)
        return account and {"slot": account["slot"], "last_position": account["positions"][-1]}

    def lookup_accounts(self, ids):
        found = [self.accounts.get(layout.to_int(id)) for id in ids]
        rows = [account["record"] if account else {} for account in found]
        return layout.record_array(layout.ACCOUNT, rows), np.array([bool(row) for row in rows])

    def accounts_at(self, slots):
        return layout.record_array(
            layout.ACCOUNT, [self.accounts[self.order[slot]]["record"] for slot in slots]
        )

    def fill_account_ids(self, entries):
        for name in ("debit", "credit"):
            for entry in entries:
                if entry[f"{name}_slot"] != layout.NO_SLOT:
                    id = self.order[entry[f"{name}_slot"]]
                    entry["record"][f"{name}_account_id"] = layout.from_int(id)

    # Writing.

    def add(self, kind, debit=None, credit=None, *, entry_flags=0, released=0, change=(), **record):
        """Append an entry; ``change``: (side, balance, amount) triples."""
        position = layout.position(len(self.blocks), len(self.open))
        entry = np.zeros(1, layout.ENTRY)[0]
        record.setdefault("timestamp", self.tick())
        for name, value in record.items():
            plain = layout.TRANSFER[name] != layout.U128
            entry["record"][name] = value if plain else layout.from_int(value)
        entry["kind"], entry["flags"] = KIND[kind], entry_flags
        entry["released"] = layout.from_int(released)
        entry["debit_slot"] = entry["credit_slot"] = layout.NO_SLOT
        for side, id in (("debit", debit), ("credit", credit)):
            if id is None:
                continue
            account = self.accounts[id]
            places = account["positions"]
            number = len(places)
            for which, name, amount in change:
                if which == side:
                    account[name] += amount
            entry["record"][f"{side}_account_id"] = layout.from_int(id)
            entry[f"{side}_slot"] = account["slot"]
            entry[side]["number"] = number
            entry[side]["previous"] = places[-1] if places else NONE
            entry[side]["skip"] = NONE
            if number and number % 64 == 0:
                distance = 64 if number % 4096 or number == 4096 else 4096
                entry[side]["skip"] = places[number - distance]
            for name in BALANCES:
                entry[side][name] = layout.from_int(account[name])
            places.append(position)
        if kind in ("transfer", "expiry"):
            self.money_time = record["timestamp"]
        self.open.append(entry)
        self.log.append((position, entry))
        return position

    def tick(self, step=1):
        self.time += step
        return self.time

    def flush(self):
        entries = np.array(self.open, layout.ENTRY)
        stored = entries.copy()
        header = build_header(
            number=len(self.blocks),
            entry_count=len(stored),
            last_transfer_timestamp=self.money_time,
        )
        self.blocks.append(encode_block(stored, header, seed=bytes(32)))
        self.open = []

    def account(self, id, **record):
        slot = len(self.order)
        timestamp = self.tick()
        fields = {"ledger": 1, "code": 7, "timestamp": timestamp, **record}
        self.accounts[id] = {"slot": slot, "positions": [], **dict.fromkeys(BALANCES, 0)}
        self.accounts[id]["record"] = {"id": id, **fields}
        self.order.append(id)
        return self.add("account", id, id=id, **fields)

    def transfer(self, id, debit, credit, amount, *, flags=0, **record):
        pending = flags & layout.flag_mask("TRANSFER", "pending")
        name = "pending" if pending else "posted"
        change = (("debit", f"debits_{name}", amount), ("credit", f"credits_{name}", amount))
        position = self.add(
            "transfer", debit, credit, change=change, id=id, amount=amount, flags=flags,
            ledger=1, **{"code": 1, **record},
        )  # fmt: skip
        if pending:
            self.pending[id] = (debit, credit, amount)
        return position

    def release(self, kind, pending_id, *, id=0, entry_flags=0, posted=0, **record):
        debit, credit, amount = self.pending.pop(pending_id)
        change = (
            ("debit", "debits_pending", -amount), ("credit", "credits_pending", -amount),
            ("debit", "debits_posted", posted), ("credit", "credits_posted", posted),
        )  # fmt: skip
        flag = "post_pending_transfer" if posted else "void_pending_transfer"
        flags = layout.flag_mask("TRANSFER", flag) if kind == "transfer" else 0
        return self.add(
            kind, debit, credit, change=change, released=amount, entry_flags=entry_flags, id=id,
            pending_id=pending_id, amount=posted, flags=flags, ledger=1, code=1, **record,
        )  # fmt: skip


def random_journal(seed, entries=6000, accounts=7, block=400):
    """Accounts of different sizes, every kind of entry, blocks of any size, also empty ones."""
    rng = random.Random(seed)
    journal = Journal()
    ids = [(rng.getrandbits(127) << 1) | 1 for _ in range(accounts)]
    for id in ids:
        journal.account(id, flags=HISTORY, user_data_64=id & 0xFFFF)
    weights = [2**-i for i in range(accounts)]
    for number in range(entries):
        debit, credit = rng.choices(ids, weights, k=2)
        while credit == debit:
            credit = rng.choice(ids)
        record = {
            "user_data_128": rng.choice((0, 0, 5, 2**100 + 1)),
            "user_data_64": rng.choice((0, 0, 6)),
            "user_data_32": rng.choice((0, 7)),
            "code": rng.choice((1, 1, 1, 2)),
        }
        journal.tick(rng.choice((0, 0, 1, 50)))
        dice = rng.random()
        if dice < 0.03:
            journal.add("account_settings", debit, id=10**9 + number, ledger=1, code=7)
        elif dice < 0.04:
            journal.add("burned_id", id=2 * 10**9 + number, code=54)
        elif dice < 0.15:
            flags = layout.flag_mask("TRANSFER", "pending")
            journal.transfer(number + 1, debit, credit, 40, flags=flags, timeout=1, **record)
        elif dice < 0.24 and journal.pending:
            pending = rng.choice(list(journal.pending))
            way = rng.randrange(3)
            if way == 2:
                journal.release("expiry", pending)
            else:
                journal.release("transfer", pending, id=number + 1, posted=30 * way)
        else:
            journal.transfer(number + 1, debit, credit, rng.randrange(100), **record)
        if rng.random() < 1 / block:
            journal.flush()
            if rng.random() < 0.1:
                journal.flush()
    journal.flush()
    return journal, ids


@pytest.fixture(scope="module")
def journal_and_ids():
    return random_journal(1)


def wanted(entry, filter, side=None):
    """Whether a filter (a dict) describes a transfer."""
    record = entry["record"]
    return (
        entry["kind"] == KIND["transfer"]
        and filter.get("timestamp_min", 0) <= record["timestamp"]
        and record["timestamp"] <= (filter.get("timestamp_max", 0) or layout.U64_MAX)
        and all(
            not filter.get(name) or _number(record[name]) == filter[name]
            for name in ("user_data_128", "user_data_64", "user_data_32", "code", "ledger")
        )
    )


def _number(value):
    return layout.to_int(value) if value.dtype == layout.U128 else int(value)


def side_of(entry, slot):
    if entry["debit_slot"] == slot:
        return "debit"
    return "credit" if entry["credit_slot"] == slot else None


def random_filter(rng, journal, id=None):
    filter = {}
    if rng.random() < 0.3:
        filter["code"] = rng.choice((1, 2, 3))
    for name, value in (("user_data_128", 5), ("user_data_64", 6), ("user_data_32", 7)):
        if rng.random() < 0.2:
            filter[name] = value
    if rng.random() < 0.5:
        filter["timestamp_min"] = rng.randrange(900, journal.time + 100)
    if rng.random() < 0.5:
        low = filter.get("timestamp_min", 1)
        filter["timestamp_max"] = rng.randrange(low, journal.time + 200)
    filter["limit"] = rng.choice((1, 3, 64, 65, 500, 8190, 10**6))
    return filter


def record_of(dtype, fields):
    return layout.record_array(dtype, [fields])[0]


def test_account_transfers_and_balances(journal_and_ids):
    journal, ids = journal_and_ids
    history = History(journal)
    rng = random.Random(2)
    found = 0
    for _ in range(110):
        id = rng.choice(ids)
        slot = journal.accounts[id]["slot"]
        filter = random_filter(rng, journal)
        flags = rng.choice(((1, 0), (0, 1), (1, 1)))
        names = [name for name, on in zip(("debit", "credit"), flags, strict=True) if on]
        reverse = rng.random() < 0.5
        limit_block = rng.choice((None, None, None, rng.randrange(len(journal.blocks))))
        expected = [
            (position, entry)
            for position, entry in journal.log
            if side_of(entry, slot) in names
            and wanted(entry, filter)
            and (limit_block is None or position >> 20 <= limit_block)
        ]
        if reverse:
            expected.reverse()
        expected = expected[: min(filter["limit"], 8190)]
        bits = flags[0] | flags[1] << 1 | reverse << 2
        record = record_of(layout.ACCOUNT_FILTER, {**filter, "account_id": id, "flags": bits})
        transfers = history.account_transfers(journal, record, limit_block)
        rows = np.array([entry["record"] for _, entry in expected], layout.TRANSFER)
        assert transfers.tobytes() == rows.tobytes()
        balances = history.account_balances(journal, record, limit_block)
        assert balances["timestamp"].tolist() == transfers["timestamp"].tolist()
        for (_, entry), balance in zip(expected, balances, strict=True):
            for name in BALANCES:
                assert balance[name] == entry[side_of(entry, slot)][name]
        found += len(expected)
    assert found > 5000


def test_balances_need_the_history_flag():
    journal = Journal()
    journal.account(1)
    journal.account(2, flags=HISTORY)
    journal.transfer(9, 1, 2, 5)
    journal.flush()
    history = History(journal)
    for id, count in ((1, 0), (2, 1)):
        record = record_of(layout.ACCOUNT_FILTER, {"account_id": id, "limit": 9, "flags": 3})
        assert len(history.account_balances(journal, record)) == count
        assert len(history.account_transfers(journal, record)) == 1
        given = {"slot": id - 1, "last_position": 2, "flags": HISTORY}
        assert len(history.account_balances(journal, record, account=given)) == 1


def test_balance_at_any_time(journal_and_ids):
    journal, ids = journal_and_ids
    history = History(journal)
    rng = random.Random(3)
    for id in ids:
        account = journal.accounts[id]
        start = account["positions"][-1]
        times = [1000, 1001, journal.time, 2**64 - 1, 2**70]
        for time in times + [rng.randrange(1000, journal.time) for _ in range(20)]:
            side = history.balance_at(journal, account["slot"], start, time)
            moved = [
                entry[side_of(entry, account["slot"])]
                for _, entry in journal.log
                if side_of(entry, account["slot"])
                and entry["kind"] in (KIND["transfer"], KIND["expiry"])
                and entry["record"]["timestamp"] <= time
            ]
            if moved:
                assert side == moved[-1]
            elif time < account["record"]["timestamp"]:
                assert side is None
            else:
                assert all(layout.to_int(side[name]) == 0 for name in BALANCES)


def test_imported_transfers_are_older_than_settings():
    """Settings carry the ledger's clock; transfers that come after them may be dated earlier."""
    journal = Journal()
    journal.account(1)
    journal.account(2)
    for number in range(200):
        if number % 3 == 0:
            journal.add("account_settings", 1, timestamp=10**6 + number)
        journal.transfer(number + 1, 1, 2, 1, timestamp=2000 + number)
    journal.flush()
    history = History(journal)
    start = journal.accounts[1]["positions"][-1]
    for time in range(1990, 2210, 7):
        side = history.balance_at(journal, 0, start, time)
        assert layout.to_int(side["debits_posted"]) == max(0, min(time, 2199) - 1999)
        filter = {"account_id": 1, "limit": 500, "flags": 1, "timestamp_min": time}
        rows = history.account_transfers(journal, record_of(layout.ACCOUNT_FILTER, filter))
        assert rows["timestamp"].tolist() == list(range(max(2000, time), 2200))


def test_account_entries_by_number(journal_and_ids):
    journal, ids = journal_and_ids
    history = History(journal)
    rng = random.Random(4)
    for _ in range(40):
        id = rng.choice(ids)
        account = journal.accounts[id]
        count = len(account["positions"])
        first = rng.randrange(count + 2)
        last = rng.choice((None, rng.randrange(count + 2)))
        reverse = rng.random() < 0.5
        limit = rng.choice((1, 10, 64, 200, 8190))
        stop = count if last is None else min(count, last + 1)
        expected = account["positions"][first:stop]
        if reverse:
            expected = expected[::-1]
        positions, entries = history.account_entries(
            journal, account["slot"], account["positions"][-1],
            first=first, last=last, reversed=reverse, limit=limit,
        )  # fmt: skip
        assert positions.tolist() == expected[:limit]
        log = dict(journal.log)
        for position, entry in zip(positions.tolist(), entries, strict=True):
            assert entry == log[position]


def test_account_entries_take_a_filter(journal_and_ids):
    journal, ids = journal_and_ids
    account = journal.accounts[ids[0]]
    filter = record_of(
        layout.ACCOUNT_FILTER, {"account_id": ids[0], "limit": 1, "flags": 3, "code": 2}
    )
    positions, _ = History(journal).account_entries(
        journal, account["slot"], account["positions"][-1], first=100, last=900, filter=filter
    )
    log = dict(journal.log)
    assert positions.tolist() == [
        position
        for position in account["positions"][100:901]
        if log[position]["kind"] == KIND["transfer"] and log[position]["record"]["code"] == 2
    ]


def test_query_transfers(journal_and_ids):
    journal, _ = journal_and_ids
    history = History(journal)
    rng = random.Random(5)
    found = 0
    for _ in range(70):
        filter = random_filter(rng, journal)
        filter["ledger"] = rng.choice((0, 0, 1, 1, 2))
        reverse = rng.random() < 0.5
        limit_block = rng.choice((None, None, None, rng.randrange(len(journal.blocks))))
        expected = [
            entry["record"]
            for position, entry in journal.log
            if wanted(entry, filter) and (limit_block is None or position >> 20 <= limit_block)
        ]
        if reverse:
            expected.reverse()
        expected = expected[: min(filter["limit"], 8190)]
        record = record_of(layout.QUERY_FILTER, {**filter, "flags": int(reverse)})
        rows = history.query_transfers(journal, record, limit_block)
        assert rows.tobytes() == np.array(expected, layout.TRANSFER).tobytes()
        found += len(expected)
    assert found > 5000


def test_change_events(journal_and_ids):
    journal, _ = journal_and_ids
    records = {
        layout.to_int(entry["record"]["id"]): (position, entry["record"])
        for position, entry in journal.log
        if entry["kind"] == KIND["transfer"]
    }
    asked = []

    def find(id):
        asked.append(id)
        return records[id][0] if id % 2 else None

    rng = random.Random(6)
    seen = set()
    for history in (History(journal), History(journal, find)):
        for _ in range(12):
            low = rng.randrange(1000, journal.time)
            filter = {"timestamp_min": low, "timestamp_max": low + 4000, "limit": 300}
            events = history.change_events(journal, record_of(layout.CHANGE_EVENTS_FILTER, filter))
            expected = [
                entry
                for _, entry in journal.log
                if entry["kind"] in (KIND["transfer"], KIND["expiry"])
                and low <= entry["record"]["timestamp"] <= low + 4000
            ][:300]
            assert len(events) == len(expected)
            for event, entry in zip(events, expected, strict=True):
                record = entry["record"]
                if entry["kind"] == KIND["expiry"]:
                    type_name = "two_phase_expired"
                    record = records[layout.to_int(record["pending_id"])][1]
                else:
                    flags = layout.flag_names("TRANSFER", int(record["flags"]))
                    type_name = {
                        "pending": "two_phase_pending",
                        "post_pending_transfer": "two_phase_posted",
                        "void_pending_transfer": "two_phase_voided",
                    }[flags[0]] if flags else "single_phase"  # fmt: skip
                seen.add(type_name)
                assert event["type"] == EVENT[type_name]
                assert event["timestamp"] == entry["record"]["timestamp"]
                assert event["ledger"] == 1
                for name in (
                    "id", "amount", "pending_id", "user_data_128", "user_data_64", "user_data_32",
                    "timeout", "code", "flags", "timestamp",
                ):  # fmt: skip
                    assert event[f"transfer_{name}"] == record[name], name
                for side in ("debit", "credit"):
                    id = layout.to_int(entry["record"][f"{side}_account_id"])
                    account = journal.accounts[id]["record"]
                    assert layout.to_int(event[f"{side}_account_id"]) == id
                    assert event[f"{side}_account_flags"] == account["flags"]
                    assert event[f"{side}_account_code"] == 7
                    assert event[f"{side}_account_timestamp"] == account["timestamp"]
                    assert event[f"{side}_account_user_data_64"] == account["user_data_64"]
                    for name in BALANCES:
                        assert event[f"{side}_account_{name}"] == entry[side][name]
    assert seen == set(EVENT)
    assert asked


def test_closed_flag_as_of_the_event():
    """Whatever the account is now, each event shows whether it was closed right after it."""
    pending = layout.flag_mask("TRANSFER", "pending")
    closing = layout.flag_mask("TRANSFER", "pending", "closing_debit")
    reopens = layout.flag_mask("ENTRY", "reopens_debit")
    journal = Journal()
    journal.account(1, flags=CLOSED)
    journal.account(2)
    journal.account(3, flags=CLOSED)
    journal.transfer(10, 1, 2, 5, flags=pending)
    journal.transfer(11, 1, 2, 5, flags=pending)
    journal.transfer(12, 1, 2, 0, flags=closing)
    journal.flush()
    journal.add("account_settings", 1)
    journal.release("transfer", 10, id=13)
    journal.release("expiry", 11)
    journal.release("transfer", 12, id=14, entry_flags=reopens)
    journal.transfer(15, 1, 2, 1)
    journal.transfer(16, 1, 2, 0, flags=closing)
    journal.flush()
    journal.release("expiry", 16, entry_flags=reopens)
    journal.flush()
    events = History(journal).change_events(
        journal, record_of(layout.CHANGE_EVENTS_FILTER, {"limit": 100})
    )
    closed = (events["debit_account_flags"] & CLOSED != 0).tolist()
    assert closed == [False, False, True, True, True, False, False, True, False]
    assert not (events["credit_account_flags"] & CLOSED).any()


def test_an_account_created_closed_and_expired_stays_closed():
    journal = Journal()
    journal.account(1, flags=CLOSED)
    journal.account(2)
    entry = journal.add("expiry", 1, 2, pending_id=5)
    journal.flush()
    assert entry == 2
    positions, entries = History(journal).events_after(journal, 1, 9)
    with pytest.raises(DataDamaged, match="pending transfer"):
        History(journal).describe_events(journal, positions, entries)
    found = History(journal, lambda id: journal.transfer_position)
    journal.transfer_position = journal.transfer(5, 2, 1, 5)
    journal.flush()
    event = found.describe_events(journal, positions, entries)[0]
    assert event["debit_account_flags"] == CLOSED
    assert event["credit_account_flags"] == 0
    assert layout.to_int(event["transfer_amount"]) == 5


def test_feed_resumes_and_never_skips(journal_and_ids):
    journal, _ = journal_and_ids
    history = History(journal)
    after, seen = None, []
    rng = random.Random(7)
    while True:
        positions, entries = history.events_after(journal, after, rng.choice((1, 7, 1000)))
        if not len(positions):
            break
        seen += zip(positions.tolist(), entries, strict=True)
        after = int(positions[-1])
    assert [position for position, _ in seen] == [position for position, _ in journal.log]
    for (_, entry), (_, logged) in zip(seen, journal.log, strict=True):
        assert entry == logged
    positions, _ = history.events_after(journal, None, 10**6, limit_block=2)
    assert positions[-1] >> 20 == 2
    assert not len(history.events_after(journal, None, 5, limit_block=-1)[0])


def test_invalid_filters_answer_empty(journal_and_ids):
    journal, ids = journal_and_ids
    history = History(journal)
    good = {"account_id": ids[0], "limit": 5, "flags": 3}
    assert len(history.account_transfers(journal, record_of(layout.ACCOUNT_FILTER, good))) == 5
    for bad in (
        {"limit": 0}, {"flags": 0}, {"flags": 4}, {"flags": 11}, {"account_id": 0},
        {"account_id": layout.U128_MAX}, {"timestamp_min": 5, "timestamp_max": 4},
        {"reserved": bytes(57) + b"\1"}, {"account_id": 12345},
    ):  # fmt: skip
        record = record_of(layout.ACCOUNT_FILTER, good | bad)
        assert not len(history.account_transfers(journal, record)), bad
        assert not len(history.account_balances(journal, record)), bad
    for bad in (
        {"limit": 0}, {"flags": 2}, {"timestamp_min": 5, "timestamp_max": 4},
        {"reserved": b"\1" + bytes(5)},
    ):  # fmt: skip
        record = record_of(layout.QUERY_FILTER, {"limit": 5} | bad)
        assert not len(history.query_transfers(journal, record)), bad
    for bad in ({"limit": 0}, {"timestamp_min": 5, "timestamp_max": 4}, {"reserved": b"\1" * 44}):
        record = record_of(layout.CHANGE_EVENTS_FILTER, {"limit": 5} | bad)
        assert not len(history.change_events(journal, record)), bad
    with pytest.raises(TypeError):
        history.account_transfers(journal, np.zeros(1, layout.QUERY_FILTER))


def test_nothing_from_an_empty_journal():
    journal = Journal()
    history = History(journal)
    assert not len(history.query_transfers(journal, record_of(layout.QUERY_FILTER, {"limit": 5})))
    assert not len(
        history.change_events(journal, record_of(layout.CHANGE_EVENTS_FILTER, {"limit": 5}))
    )
    assert not len(history.events_after(journal, None, 5)[0])
    assert history.balance_at(journal, 0, NONE, 5) is None


def test_broken_chains_are_reported():
    journal = Journal()
    journal.account(1)
    journal.account(2)
    journal.account(3)
    for number in range(5):
        journal.transfer(number + 1, 1, 2, 1)
    journal.open[5]["debit"]["previous"] = 2
    journal.open[6]["debit"]["previous"] = 7
    journal.open[7]["debit"]["previous"] = 5
    journal.flush()
    history = History(journal)
    for start, what in ((5, "not one of the account"), (6, "not earlier"), (7, "has number")):
        with pytest.raises(DataDamaged, match=what):
            history.account_entries(journal, 0, start, reversed=True)
    with pytest.raises(DataDamaged, match="no entry 100"):
        history.account_entries(journal, 0, 100)
    with pytest.raises(ValueError, match="not in the journal yet"):
        history.account_entries(journal, 0, 1 << 20)


class RealReader:
    def __init__(self):
        self.values = []
        self.opened = 0

    @property
    def last_block(self):
        return len(self.values) - 1

    def block(self, number):
        self.opened += 1
        return BlockView(self.values[number], number=number)


def long_journal(count, block):
    """Two accounts that share ``count`` transfers, decided by the core: (core, reader)."""
    core, reader = Core(holds_max=1), RealReader()
    accounts = [{"id": id, "ledger": 1, "code": 1, "flags": HISTORY} for id in (1, 2)]
    events = np.zeros(count, layout.TRANSFER)
    events["id"]["lo"] = np.arange(1, count + 1)
    events["debit_account_id"]["lo"], events["credit_account_id"]["lo"] = 1, 2
    events["ledger"] = events["code"] = events["amount"]["lo"] = 1
    time = 10_000
    for number, start in enumerate([None, *range(0, count, block)]):
        made = Block()
        core.open_block(made, number)
        if start is None:
            rows = layout.record_array(layout.ACCOUNT, accounts)
            core.create_accounts(rows, time, np.zeros(2, layout.RESULT))
        else:
            part = events[start : start + block].copy()
            time += len(part)
            core.create_transfers(part, time, np.zeros(len(part), layout.RESULT))
        core.close_block()
        header = build_header(
            number=number,
            entry_count=made.count,
            last_transfer_timestamp=core.last_transfer_timestamp,
        )
        reader.values.append(encode_block(made, header, seed=bytes(32)))
    return core, reader


def test_far_entries_are_few_rows_away():
    """600,000 entries, every level of skips: the blocks opened show that nothing walks them all."""
    count = 600_000
    core, reader = long_journal(count, block=1000)
    history = History(core)
    details = core.account_details(1)
    slot, start = details["slot"], details["last_position"]
    rng = random.Random(8)
    reader.opened = 0
    numbers = [0, 1, 64, 4095, 4096, 8192, 64**3 - 1, 64**3, 64**3 + 1, 2 * 64**3, count]
    numbers += [rng.randrange(count) for _ in range(20)]
    for number in numbers:
        side = history.balance_at(reader, slot, start, 10_000 + number)
        assert int(side["number"]) == number
        assert layout.to_int(side["debits_posted"]) == number
        _, entries = history.account_entries(reader, slot, start, first=number, limit=100)
        stop = min(number + 100, count + 1)
        assert entries["debit"]["number"].tolist() == list(range(number, stop))
        _, entries = history.account_entries(
            reader, slot, start, last=number, limit=3, reversed=True
        )
        assert entries["debit"]["number"].tolist() == [number, number - 1, number - 2][: number + 1]
    assert reader.opened / len(numbers) < 600


def test_long_statements_in_order():
    core, reader = long_journal(20_000, block=700)
    history = History(core)
    for reverse in (0, 4):
        filter = {"account_id": 1, "limit": 8190, "flags": 1 | reverse}
        filter |= {"timestamp_min": 10_000 + 3333}
        rows = history.account_transfers(reader, record_of(layout.ACCOUNT_FILTER, filter))
        numbers = range(3333, 3333 + 8190) if not reverse else range(20_000, 20_000 - 8190, -1)
        assert rows["id"]["lo"].tolist() == list(numbers)


def real_blocks(blocks=60):
    """Blocks decided by the core, and after each one its accounts as a look-up answers them."""
    rng = random.Random(11)
    core, reader, log, states = Core(holds_max=1000), RealReader(), [], []
    ids = list(range(1, 7))
    array = layout.record_array(layout.U128, [{"lo": id, "hi": 0} for id in ids])
    next_id, time, known = 1, 10**9, []
    names = ("closing_debit", "closing_credit")
    for number in range(blocks):
        block = Block()
        core.open_block(block, number)
        time += rng.randrange(1, 3 * 10**9)
        core.expire(time, 100)
        if number == 0:
            rows = [{"id": id, "ledger": 1, "code": 1, "flags": HISTORY} for id in ids]
            rows[-1]["flags"] |= CLOSED
            time += 100
            events = layout.record_array(layout.ACCOUNT, rows)
            core.create_accounts(events, time, np.zeros(len(ids), layout.RESULT))
        rows = []
        for _ in range(rng.randrange(60)):
            row = {"id": next_id, "ledger": 1, "code": 1, "amount": rng.randrange(50)}
            next_id += 1
            row["debit_account_id"], row["credit_account_id"] = rng.sample(ids[:-1], 2)
            dice = rng.random()
            if dice < 0.3:
                flags = ["pending", *(name for name in names if rng.random() < 0.02)]
                row["flags"] = layout.flag_mask("TRANSFER", *flags)
                row["timeout"] = rng.choice((0, 1, 4))
                known.append(row["id"])
            elif dice < 0.5 and known:
                way = rng.choice(("post_pending_transfer", "void_pending_transfer"))
                row["flags"] = layout.flag_mask("TRANSFER", way)
                row["pending_id"] = rng.choice(known)
                row["amount"] = layout.U128_MAX if way.startswith("post") else 0
                for side in ("debit", "credit"):
                    row[f"{side}_account_id"] = 0
            rows.append(row)
        time += 100
        events = layout.record_array(layout.TRANSFER, rows)
        core.create_transfers(events, time, np.zeros(len(rows), layout.RESULT))
        time += 100
        events = layout.record_array(
            layout.ACCOUNT_SETTINGS, [{"id": number + 1, "account_id": rng.choice(ids)}]
        )
        core.change_settings(events, time, np.zeros(1, layout.RESULT))
        core.close_block()
        header = build_header(
            number=number,
            entry_count=block.count,
            last_transfer_timestamp=core.last_transfer_timestamp,
        )
        entries = block.entries.copy()
        entries["reserved"] = 0  # the core's own marks, never stored
        reader.values.append(encode_block(block, header, seed=bytes(32)))
        log += [(layout.position(number, index), entry) for index, entry in enumerate(entries)]
        states.append(core.lookup_accounts(array)[0])
    return core, reader, log, states, ids


def test_the_core_and_its_blocks():
    """Chains, skips and reopening marks as the core writes them; ids filled in by the core."""
    core, reader, log, states, ids = real_blocks()
    history = History(core)
    positions, entries = history.events_after(reader, None, 10**6)
    assert positions.tolist() == [position for position, _ in log]
    assert entries.tobytes() == np.array([entry for _, entry in log], layout.ENTRY).tobytes()
    kinds = {int(entry["kind"]) for _, entry in log}
    assert {KIND["expiry"], KIND["account_settings"], KIND["burned_id"]} <= kinds
    longest = 0
    for id in ids:
        details = core.account_details(id)
        slot, start = details["slot"], details["last_position"]
        own = [position for position, entry in log if side_of(entry, slot)]
        longest = max(longest, len(own))
        assert start == own[-1]
        assert details["entry_count"] == len(own)
        for reverse in (False, True):
            found, _ = history.account_entries(reader, slot, start, reversed=reverse)
            assert found.tolist() == (own[::-1] if reverse else own)
        for number in range(len(own)):
            found, _ = history.account_entries(reader, slot, start, first=number, last=number)
            assert found.tolist() == [own[number]]
    assert longest > 3 * 64
    everything = record_of(layout.CHANGE_EVENTS_FILTER, {"limit": 8190})
    reopened = 0
    for number, accounts in enumerate(states):
        events = history.change_events(reader, everything, number)
        for account in accounts:
            last = None
            for event in events:
                for side in ("debit", "credit"):
                    if event[f"{side}_account_id"] == account["id"]:
                        flags = int(event[f"{side}_account_flags"])
                        reopened += last is not None and last & CLOSED and not flags & CLOSED
                        last = flags
                        shown = [event[f"{side}_account_{name}"] for name in BALANCES]
            if last is not None:
                assert last == account["flags"]
                assert shown == [account[name] for name in BALANCES]
    assert reopened
