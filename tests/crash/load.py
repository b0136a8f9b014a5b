"""The load of the crash tests: seeded traffic of every kind, posted over several connections, and
readers beside it.

``Traffic`` makes requests and learns from the answers which holds are open. ``Load`` posts them to
a server and keeps
every answer; when the server is killed, what was not answered stays in ``unknown``. Nothing here
decides whether an
answer is right: ``mirror.py`` compares them with the journal.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np

from ledger import layout
from ledger._codec import CONTENT_TYPES, decode_results, decode_results_binary, encode_events

PATHS: Final = {
    "accounts": "/v1/accounts",
    "transfers": "/v1/transfers",
    "settings": "/v1/account-settings",
    "definitions": "/v1/definitions",
    "business_date": "/v1/business-date",
}
DTYPES: Final = {
    "accounts": layout.ACCOUNT,
    "transfers": layout.TRANSFER,
    "settings": layout.ACCOUNT_SETTINGS,
    "definitions": layout.DEFINITION,
    "business_date": layout.BUSINESS_DATE,
}
SUMS: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
LEDGERS: Final = (156, 978)
LIMITED_CODE: Final = 30
_ABSENT_ACCOUNT: Final = 999_999_999_999
_U64: Final = (1 << 64) - 1


def flags(*names: str) -> int:
    """The bits of transfer flags."""
    return layout.flag_mask("TRANSFER", *names)


@dataclass(slots=True)
class Request:
    """Some events of one kind on their way to the server, and what it answered."""

    number: int
    kind: str
    events: np.ndarray
    metadata: dict[int, bytes] = field(default_factory=dict)
    binary: bool = True
    dry_run: bool = False
    repeated: bool = False
    """Whether some of its ids were sent before, in another request."""
    results: np.ndarray | None = None
    position: tuple[int, int] | None = None


def parse_position(text: str) -> tuple[int, int]:
    """Return (block, index) of a Ledger-Position."""
    block, index = re.findall(r"\d+", text)
    return int(block), int(index)


# ----------------------------------------------------------------------------------------------
# Traffic
# ----------------------------------------------------------------------------------------------


class Traffic:
    """Makes requests, the same for the same seed and answers; ``answered`` tells it what was
    created."""

    def __init__(self, seed: int, *, account_count: int = 600, large_events: int = 400) -> None:
        self.rng = random.Random(seed)
        self.account_count = account_count
        self.large_events = large_events
        self.accounts: dict[int, list[int]] = {ledger: [] for ledger in LEDGERS}
        self.limited: list[int] = []
        self.holds: list[int] = []
        self.resolved: list[int] = []
        self.burned: list[np.void] = []
        self.done: list[Request] = []
        self.date = 0
        self._number = 0
        self._next_id = 1 << 100

    def _request(self, kind: str, rows: Any, **options: Any) -> Request:
        self._number += 1
        events = rows if isinstance(rows, np.ndarray) else layout.record_array(DTYPES[kind], rows)
        binary = kind in CONTENT_TYPES and not options.get("metadata") and self.rng.random() < 0.6
        return Request(self._number, kind, events, **({"binary": binary} | options))

    def new_id(self) -> int:
        """A fresh id: most of them rising, a third anywhere below."""
        if self.rng.random() < 0.35:
            return self.rng.getrandbits(99) | 1 << 70
        self._next_id += self.rng.randint(1, 3)
        return self._next_id

    def two(self) -> tuple[int, int, int]:
        """A ledger and two of its accounts; some are used much more than others."""
        ledger = self.rng.choice(LEDGERS)
        known = self.accounts[ledger]
        first = int(len(known) * self.rng.random() ** 3)
        second = self.rng.randrange(len(known) - 1)
        return ledger, known[first], known[second + (second >= first)]

    def transfer(self, **fields: int) -> dict[str, Any]:
        """The fields of a transfer between two accounts that exist."""
        ledger, debit, credit = self.two()
        return {
            "id": self.new_id(),
            "debit_account_id": debit,
            "credit_account_id": credit,
            "amount": self.rng.choice((0, 1, self.rng.randint(1, 10**6))),
            "user_data_64": self.rng.choice((0, self.rng.getrandbits(40))),
            "ledger": ledger,
            "code": self.rng.randint(1, 4),
        } | fields

    def opening(self) -> list[Request]:
        """The requests that a new ledger begins with: declarations and accounts."""
        requests = [
            self._request(
                "definitions",
                [{"id": self.new_id(), "kind": 1, "ledger": ledger, "exponent": 2}],
                metadata={0: b'{"iso_4217":"%d","name":"unit"}' % ledger},
            )
            for ledger in LEDGERS
        ]
        for start in range(0, self.account_count, 200):
            rows = [self._account() for _ in range(min(200, self.account_count - start))]
            requests.append(self._request("accounts", rows))
        return requests

    def _account(self) -> dict[str, Any]:
        limited = self.rng.random() < 0.1
        return {
            "id": self.rng.choice((self.new_id(), self.rng.getrandbits(63) | 1 << 62)),
            "ledger": self.rng.choice(LEDGERS),
            "code": LIMITED_CODE if limited else self.rng.choice((10, 20)),
            "flags": 1 << 1 if limited else self.rng.choice((0, 0, 1 << 3)),
            "user_data_32": self.rng.randint(0, 5),
        }

    def next(self) -> Request:
        """The next request of the load."""
        if not all(len(known) > 1 for known in self.accounts.values()):
            return self._request("accounts", [self._account() for _ in range(8)])
        kinds: list[tuple[float, Callable[[], Request]]] = [
            (5.0, self._small),
            (1.5, self._large),
            (3.0, self._pending),
            (3.0, self._resolving),
            (2.0, self._chains),
            (2.0, self._refused),
            (1.0, self._balancing),
            (1.0, self._repeated),
            (0.7, self._new_accounts),
            (0.7, self._settings),
            (0.5, self._dry_run),
            (0.4, self._closing),
            (0.3, self._definition),
            (0.2, self._business_date),
        ]
        weights = [weight for weight, _ in kinds]
        return self.rng.choices([make for _, make in kinds], weights)[0]()

    def _small(self) -> Request:
        rows = [self.transfer() for _ in range(self.rng.randint(1, 8))]
        metadata = {}
        if self.rng.random() < 0.5:
            metadata = {0: b'{"text":"%d"}' % self.rng.getrandbits(40)}
        return self._request("transfers", rows, metadata=metadata)

    def _large(self) -> Request:
        count = self.rng.randint(self.large_events // 4, self.large_events)
        ledger = self.rng.choice(LEDGERS)
        known = np.array([layout.from_int(one) for one in self.accounts[ledger]], layout.U128)
        chance = np.random.default_rng(self.rng.getrandbits(32))
        events = np.zeros(count, layout.TRANSFER)
        # A few ids may be drawn twice only by a chance of 2^-60.
        events["id"]["lo"] = chance.integers(1, 1 << 63, count, np.uint64)
        events["id"]["hi"] = chance.integers(1 << 10, 1 << 34, count, np.uint64)
        debit = chance.integers(0, len(known), count)
        credit = (debit + chance.integers(1, len(known), count)) % len(known)
        events["debit_account_id"], events["credit_account_id"] = known[debit], known[credit]
        events["amount"]["lo"] = chance.integers(0, 10**9, count, np.uint64)
        events["ledger"], events["code"] = ledger, 1
        return self._request("transfers", events)

    def _pending(self) -> Request:
        rows = [
            self.transfer(
                flags=flags("pending"), timeout=self.rng.choice((0, 0, 1, 1, 2, 60)), amount=1000
            )
            for _ in range(self.rng.randint(1, 30))
        ]
        return self._request("transfers", rows)

    def _resolving(self) -> Request:
        rows = []
        for _ in range(self.rng.randint(1, 20)):
            known = self.resolved if self.resolved and self.rng.random() < 0.1 else self.holds
            if not known:
                break
            pending_id = known.pop(self.rng.randrange(len(known)))
            self.resolved.append(pending_id)
            void = self.rng.random() < 0.4
            rows.append(
                {
                    "id": self.new_id(),
                    "pending_id": pending_id,
                    "flags": flags("void_pending_transfer" if void else "post_pending_transfer"),
                    "amount": 0 if void else self.rng.choice((layout.U128_MAX, 300, 1000, 2000)),
                }
            )
        return self._request("transfers", rows) if rows else self._pending()

    def _chains(self) -> Request:
        rows: list[dict[str, Any]] = []
        for _ in range(self.rng.randint(1, 4)):
            chain = [self.transfer(flags=flags("linked")) for _ in range(self.rng.randint(2, 5))]
            chain[-1]["flags"] = 0
            broken = self.rng.random()
            victim = self.rng.choice(chain)
            if broken < 0.2:
                victim["credit_account_id"] = _ABSENT_ACCOUNT
            elif broken < 0.3:
                victim["code"] = 0
            rows += chain
        return self._request("transfers", rows)

    def _refused(self) -> Request:
        rows, repeated = [], False
        for _ in range(self.rng.randint(1, 6)):
            row = self.transfer()
            match self.rng.randrange(5):
                case 0:
                    row["debit_account_id"] = _ABSENT_ACCOUNT
                case 1:
                    row["credit_account_id"] = row["debit_account_id"]
                case 2:
                    row["ledger"] += 1
                case 3 if self.limited:
                    row["debit_account_id"] = self.rng.choice(self.limited)
                    row["amount"] = 1 << 90
                case 4 if self.burned:
                    row = layout.record_dict(self.rng.choice(self.burned))
                    row["timestamp"] = 0
                    repeated = True
                case _:
                    row |= {"flags": flags("post_pending_transfer"), "pending_id": self.new_id()}
            rows.append(row)
        return self._request("transfers", rows, repeated=repeated)

    def _balancing(self) -> Request:
        side = self.rng.choice(("balancing_debit", "balancing_credit"))
        rows = [self.transfer(flags=flags(side), amount=self.rng.choice((100, layout.U128_MAX)))]
        return self._request("transfers", rows)

    def _repeated(self) -> Request:
        """A request that was answered before, or one of its transfers with another amount."""
        known = [request for request in self.done[-200:] if not request.dry_run]
        if not known:
            return self._small()
        old = self.rng.choice(known)
        events = old.events.copy()
        if old.kind == "transfers" and self.rng.random() < 0.3:
            events["user_data_64"] ^= np.uint64(1)
        return self._request(old.kind, events, metadata=old.metadata, repeated=True)

    def _new_accounts(self) -> Request:
        return self._request("accounts", [self._account() for _ in range(self.rng.randint(1, 5))])

    def _settings(self) -> Request:
        _, account, _ = self.two()
        kind = self.rng.randrange(4)
        row = {"id": self.new_id(), "account_id": account}
        if kind == 0:
            row |= {"flags": 1, "overdraft": 10**12}
        elif kind == 1:
            row |= {"flags": 2, "ceiling": 10**14}
        elif kind == 2 and self.rng.random() < 0.3:
            row |= {"flags": 4}
        return self._request("settings", [row])

    def _dry_run(self) -> Request:
        rows = [self.transfer() for _ in range(self.rng.randint(1, 5))]
        return self._request("transfers", rows, dry_run=True)

    def _closing(self) -> Request:
        row = self.transfer(flags=flags("pending", "closing_debit"), amount=0, timeout=1)
        return self._request("transfers", [row])

    def _definition(self) -> Request:
        row = {"id": self.new_id(), "kind": 2, "code": self.rng.randint(1, 9), "flags": 1}
        return self._request("definitions", [row], metadata={0: b'{"name":"code"}'})

    def _business_date(self) -> Request:
        self.date += 1
        date = 2_026_0101 + self.date % 28 + self.date // 28 % 12 * 100 + self.date // 336 * 10_000
        return self._request("business_date", [{"id": self.new_id(), "date": date}])

    def answered(self, request: Request) -> None:
        """Learn from an answer."""
        assert request.results is not None
        if request.dry_run:
            return
        if len(request.events) <= 8:
            self.done.append(request)
        created = request.events[request.results["status"] == layout.CREATED]
        if request.kind == "accounts":
            for account in created:
                number = layout.to_int(account["id"])
                self.accounts[int(account["ledger"])].append(number)
                if account["code"] == LIMITED_CODE:
                    self.limited.append(number)
        elif request.kind == "transfers":
            pending = created[(created["flags"] & flags("pending")) != 0]
            self.holds += [layout.to_int(one["id"]) for one in pending]
            transient = np.isin(request.results["status"], list(layout.TRANSIENT))
            self.burned += list(request.events[transient][:2])


# ----------------------------------------------------------------------------------------------
# What readers saw
# ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AccountSeen:
    """GET /v1/accounts/{id}: the balances after so many entries."""

    account_id: int
    entry_count: int
    sums: tuple[int, ...]
    position: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class BalanceSeen:
    """GET /v1/accounts/{id}/balance?at=: the balances at a time."""

    account_id: int
    at: int
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LineSeen:
    """A line of GET /v1/accounts/{id}/transfers: the balances after an entry of the account."""

    account_id: int
    position: tuple[int, int]
    entry_number: int
    transfer_id: int
    timestamp: int
    amount: int
    side: str
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EventSeen:
    """A line of GET /v1/events."""

    position: tuple[int, int]
    transfer_id: int
    timestamp: int
    amount: int
    debit_sums: tuple[int, ...]
    credit_sums: tuple[int, ...]


@dataclass(slots=True)
class Seen:
    """All that the readers of one life of the server saw."""

    accounts: list[AccountSeen] = field(default_factory=list)
    balances: list[BalanceSeen] = field(default_factory=list)
    lines: list[LineSeen] = field(default_factory=list)
    events: list[EventSeen] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many answers."""
        return len(self.accounts) + len(self.balances) + len(self.lines) + len(self.events)


# ----------------------------------------------------------------------------------------------
# The load on a server
# ----------------------------------------------------------------------------------------------


class WrongAnswer(AssertionError):
    """The server said what it must never say under this load."""


def _sums(body: dict[str, Any], prefix: str = "") -> tuple[int, ...]:
    return tuple(int(body[prefix + name]) for name in SUMS)


class Load:
    """Posts traffic to one server and reads from it until it is gone.

    ``resend`` are requests whose outcome is unknown from an earlier life: they go first, one after
    the other. Ended,
    ``answered`` and ``seen`` hold the answers, ``unknown`` the requests without one, in the order
    in which they were sent.
    """

    def __init__(
        self,
        url: str,
        traffic: Traffic,
        *,
        resend: list[Request] | None = None,
        writers: int = 4,
        readers: int = 2,
        requests_max: int | None = None,
        pause_s: float = 0.004,
        feed_after: str | None = None,
        with_feed: bool = True,
    ) -> None:
        self.url = url
        self.traffic = traffic
        self.answered: list[Request] = []
        self.resent: list[Request] = []
        self.unknown: dict[int, Request] = {}
        self.seen = Seen()
        self.feed_after = feed_after
        self._resend = resend or []
        self._writers = writers
        self._readers = readers
        self._left = requests_max
        self._pause_s = pause_s
        self._session: aiohttp.ClientSession | None = None
        self._with_feed = with_feed
        self._ended = False

    async def run(self, until: Callable[[], Any] | None = None) -> None:
        """Run until the server is gone, or ``requests_max`` are answered; ``until`` is awaited
        beside (it kills)."""
        timeout = aiohttp.ClientTimeout(total=30)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as self._session:
            killer = None if until is None else asyncio.ensure_future(until())
            work = [asyncio.ensure_future(self._write_all())]
            work += [asyncio.ensure_future(self._read(index)) for index in range(self._readers)]
            if self._with_feed:
                work.append(asyncio.ensure_future(self._feed()))
            try:
                await asyncio.gather(*work)
                if killer is not None:
                    await killer
            finally:
                self._ended = True
                for task in [*work, *([killer] if killer else [])]:
                    task.cancel()
                await asyncio.gather(*work, return_exceptions=True)

    # ---- writing ----

    async def _write_all(self) -> None:
        for request in self._resend:
            self.unknown[request.number] = request
        for request in self._resend:
            if not await self._post(request):
                return
            self.resent.append(request)
        if not self.traffic.accounts[LEDGERS[0]]:
            for request in self.traffic.opening():
                if not await self._post(request):
                    return
        await asyncio.gather(*(self._write() for _ in range(self._writers)))
        self._ended = True

    async def _write(self) -> None:
        while self._left is None or self._left > 0:
            if self._left is not None:
                self._left -= 1
            if not await self._post(self.traffic.next()):
                return
            await asyncio.sleep(self._pause_s * self.traffic.rng.random())

    async def _post(self, request: Request) -> bool:
        """Post a request and keep its answer; False when the server is gone."""
        assert self._session is not None
        headers = {"X-Request-Id": f"load-{request.number}"}
        if request.binary:
            body = request.events.tobytes()
            headers["Content-Type"] = CONTENT_TYPES[request.kind]
            headers["Accept"] = CONTENT_TYPES["results"]
        else:
            body = encode_events(request.kind, request.events, metadata=request.metadata)
            headers["Content-Type"] = "application/json"
            if request.kind == "business_date":
                body = body[1:-1]
        if not request.dry_run:
            self.unknown[request.number] = request
        params = {"dry_run": "true"} if request.dry_run else {}
        try:
            async with self._session.post(
                self.url + PATHS[request.kind], data=body, headers=headers, params=params
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._ended = True
            return False
        if response.status != 200:
            raise WrongAnswer(f"{request.kind}: {response.status} {data!r}")
        if request.binary:
            results = decode_results_binary(data)
        else:
            results, indexes = decode_results(data)
            if not np.array_equal(indexes, np.arange(len(indexes))):
                raise WrongAnswer(f"results out of order: {data!r}")
        if len(results) != len(request.events):
            raise WrongAnswer(f"{len(results)} results for {len(request.events)} events")
        request.results = results
        if not request.dry_run:
            request.position = parse_position(response.headers["Ledger-Position"])
            del self.unknown[request.number]
        self.answered.append(request)
        self.traffic.answered(request)
        return True

    # ---- reading ----

    async def _get(self, path: str, **params: str) -> tuple[Any, Any] | None:
        """Get a JSON answer and its headers; None when the server is gone or has nothing."""
        assert self._session is not None
        try:
            async with self._session.get(self.url + path, params=params) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._ended = True
            return None
        if response.status != 200:
            raise WrongAnswer(f"{path}: {response.status} {data!r}")
        return msgspec.json.decode(data), response.headers

    async def _read(self, index: int) -> None:
        rng = random.Random(index)
        while not self._ended:
            await asyncio.sleep(self._pause_s)
            known = self.traffic.accounts[rng.choice(LEDGERS)]
            if not known:
                continue
            account = known[int(len(known) * rng.random() ** 3)]
            path = f"/v1/accounts/{account}"
            answer = await self._get(path)
            if answer is None:
                return
            body, headers = answer
            position = headers.get("Ledger-Position")
            self.seen.accounts.append(
                AccountSeen(
                    account,
                    int(body["entry_count"]),
                    _sums(body),
                    None if position is None else parse_position(position),
                )
            )
            match rng.randrange(3):
                case 0:
                    at = self._recent_time(rng)
                    opened = int(body["timestamp"])
                    if at < opened:
                        continue
                    answer = await self._get(path + "/balance", at=str(at))
                    if answer is None:
                        return
                    self.seen.balances.append(BalanceSeen(account, at, _sums(answer[0])))
                case 1:
                    answer = await self._get(path + "/transfers", limit="20", reversed="true")
                    if answer is None:
                        return
                    for line in answer[0]["data"]:
                        self.seen.lines.append(
                            LineSeen(
                                account,
                                parse_position(line["position"]),
                                int(line["entry_number"]),
                                int(line["id"]),
                                int(line["timestamp"]),
                                int(line["amount"]),
                                line["side"],
                                _sums(line),
                            )
                        )
                case _:
                    pass

    def _recent_time(self, rng: random.Random) -> int:
        """The time of something that was created lately; 0 when nothing was."""
        times = [
            int(one.results["timestamp"][created[-1]])
            for one in self.answered[-20:]
            if one.results is not None and not one.dry_run
            if len(created := np.flatnonzero(one.results["status"] == layout.CREATED))
        ]
        return rng.choice(times) if times else 0

    async def _feed(self) -> None:
        """Follow the change feed from where the last reader stopped."""
        assert self._session is not None
        while not self._ended:
            params = {} if self.feed_after is None else {"after": self.feed_after}
            try:
                async with self._session.get(self.url + "/v1/events", params=params) as response:
                    if response.status != 200:
                        raise WrongAnswer(f"events: {response.status} {await response.read()!r}")
                    async for line in response.content:
                        if line.endswith(b"\n") and line.strip():
                            self._take_event(msgspec.json.decode(line))
            except (aiohttp.ClientError, OSError, TimeoutError):
                self._ended = True
                return
            await asyncio.sleep(2 * self._pause_s)

    def _take_event(self, event: dict[str, Any]) -> None:
        self.feed_after = event["position"]
        self.seen.events.append(
            EventSeen(
                parse_position(event["position"]),
                int(event["transfer_id"]),
                int(event["timestamp"]),
                int(event["transfer_amount"]),
                _sums(event, "debit_account_"),
                _sums(event, "credit_account_"),
            )
        )
