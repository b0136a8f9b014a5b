"""The HTTP client of the ledger: async, typed, JSON for people and binary records for volume.

::

    async with Client("http://127.0.0.1:7447") as client:
        await client.create_accounts([{"id": 1, "ledger": 156, "code": 10}, ...])
        await client.create_transfers([{"id": 7, "debit_account_id": 1, "credit_account_id": 2,
                                        "amount": 1000, "ledger": 156, "code": 1}])

Events are dicts (JSON) or record arrays of ``ledger.layout`` (binary). Answers are frozen structs
with whole numbers, or RESULT arrays. Ids are permanent, so a request whose outcome is unknown (a
time-out, a broken connection, any 5xx) is sent again with the same ids, and takes effect once.

::

    ClientError
    ├── Refused            4xx: the request as a whole was not taken; carries the problem document
    │   ├── Unauthorized   401, 403
    │   └── NotFound       404
    ├── ServerFailed       5xx that does not get better by itself; nothing was changed
    ├── NotTaken           408, 429 or 503 until the time for it was over; nothing was done
    ├── Unreachable        no answer, and nothing that could have changed anything was sent
    └── OutcomeUnknown     no answer to a write, or a 5xx: send the same ids again
"""

from __future__ import annotations

import asyncio
import random
import ssl as tls
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeAlias, TypeVar, overload

import aiohttp
import msgspec
import numpy as np

from ledger import layout
from ledger._codec import CONTENT_TYPES, SCHEMAS, decode_results_binary
from ledger.client_proofs import ProofClient
from ledger.errors import LedgerError

Records: TypeAlias = "np.ndarray[Any, np.dtype[np.void]]"
Event: TypeAlias = Mapping[str, Any]
Id: TypeAlias = int | str | uuid.UUID
Time: TypeAlias = int | str | datetime
Problem: TypeAlias = dict[str, Any]
Exists: TypeAlias = Literal["never", "after_retry", "always"]
S = TypeVar("S")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_JSON: Final = "application/json"
_WIDE: Final = {
    kind: frozenset(
        field["name"] for field in schema.fields if field["type"] in ("amount", "id", "u64", "time")
    )
    for kind, schema in SCHEMAS.items()
}
"""The fields that are decimal strings in JSON."""
_EXISTS: Final = {
    "accounts": layout.STATUS_NUMBERS["ACCOUNT"]["exists"],
    "transfers": layout.STATUS_NUMBERS["TRANSFER"]["exists"],
    "settings": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
    "definitions": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
    "business_date": layout.STATUS_NUMBERS["ADMINISTRATIVE"]["exists"],
}
_LINKED_EVENT_FAILED: Final = layout.STATUS_NUMBERS["TRANSFER"]["linked_event_failed"]
_PATHS: Final = {
    "accounts": "/v1/accounts",
    "transfers": "/v1/transfers",
    "settings": "/v1/account-settings",
    "definitions": "/v1/definitions",
    "business_date": "/v1/business-date",
}


# ----------------------------------------------------------------------------------------------
# Errors
# ----------------------------------------------------------------------------------------------


class ClientError(LedgerError):
    """Base of what the client raises; ``problem`` is the server's problem document, or empty."""

    def __init__(self, message: str, *, status: int = 0, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem: Problem = problem or {}

    @property
    def code(self) -> str:
        """The stable code of the problem, of docs/errors.md; empty when there was no answer."""
        return str(self.problem.get("code", ""))


class Refused(ClientError):
    """The request as a whole was not taken (4xx); sending it again does not help."""


class Unauthorized(Refused):
    """The key is missing or unknown (401), or lacks the scope (403)."""


class NotFound(Refused):
    """There is no such account, transfer or page (404)."""


class ServerFailed(ClientError):
    """The server cannot answer this (5xx), now or later; nothing was changed."""


class NotTaken(ClientError):
    """The server was not ready or overloaded for as long as the client tried; nothing was done."""


class Unreachable(ClientError):
    """There was no answer, and nothing was sent that could have changed anything."""


class OutcomeUnknown(ClientError):
    """A write may or may not have taken effect: send the same events with the same ids again."""


# ----------------------------------------------------------------------------------------------
# Answers
# ----------------------------------------------------------------------------------------------


class Result(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The outcome of one event: its place in the request, its status by name and number, and a time
    in ns.
    """

    index: int
    status: str
    code: int
    timestamp: int
    explanation: dict[str, Any] | None = None

    @property
    def created(self) -> bool:
        """Whether the event took effect."""
        return self.code == layout.CREATED


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """An account as it is: the four sums, and where it stands on its normal side, in minor
    units.
    """

    id: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    user_data_128: int
    user_data_64: int
    user_data_32: int
    ledger: int
    code: int
    flags: tuple[str, ...]
    timestamp: int
    metadata: dict[str, Any] | None = None
    balance: int = 0
    balance_text: str | None = None
    """With the decimal places and currency of the ledger's definition; None without one."""
    available: int | None = None
    entry_count: int = 0


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer as it is stored, with the amount that it had in the end, in minor units."""

    id: int
    debit_account_id: int
    credit_account_id: int
    amount: int
    pending_id: int
    user_data_128: int
    user_data_64: int
    user_data_32: int
    timeout: int
    ledger: int
    code: int
    flags: tuple[str, ...]
    timestamp: int
    metadata: dict[str, Any] | None = None


class StatementLine(Transfer, frozen=True, kw_only=True):
    """A transfer as one of its accounts sees it: which side, and the balance after it."""

    side: Literal["debit", "credit"]
    balance: int


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """The balances of an account at a time."""

    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int
    balance: int
    timestamp: int = 0
    available: int | None = None


class TrialBalanceLine(msgspec.Struct, frozen=True, kw_only=True):
    """The sums over all accounts of one ledger and code, in minor units."""

    ledger: int
    code: int
    account_count: int
    debits_pending: int
    debits_posted: int
    credits_pending: int
    credits_posted: int


class ChangeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer or an expiry, and both accounts' four sums as they were after it, in minor
    units.
    """

    position: str
    type: str
    timestamp: int
    ledger: int
    transfer_id: int
    transfer_amount: int
    transfer_pending_id: int
    transfer_user_data_128: int
    transfer_user_data_64: int
    transfer_user_data_32: int
    transfer_timeout: int
    transfer_code: int
    transfer_flags: tuple[str, ...]
    transfer_timestamp: int
    debit_account_id: int
    debit_account_debits_pending: int
    debit_account_debits_posted: int
    debit_account_credits_pending: int
    debit_account_credits_posted: int
    credit_account_id: int
    credit_account_debits_pending: int
    credit_account_debits_posted: int
    credit_account_credits_pending: int
    credit_account_credits_posted: int


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the server takes posts, and what it said."""

    ready: bool
    details: dict[str, Any]


class _Page(msgspec.Struct, Generic[S]):
    data: list[S]
    next: str | None = None


class ClientResponse(msgspec.Struct, frozen=True):
    """The body and the headers of an answer, and whether an earlier try may have taken effect."""

    body: bytes
    headers: Mapping[str, str]
    repeated: bool


# ----------------------------------------------------------------------------------------------
# The client
# ----------------------------------------------------------------------------------------------


class Client:
    """A connection pool to one ledger server, for one event loop; close it, or use ``async with``.

    ``api_key`` is sent with every request. One try may take ``timeout_s``; after that, and after
    broken connections, 429 and 5xx, the same request is sent again, with growing pauses and with
    what ``Retry-After`` says, until ``give_up_after_s`` have passed. ``exists`` says when the
    status exists (same id, same content) is reported as created: ``after_retry`` only where an
    earlier try of the same call may have created it, ``always``, or ``never``. ``position`` is the
    Ledger-Position of the newest write.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        give_up_after_s: float = 60.0,
        connections: int = 100,
        exists: Exists = "after_retry",
        tls: tls.SSLContext | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.position: str | None = None
        self.give_up_after_s = give_up_after_s
        self.exists = exists
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connections = connections
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    @property
    def _connected(self) -> aiohttp.ClientSession:
        # Made when it is first needed, on the event loop that needs it.
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls or True),
                timeout=self._timeout,
                headers=self._headers,
            )
        return self._session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; closing twice is allowed."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def proofs(self) -> ProofClient:
        """Proofs for auditors, as files for ``verify.py``."""
        return ProofClient(self._call, self._download)

    # Writes -----------------------------------------------------------------------------------

    @overload
    async def create_accounts(
        self, events: Records, *, dry_run: bool = False, exists: Exists | None = None
    ) -> Records: ...
    @overload
    async def create_accounts(
        self,
        events: Event | Sequence[Event],
        *,
        dry_run: bool = False,
        explain: bool = False,
        exists: Exists | None = None,
    ) -> list[Result]: ...
    async def create_accounts(
        self,
        events: Any,
        *,
        dry_run: bool = False,
        explain: bool = False,
        exists: Exists | None = None,
    ) -> Any:
        """Open accounts; return a RESULT array for an ACCOUNT array, a list of results for dicts,
        in order.
        """
        return await self._write("accounts", events, dry_run, explain, exists)

    @overload
    async def create_transfers(
        self, events: Records, *, dry_run: bool = False, exists: Exists | None = None
    ) -> Records: ...
    @overload
    async def create_transfers(
        self,
        events: Event | Sequence[Event],
        *,
        dry_run: bool = False,
        explain: bool = False,
        exists: Exists | None = None,
    ) -> list[Result]: ...
    async def create_transfers(
        self,
        events: Any,
        *,
        dry_run: bool = False,
        explain: bool = False,
        exists: Exists | None = None,
    ) -> Any:
        """Post transfers; return a RESULT array for a TRANSFER array, a list of results for dicts,
        in order.
        """
        return await self._write("transfers", events, dry_run, explain, exists)

    async def change_settings(
        self,
        events: Event | Sequence[Event],
        *,
        dry_run: bool = False,
        exists: Exists | None = None,
    ) -> list[Result]:
        """Replace the settings of accounts: overdraft, ceiling, blocks."""
        done: list[Result] = await self._write("settings", events, dry_run, False, exists)
        return done

    async def define(
        self,
        events: Event | Sequence[Event],
        *,
        dry_run: bool = False,
        exists: Exists | None = None,
    ) -> list[Result]:
        """Declare ledgers and codes."""
        done: list[Result] = await self._write("definitions", events, dry_run, False, exists)
        return done

    async def move_business_date(
        self, event: Event, *, dry_run: bool = False, exists: Exists | None = None
    ) -> Result:
        """Move the business date forward."""
        done: list[Result] = await self._write("business_date", event, dry_run, False, exists)
        return done[0]

    # Reads ------------------------------------------------------------------------------------

    async def account(self, account_id: Id) -> Account:
        """Return an account; raise NotFound when there is none."""
        return await self._get(f"/v1/accounts/{account_id}", Account)

    async def balance_at(self, account_id: Id, at: Time) -> Balance:
        """Return the balances of an account at a time, which must be one the ledger has passed."""
        path = f"/v1/accounts/{account_id}/balance"
        return await self._get(path, Balance, {"at": _text(at)})

    async def statement(
        self, account_id: Id, *, page_size: int = 1000, **filters: Any
    ) -> AsyncIterator[StatementLine]:
        """Yield the lines of an account, oldest first unless ``reversed=True``, page after page."""
        async for line in self._pages(
            f"/v1/accounts/{account_id}/transfers", StatementLine, page_size, filters
        ):
            yield line

    async def transfer(self, transfer_id: Id) -> Transfer:
        """Return a transfer; raise NotFound when there is none."""
        return await self._get(f"/v1/transfers/{transfer_id}", Transfer)

    async def lookup_accounts(self, ids: Iterable[Id]) -> list[Account | None]:
        """Return the accounts with these ids, in order, None where there is none."""
        return await self._lookup("accounts", ids, Account)

    async def lookup_transfers(self, ids: Iterable[Id]) -> list[Transfer | None]:
        """Return the transfers with these ids, in order, None where there is none."""
        return await self._lookup("transfers", ids, Transfer)

    async def query_accounts(
        self, *, page_size: int = 1000, **filters: Any
    ) -> AsyncIterator[Account]:
        """Yield the accounts that match all filters: user_data_*, ledger, code, timestamp_min/max,
        reversed.
        """
        async for account in self._query("accounts", Account, page_size, filters):
            yield account

    async def query_transfers(
        self, *, page_size: int = 1000, **filters: Any
    ) -> AsyncIterator[Transfer]:
        """Yield the transfers that match all filters: user_data_*, ledger, code, timestamp_min/max,
        reversed.
        """
        async for transfer in self._query("transfers", Transfer, page_size, filters):
            yield transfer

    async def trial_balance(self, *, ledger: int | None = None) -> list[TrialBalanceLine]:
        """Return the sums of each ledger and code; within a ledger debits equal credits."""
        params = {} if ledger is None else {"ledger": str(ledger)}
        page = await self._get("/v1/trial-balance", _Page[TrialBalanceLine], params)
        return page.data

    async def events(
        self, *, after: str | int | None = None, follow: bool = False
    ) -> AsyncIterator[ChangeEvent]:
        """Yield the changes after a position, in order, none left out; with ``follow`` wait for
        more, for ever.

        A broken connection is taken up again after the last event that was yielded.
        """
        position, last_progress, pause = after, _now(), 0.0
        while True:
            try:
                async for event in self._event_stream(position, follow):
                    position, last_progress, pause = event.position, _now(), 0.0
                    yield event
                if not follow:
                    return
            except (aiohttp.ClientError, TimeoutError, NotTaken) as error:
                pause = min(2.0, 2 * pause or 0.05)
                if _now() - last_progress + pause > self.give_up_after_s:
                    raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))

    async def ready(self) -> Readiness:
        """Return whether the server takes posts, and if not, why; raise Unreachable when there is
        no answer.
        """
        try:
            async with self._connected.get(self.url + "/readyz") as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error
        details = _problem(body) or {"detail": body.decode("utf-8", "replace")[:200]}
        return Readiness(ready=response.status == 200, details=details)

    # How a request is sent --------------------------------------------------------------------

    async def _get(self, path: str, kind: type[S], params: Mapping[str, str] | None = None) -> S:
        answer = await self._call("GET", path, params=params, write=False)
        return msgspec.json.decode(answer.body, type=kind, strict=False)

    async def _pages(
        self, path: str, kind: type[S], page_size: int, filters: Mapping[str, Any]
    ) -> AsyncIterator[S]:
        params = {name: _text(value) for name, value in filters.items() if value is not None}
        params["limit"] = str(page_size)
        while True:
            page = await self._get(path, _Page[kind], params)  # type: ignore[valid-type]
            for line in page.data:
                yield line
            if page.next is None:
                return
            params["cursor"] = page.next

    async def _query(
        self, name: str, kind: type[S], page_size: int, filters: Mapping[str, Any]
    ) -> AsyncIterator[S]:
        given = {key: value for key, value in filters.items() if value is not None}
        if given.pop("reversed", False):
            given["flags"] = ["reversed"]
        body = _plain(given, _WIDE["query"]) | {"type": name, "limit": page_size}
        while True:
            answer = await self._call(
                "POST", "/v1/query", body=msgspec.json.encode(body), write=False
            )
            page = msgspec.json.decode(answer.body, type=_Page[kind], strict=False)  # type: ignore[valid-type]
            for record in page.data:
                yield record
            if page.next is None:
                return
            body["cursor"] = page.next

    async def _lookup(self, name: str, ids: Iterable[Id], kind: type[S]) -> list[S | None]:
        wanted, found = [str(one) for one in ids], []
        for start in range(0, len(wanted), layout.REQUEST_EVENTS_MAX):
            body = msgspec.json.encode(wanted[start : start + layout.REQUEST_EVENTS_MAX])
            answer = await self._call("POST", f"/v1/{name}/lookup", body=body, write=False)
            page = msgspec.json.decode(answer.body, type=_Page[kind | None], strict=False)  # type: ignore[valid-type]
            found += page.data
        return found

    async def _event_stream(
        self, position: str | int | None, follow: bool
    ) -> AsyncIterator[ChangeEvent]:
        params = {} if position is None else {"after": str(position)}
        if follow:
            params["follow"] = "true"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self._timeout.total)
        url = self.url + "/v1/events"
        async with self._connected.get(url, params=params, timeout=timeout) as response:
            if response.status != 200:
                raise _error(response.status, await response.read(), write=False, after=None)
            async for line in response.content:
                if line.strip():
                    yield msgspec.json.decode(line, type=ChangeEvent, strict=False)

    async def _download(
        self, path: str, params: Mapping[str, str], take: Callable[[bytes], object]
    ) -> int:
        """Give an answer to ``take`` as it comes; return its size. Nothing is repeated once it has
        begun.
        """
        deadline, pause = _now() + self.give_up_after_s, 0.0
        timeout = aiohttp.ClientTimeout(total=None, sock_read=self.give_up_after_s)
        while True:
            size = 0
            try:
                async with self._connected.get(
                    self.url + path, params=params, timeout=timeout
                ) as response:
                    if response.status != 200:
                        wait = response.headers.get("Retry-After")
                        body = await response.read()
                        raise _error(response.status, body, write=False, after=wait)
                    async for piece in response.content.iter_any():
                        take(piece)
                        size += len(piece)
                    return size
            except NotTaken:
                pause = min(2.0, 2 * pause or 0.25)
                if _now() + pause > deadline:
                    raise
                await asyncio.sleep(pause)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise Unreachable(f"{self.url}: {error or type(error).__name__}") from error

    async def _write(
        self, kind: str, events: Any, dry_run: bool, explain: bool, exists: Exists | None
    ) -> Any:
        binary = isinstance(events, np.ndarray)
        given = [events] if isinstance(events, Mapping) else events
        headers: dict[str, str] = {}
        if binary:
            body = np.ascontiguousarray(events).tobytes()
            headers = {"Content-Type": CONTENT_TYPES[kind], "Accept": CONTENT_TYPES["results"]}
        else:
            body = msgspec.json.encode([_plain(event, _WIDE[kind]) for event in given])
        params = {"dry_run": "true"} if dry_run else {}
        if explain:
            params["explain"] = "true"
        answer = await self._call(
            "POST", _PATHS[kind], params=params, body=body, headers=headers, write=not dry_run
        )
        self.position = answer.headers.get("Ledger-Position", self.position)
        policy = exists or self.exists
        as_created = policy == "always" or (policy == "after_retry" and answer.repeated)
        if binary:
            results = decode_results_binary(answer.body).copy()
            statuses = results["status"]
            if as_created and not bool((statuses == layout.CREATED).all()):
                chained = (events["flags"] & 1).astype(bool)
                stored = await self._stored(kind, _ints(events["id"]), statuses.tolist(), chained)
                for index, timestamp in stored.items():
                    results[index]["status"] = layout.CREATED
                    results[index]["timestamp"] = timestamp or results[index]["timestamp"]
            return results
        outcomes = msgspec.json.decode(answer.body, type=_Results, strict=False).results
        if as_created and not all(one.created for one in outcomes):
            linked = [_LINKED in event.get("flags", ()) for event in given]
            ids = [_id_number(event["id"]) for event in given]
            codes = [one.code for one in outcomes]
            for index, timestamp in (await self._stored(kind, ids, codes, linked)).items():
                outcomes[index] = Result(
                    index=index,
                    status="created",
                    code=layout.CREATED,
                    timestamp=timestamp or outcomes[index].timestamp,
                )
        return outcomes

    async def _stored(
        self, kind: str, ids: Sequence[int], codes: Sequence[int], linked: Sequence[bool]
    ) -> dict[int, int]:
        """Return the events that exist with the same content, as {index: timestamp, or 0 when the
        result has it}.

        A chain that is repeated fails at its first event, with exists, and the others get
        linked_event_failed: those are looked up.
        """
        stored = {index: 0 for index, code in enumerate(codes) if code == _EXISTS[kind]}
        doubtful: list[int] = []
        start = 0
        for index, chained in enumerate(linked):
            if chained and index + 1 < len(linked):
                continue
            chain = range(start, index + 1)
            if any(i in stored for i in chain):
                doubtful += [i for i in chain if codes[i] == _LINKED_EVENT_FAILED]
            start = index + 1
        if doubtful:
            wanted = [ids[index] for index in doubtful]
            records: Sequence[Account | Transfer | None]
            if kind == "accounts":
                records = await self.lookup_accounts(wanted)
            else:
                records = await self.lookup_transfers(wanted)
            for index, record in zip(doubtful, records, strict=True):
                if record is not None:
                    stored[index] = record.timestamp
        return stored

    async def _call(
        self,
        method: str,
        path: str,
        *,
        write: bool,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> ClientResponse:
        """Send a request until it has an answer that is one, or until the time for it is over."""
        sent = {"Content-Type": _JSON, "Accept": _JSON} if body is not None else {}
        sent |= headers or {}
        deadline = _now() + self.give_up_after_s
        pause, unknown = 0.0, False
        while True:
            failure: ClientError
            wait: str | None = None
            try:
                async with self._connected.request(
                    method, self.url + path, params=params, data=body, headers=sent
                ) as response:
                    data = await response.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                # A connection that was never made has carried nothing.
                unknown |= write and not isinstance(error, aiohttp.ClientConnectorError)
                kind = OutcomeUnknown if unknown else Unreachable
                failure = kind(f"{self.url}: {error or type(error).__name__}")
                failure.__cause__ = error
            else:
                if response.status < 400:
                    return ClientResponse(data, response.headers, unknown)
                wait = response.headers.get("Retry-After")
                failure = _error(response.status, data, write=write or unknown, after=wait)
                if isinstance(failure, (Refused, ServerFailed)):
                    raise failure
                unknown |= isinstance(failure, OutcomeUnknown)
                if unknown and not isinstance(failure, OutcomeUnknown):
                    failure = OutcomeUnknown(
                        str(failure), status=failure.status, problem=failure.problem
                    )
            pause = min(2.0, 2 * pause or 0.05)
            rest = pause * random.uniform(0.5, 1.0)
            if wait is not None and wait.isdigit():
                rest = max(rest, int(wait) * random.uniform(1.0, 1.25))
            if _now() + rest > deadline:
                raise failure
            await asyncio.sleep(rest)


_LINKED: Final = "linked"


# ----------------------------------------------------------------------------------------------
# Bodies
# ----------------------------------------------------------------------------------------------


class _Results(msgspec.Struct):
    results: list[Result]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _error(status: int, body: bytes, *, write: bool, after: str | None) -> ClientError:
    problem = _problem(body)
    text = problem.get("detail") or problem.get("title") or body.decode("utf-8", "replace")[:200]
    message = f"{status} {problem.get('code', '')}: {text}"
    kind: type[ClientError]
    if status in (401, 403):
        kind = Unauthorized
    elif status == 404:
        kind = NotFound
    elif status in (408, 429) or (status == 503 and (problem or after)):
        kind = NotTaken
    elif status >= 500:
        kind = OutcomeUnknown if write else ServerFailed if problem else Unreachable
    else:
        kind = Refused
    return kind(message, status=status, problem=problem)


def _problem(body: bytes) -> Problem:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _text(value: Any) -> str:
    """A value as it stands in a query string."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return str(_nanoseconds(value))
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)


def _nanoseconds(time: datetime) -> int:
    past = time.astimezone(UTC) - _EPOCH
    return (past.days * 86_400 + past.seconds) * 10**9 + past.microseconds * 1000


def _plain(event: Event, wide: frozenset[str]) -> dict[str, Any]:
    """An event as JSON says it: wide numbers as decimal strings, times in nanoseconds."""
    plain: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, datetime):
            plain[name] = str(_nanoseconds(value))
        elif isinstance(value, date):
            plain[name] = value.isoformat()
        elif (
            name in wide and isinstance(value, int) and not isinstance(value, bool)
        ) or isinstance(value, uuid.UUID):
            plain[name] = str(value)
        else:
            plain[name] = value
    return plain


def _id_number(value: Id) -> int:
    if isinstance(value, uuid.UUID):
        return value.int
    if isinstance(value, str) and "-" in value:
        return uuid.UUID(value).int
    return int(value)


def _ints(ids: Records) -> list[int]:
    pairs = zip(ids["lo"].tolist(), ids["hi"].tolist(), strict=True)
    return [low | high << 64 for low, high in pairs]
