"""Seeded random requests that reach every rule: fast, and biased towards what is rare.

``Generator`` looks at the oracle to make events that come far: repeats with one field changed,
posts of what is pending, imported times next to those that are taken. Its clock moves by a
nanosecond or by seconds, so that timeouts of a few seconds fall due between any two requests.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from ledger import layout
from tests.model.administration import CODE, LEDGER, SIGNING_KEY
from tests.model.answers import Record
from tests.model.reference import BALANCING, RESOLVES, A, Reference, T

MAX, SECOND = layout.U128_MAX, 10**9
LATE = 5 * 10**18  # ns: from here on the longest timeout passes the end of time
EDGES = (0, 1, 2, MAX, MAX - 1, 1 << 127, (1 << 64) - 1, 1 << 64)
ACCOUNT_FIELDS = ("flags", "user_data_128", "user_data_64", "user_data_32", "ledger", "code")
TRANSFER_FIELDS = (
    *("flags", "pending_id", "timeout", "debit_account_id", "credit_account_id", "amount"),
    *("user_data_128", "user_data_64", "user_data_32", "ledger", "code"),
)
RESOLUTION_FIELDS = ("debit_account_id", "credit_account_id", "ledger", "code")
QUERIES = (
    *("get_account_transfers", "get_account_balances"),
    *("query_accounts", "query_transfers", "get_change_events"),
)
WIDTHS = {
    f.name: (1 << int(f.type[1:])) - 1 for r in layout.RECORDS for f in r.fields if f.type[0] == "u"
}
METADATA = (b'{"a":1}', b'{"a":2}')
KEYS = tuple(
    b'{"vkey":"bank.example/1+' + key + b'"}'
    for key in (
        b"80ba27c8+AQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
        b"e17a5786+AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
        b"e17a5787+AQECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
        b"366be6b7+BAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f",
    )
)
"""Metadata of signing keys: two right ones, one under another id, one of another type."""
FLAG_WEIGHTS = {
    **{"linked": 0.0, "pending": 0.3, "balancing_debit": 0.08, "balancing_credit": 0.08},
    **{"closing_debit": 0.01, "closing_credit": 0.01, "imported": 0.0},
    **{"post_pending_transfer": 0.01, "void_pending_transfer": 0.01},
    **{"debits_must_not_exceed_credits": 0.15, "credits_must_not_exceed_debits": 0.15},
    **{"history": 0.5, "closed": 0.02, "debits_blocked": 0.05, "credits_blocked": 0.05},
}


@dataclass(slots=True)
class Request:
    """One call: a method of the ledger and what it is given."""

    method: str
    events: list[Record]
    timestamp_ns: int
    metadata: dict[int, bytes] = field(default_factory=dict)
    dry_run: bool = False


class Generator:
    """Requests for one ledger whose oracle is ``oracle``."""

    def __init__(self, rng: random.Random, oracle: Reference, *, account_count: int) -> None:
        self.rng, self.oracle, self.account_count = rng, oracle, account_count
        self.now = rng.choice((SECOND, SECOND, SECOND, LATE))
        self.next_id = self.next_account_id = 1
        self.accounts: list[int] = []
        self.created: list[int] = []  # ids of transfers, the last ones matter
        self.pending: list[int] = []

    # -- Small choices -------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def _flags(self, kind: str) -> int:
        flags = 0
        for flag in layout.FLAGS[kind]:
            if self._chance(FLAG_WEIGHTS.get(flag.name, 0.25)):
                flags |= 1 << flag.bit
        return flags | (0x8000 if self._chance(0.002) else 0)

    def _account_id(self) -> int:
        """One of the youngest accounts, so that old ones, closed or full, are left alone."""
        if self._chance(0.012):
            return self.rng.choice((0, MAX, self.next_account_id + 5))
        return self.rng.choice(self.accounts[-self.account_count :] or [1])

    def _fresh_id(self) -> int:
        if self._chance(0.004):
            return self.rng.choice((0, MAX))
        if self._chance(0.03):
            return self.rng.randrange(1, self.next_id + 1)
        self.next_id += 1
        return self.next_id

    def _amount(self) -> int:
        if self._chance(0.02):
            return self.rng.choice(EDGES)
        return self.rng.randrange(20) if self._chance(0.5) else self.rng.randrange(10**6)

    def _user_data(self) -> Record:
        names = ("user_data_128", "user_data_64", "user_data_32")
        return {name: self.rng.randrange(4) for name in names if self._chance(0.3)}

    def _recent(self, ids: list[int]) -> int:
        return self.rng.choice(ids[-20:])

    def advance(self, room: int) -> int:
        """Move the clock at least ``room`` ns on, and return it."""
        step = self.rng.choice((0, 0, 1, 1000, SECOND // 10, SECOND))
        if self._chance(0.0005):
            self.now = max(self.now, LATE)
        self.now += room + (self.rng.randrange(step) if step > 1 else step)
        if self.oracle.open_holds and self._chance(0.1):  # the very moment of an expiry
            hold = self.rng.choice(list(self.oracle.open_holds.values())[-20:])
            moment = self.oracle.expires_at(hold) + self.rng.choice((-1, 0, 0, 1, room - 1))
            if moment - self.now < 10 * SECOND:
                self.now = max(self.now, moment)
        return self.now

    # -- Requests ------------------------------------------------------------------------------

    def request(self) -> Request:
        """Return the next request; the caller sends it to both ledgers."""
        if len(self.oracle.accounts) < 2:
            return self._accounts()
        (make,) = self.rng.choices(
            (self._accounts, self._transfers, self._settings, self._definitions, self._dates),
            (8, 80, 4, 3, 2),
        )
        return make()

    def _finish(self, method: str, events: list[Record]) -> Request:
        timestamp_ns = self.advance(len(events))
        metadata = {
            index: self.rng.choice(METADATA) for index in range(len(events)) if self._chance(0.05)
        }
        return Request(method, events, timestamp_ns, metadata, self._chance(0.05))

    def _count(self) -> int:
        return self.rng.choice((1, 1, 1, 2, 3, 5, 8))

    def _link(self, events: list[Record]) -> None:
        if self._chance(0.25):
            for event in events[:-1] if self._chance(0.8) else events:
                if self._chance(0.6):
                    event["flags"] = event.get("flags", 0) | A["linked"]

    def _mutate(self, event: Record, names: tuple[str, ...]) -> None:
        name = self.rng.choice(names)
        next_value = event.get(name, 0) + 1 & WIDTHS[name]
        event[name] = self.rng.choice((0, 1, 2, 3, next_value, self._account_id() & 0xFFFF))

    def _import(self, events: list[Record], flag: int, latest: int) -> None:
        """Make the events imported, most of them with times that ascend from the last one taken."""
        time, near = latest, [self.oracle.latest["account"], self.oracle.latest["transfer"]]
        for event in events:
            event["flags"] = event.get("flags", 0) | flag
            time += self.rng.choice((1, 1, 2, 1000))
            event["timestamp"] = time
            if self._chance(0.1):
                odd = (0, 1 << 63, self.now + 10**12, self.rng.choice(near), time - 3)
                event["timestamp"] = max(0, self.rng.choice(odd))
            if self._chance(0.02):
                event["flags"] ^= flag
            if event["flags"] & T["pending"] and self._chance(0.9):
                event.pop("timeout", None)

    # -- Accounts ------------------------------------------------------------------------------

    def _account(self) -> Record:
        stored = self.oracle.accounts
        if stored and self._chance(0.3):
            event = dict(stored[self.rng.choice(list(stored)[-30:])])
            for name in ("debits_pending", "debits_posted", "credits_pending", "credits_posted"):
                event[name] = 0
            event["timestamp"] = 0
            if self._chance(0.7):
                self._mutate(event, ACCOUNT_FIELDS)
            return event
        event = {"id": self._account_id(), "ledger": 1 + self._chance(0.05), **self._user_data()}
        if self._chance(0.8):
            self.next_account_id += 1
            event["id"] = self.next_account_id
        if self._chance(0.01):
            event["id"] = self.rng.choice((0, MAX))
        event.update(code=self.rng.randrange(1, 4), flags=self._flags("ACCOUNT"))
        if self._chance(0.08):
            odd = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
            event[self.rng.choice((*odd, "reserved", "timestamp"))] = 1
        if self._chance(0.03):
            event[self.rng.choice(("ledger", "code"))] = 0
        return event

    def _accounts(self) -> Request:
        events = [self._account() for _ in range(self._count())]
        self._link(events)
        if self._chance(0.25):
            self._import(events, A["imported"], self.oracle.latest["account"])
        return self._finish("create_accounts", events)

    # -- Transfers -----------------------------------------------------------------------------

    def _plain(self) -> Record:
        flags = self._flags("TRANSFER")
        debit, credit = self._account_id(), self._account_id()
        if debit == credit and self._chance(0.9):
            credit = self._account_id()
        account = self.oracle.accounts.get(debit)
        event = {"id": self._fresh_id(), "debit_account_id": debit, "credit_account_id": credit}
        event.update(self._user_data(), flags=flags, amount=self._amount())
        event["ledger"] = (account["ledger"] if account else 1) + self._chance(0.005)
        event["code"] = self.rng.randrange(1, 4)
        if account and self._chance(0.01):  # as much as fits beside what is posted
            event["amount"] = MAX - max(account["debits_posted"], account["credits_posted"])
        if flags & BALANCING and self._chance(0.7):
            event["amount"] = MAX
        if flags & (T["closing_debit"] | T["closing_credit"]) and self._chance(0.8):
            event.update(flags=flags | T["pending"], timeout=self.rng.randrange(1, 3))
        elif flags & T["pending"] and self._chance(0.6):
            last = min(0xFFFF_FFFF, (layout.TIMESTAMP_MAX - self.now) // SECOND)
            event["timeout"] = self.rng.choice((1, 1, 1, 2, 2, 2, 3, 5, last, last - 1))
        if self._chance(0.02):
            name = self.rng.choice(("pending_id", "timeout", "ledger", "code", "timestamp"))
            event[name] = 0 if name in ("ledger", "code") else 1
        return event

    def _resolution(self) -> Record:
        post = self._chance(0.6)
        flags = T["post_pending_transfer"] if post else T["void_pending_transfer"]
        chosen = self._recent(self.pending or self.created)
        for _ in range(self.rng.randrange(5)):
            if self.oracle.resolutions.get(chosen) != "open":
                chosen = self._recent(self.pending or self.created)
        pending = self.oracle.transfers.get(chosen, {})
        amount = pending.get("amount", 0)
        amounts = (MAX, amount, amount // 2, 0, min(amount + 1, MAX)) if post else (0, 0, 0, amount)
        event = {"id": self._fresh_id(), "pending_id": pending.get("id", 1), "flags": flags}
        event.update(self._user_data(), amount=self.rng.choice(amounts))
        if self._chance(0.2):
            event.update({name: pending.get(name, 0) for name in RESOLUTION_FIELDS})
        if self._chance(0.1):
            odd = (0, MAX, event["id"], self._recent(self.created or [1]), self.next_id + 9)
            event["pending_id"] = self.rng.choice(odd)
        if self._chance(0.1):
            self._mutate(event, RESOLUTION_FIELDS)
        if self._chance(0.05):
            event["amount"] = self.rng.randrange(1, max(2, min(amount, 1000)))
        if self._chance(0.02):
            event["timeout"] = 1
        if self._chance(0.03):
            event["flags"] |= self._flags("TRANSFER")
        return event

    def _repeat(self) -> Record:
        event = dict(self.oracle.transfers.get(self._recent(self.created), self._plain()))
        event["timestamp"] = 0
        if event["flags"] & RESOLVES and self._chance(0.5):
            for name in (*RESOLUTION_FIELDS, "user_data_128", "user_data_64", "user_data_32"):
                event[name] = 0
            event["amount"] = self.rng.choice((0, MAX, event["amount"]))
        if event["flags"] & BALANCING and self._chance(0.5):
            event["amount"] = MAX
        if self._chance(0.6):
            self._mutate(event, TRANSFER_FIELDS)
        return event

    def _transfer(self) -> Record:
        if self.created and self._chance(0.12):
            return self._repeat()
        if self.created and self._chance(0.3):
            return self._resolution()
        return self._plain()

    def _transfers(self) -> Request:
        events = [self._transfer() for _ in range(self._count())]
        if self.oracle.burned and self._chance(0.05):
            events[-1]["id"] = self.rng.choice(list(self.oracle.burned)[-10:])
        self._link(events)
        if self._chance(0.1):
            if self.accounts and self._chance(0.3):
                side = self.rng.choice(("debit_account_id", "credit_account_id"))
                events[0][side] = self.accounts[-1]
            self._import(events, T["imported"], self._imported_start())
        return self._finish("create_transfers", events)

    def _imported_start(self) -> int:
        """A time after the last transfer, now and then just before the last accounts."""
        last, accounts = self.oracle.latest["transfer"], self.oracle.latest["account"]
        if accounts > last + 1 and self._chance(0.7):
            return self.rng.randrange(max(last, accounts - 4), accounts + 1)
        return last

    # -- Administrative events -----------------------------------------------------------------

    def _administrative(self, kind: str, make: Any) -> list[Record]:
        events = []
        for _ in range(self._count()):
            stored = [row for of, row in self.oracle.administrative.values() if of == kind]
            if stored and self._chance(0.25):
                event = {**self.rng.choice(stored[-20:]), "timestamp": 0}
                if self._chance(0.5):
                    self._mutate(event, ("flags", "user_data_32", "date", "exponent", "amount"))
                    fields = layout.DTYPES[kind].names or ()
                    event = {name: event[name] for name in event if name in fields}
            else:
                event = make()
                reserved = [n for n in layout.DTYPES[kind].names or () if n.startswith("reserved")]
                if self._chance(0.05):
                    event[self.rng.choice((*reserved, "timestamp"))] = 1
                if self._chance(0.02):
                    event["flags"] = 0x8000
            events.append(event)
        return events

    def _settings(self) -> Request:
        def make() -> Record:
            event = {"id": self._fresh_id(), "account_id": self._account_id(), **self._user_data()}
            if self._chance(0.03):
                event["account_id"] = self.next_account_id + 5
            event["flags"] = flags = self._flags("ACCOUNT_SETTINGS")
            for bit, name in ((1, "overdraft"), (2, "ceiling")):
                if flags & bit or self._chance(0.05):
                    event[name] = self._amount()
            return event

        return self._finish("change_settings", self._administrative("ACCOUNT_SETTINGS", make))

    def _definitions(self) -> Request:
        def make() -> Record:
            kind = self.rng.choice((LEDGER, CODE, LEDGER, CODE, SIGNING_KEY, 4))
            event = {"id": self._fresh_id(), "kind": kind, "flags": int(self._chance(0.2))}
            event.update({LEDGER: {"ledger": self.rng.randrange(9)}}.get(kind, {}))
            event.update({CODE: {"code": self.rng.randrange(9)}}.get(kind, {}))
            if self._chance(0.4):
                event["exponent"] = self.rng.choice((0, 2, 18, 19)) if kind == LEDGER else 1
            if self._chance(0.1):
                event.update(ledger=self.rng.randrange(2), code=self.rng.randrange(2))
            return event

        request = self._finish("define", self._administrative("DEFINITION", make))
        for index, event in enumerate(request.events):
            if event["kind"] == SIGNING_KEY and self._chance(0.7):
                request.metadata[index] = self.rng.choice(KEYS)
        return request

    def _dates(self) -> Request:
        def make() -> Record:
            today = self.oracle.latest["business_date"] or 20000227
            date = today + self.rng.choice((0, 1, 1, 1, 2, 70, 100, 8870))
            if self._chance(0.3):
                date = self.rng.choice((0, 20230229, 20240229, 21000229, 99991231, 0xFFFF_FFFF))
            return {"id": self._fresh_id(), "date": date}

        return self._finish("move_business_date", self._administrative("BUSINESS_DATE", make))

    # -- Queries -------------------------------------------------------------------------------

    def query(self) -> tuple[str, Record]:
        """Return a query: a method and a filter."""
        given: Record = {"limit": self.rng.choice((0, 1, 2, 5, 100, 8190))}
        times = [self.now, *self.oracle.latest.values(), max(0, self.now - 3 * SECOND)]
        for name in ("timestamp_min", "timestamp_max"):
            if self._chance(0.3):
                given[name] = max(0, self.rng.choice(times) + self.rng.randrange(-3, 4))
        if self._chance(0.01):
            given["timestamp_max"] = 1 << 63
        method = self.rng.choice(QUERIES)
        if method == "get_change_events":
            return method, given
        given.update(self._user_data() if self._chance(0.4) else {})
        if self._chance(0.2):
            given["code"] = self.rng.randrange(1, 5)
        if method.startswith("query"):
            given["flags"] = self.rng.choice((0, 1, 1, 2))
            if self._chance(0.2):
                given["ledger"] = self.rng.randrange(1, 4)
        else:
            given.update(
                account_id=self._account_id(), flags=self.rng.choice((*range(8), 3, 3, 7, 8))
            )
        return method, given

    def note(self, request: Request, results: list[tuple[int, int]]) -> None:
        """Take note of what was created."""
        kept = {"create_accounts": self.accounts, "create_transfers": self.created}
        if request.dry_run or request.method not in kept:
            return
        for event, (status, _) in zip(request.events, results, strict=True):
            if status == layout.CREATED:
                kept[request.method].append(event["id"])
                if request.method == "create_transfers" and event["flags"] & T["pending"]:
                    self.pending.append(event["id"])
