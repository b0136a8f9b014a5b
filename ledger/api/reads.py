"""Answers from accounts and from the journal. All of it may wait, for the engine or for the disk:
never on the event loop.

What moves on its own thread (accounts, indexes) is asked of the engine; durable blocks are read
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from ledger import layout
from ledger._codec import encode_accounts, encode_records, format_time
from ledger._history import History
from ledger.api import cursors
from ledger.api.declared import Declared, Unit
from ledger.api.inputs import position_text
from ledger.api.problems import Problem
from ledger.errors import Unavailable

if TYPE_CHECKING:
    from ledger.engine import Engine

SUMS: Final = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
_MOVES: Final = [layout.ENTRY_KINDS["transfer"][0], layout.ENTRY_KINDS["expiry"][0]]
_HAS_METADATA: Final = layout.flag_mask("ENTRY", "has_metadata")
_DEBITS: Final = layout.flag_mask("ACCOUNT_FILTER", "debits")
_CREDITS: Final = layout.flag_mask("ACCOUNT_FILTER", "credits")
_REVERSED: Final = layout.flag_mask("QUERY_FILTER", "reversed")
FEED_ENTRIES: Final = 2048
"""Entries that one step of the feed reads."""

encode: Final = msgspec.json.Encoder().encode


class EngineView:
    """What History asks of the core, asked of the engine thread. For reading threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def lookup_accounts(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See ``Core``."""
        found: tuple[np.ndarray, np.ndarray] = self._engine.read(
            lambda core: core.lookup_accounts(ids)
        ).result()
        return found

    def accounts_at(self, slots: np.ndarray) -> np.ndarray:
        """See ``Core``."""
        found: np.ndarray = self._engine.read(lambda core: core.accounts_at(slots)).result()
        return found

    def account_details(self, account_id: int) -> dict[str, Any] | None:
        """See ``Core``."""
        found: dict[str, Any] | None = self._engine.read(
            lambda core: core.account_details(account_id)
        ).result()
        return found

    def fill_account_ids(self, entries: np.ndarray) -> None:
        """See ``Core``: safe on any thread for durable slots."""
        self._engine.core.fill_account_ids(entries)


@dataclass(frozen=True, slots=True)
class StatementFilter:
    """Which transfers of an account, in which order; zeros for any. Times in ns, inclusive."""

    side: str | None = None
    timestamp_min: int = 0
    timestamp_max: int = 0
    user_data_128: int = 0
    user_data_64: int = 0
    user_data_32: int = 0
    code: int = 0
    reversed: bool = False

    def record(self, account_id: int, limit: int) -> np.void:
        """Return the ACCOUNT_FILTER record."""
        sides = {"debit": _DEBITS, "credit": _CREDITS}
        row = layout.record_array(
            layout.ACCOUNT_FILTER,
            [
                {
                    "account_id": account_id,
                    "user_data_128": self.user_data_128,
                    "user_data_64": self.user_data_64,
                    "user_data_32": self.user_data_32,
                    "code": self.code,
                    "timestamp_min": self.timestamp_min,
                    "timestamp_max": self.timestamp_max,
                    "limit": limit,
                    "flags": sides[self.side] if self.side else _DEBITS | _CREDITS,
                }
            ],
        )[0]
        assert isinstance(row, np.void)
        return row


@dataclass(frozen=True, slots=True)
class Standing:
    """An account's records as one read on the engine thread found them."""

    account: np.ndarray
    details: np.ndarray
    credit_normal: np.ndarray
    unit: Unit | None

    @property
    def slot(self) -> int:
        """Its slot."""
        return int(self.details["slot"][0])

    @property
    def last_position(self) -> int:
        """The position of its newest entry."""
        return int(self.details["last_position"][0])

    @property
    def last_number(self) -> int:
        """The number of its newest entry."""
        return int(self.details["entry_count"][0]) - 1

    @property
    def side(self) -> str:
        """The normal side."""
        return "credit" if self.credit_normal[0] else "debit"

    def balance(self, sums: tuple[int, int, int, int]) -> int:
        """Return what four sums amount to on the normal side, posted."""
        return sums[3] - sums[1] if self.credit_normal[0] else sums[1] - sums[3]

    def shown(self, sums: tuple[int, int, int, int]) -> dict[str, str]:
        """Return the members of a balance."""
        balance = self.balance(sums)
        members = dict(zip(SUMS, map(str, sums), strict=True))
        members["balance"] = str(balance)
        if self.unit is not None:
            members["balance_text"] = self.unit.text(balance)
        return members


class Reads:
    """The reads of one engine."""

    def __init__(self, engine: Engine, declared: Declared) -> None:
        self._engine = engine
        self._declared = declared
        self._history = History(EngineView(engine))

    def check_ready(self) -> None:
        """Raise Unavailable until the ledger has recovered."""
        if self._engine.history is None:
            reasons = self._engine.reasons_not_ready()
            raise Unavailable("recovering", str(reasons[0]["detail"]) if reasons else "starting")

    def entries_of(
        self, reader: Any, slot: int, start_position: int, first: int, last: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (positions, ENTRY rows) of an account's entries with these numbers, as many as
        one read gives; ``start_position`` is that of entry ``last`` or a later one."""
        found: tuple[np.ndarray, np.ndarray] = self._history.account_entries(
            reader, slot, start_position, first=first, last=last
        )
        return found

    @contextmanager
    def _reader(self) -> Iterator[tuple[Any, int]]:
        self.check_ready()
        with self._engine.reader() as (reader, limit_block):
            yield reader, limit_block

    def _standing(self, account_id: int) -> Standing:
        ids = np.array([layout.from_int(account_id)], layout.U128)
        accounts, found, details = self._engine.read(
            lambda core: (*core.lookup_accounts(ids), core.lookup_details(ids))
        ).result()
        if not found[0]:
            raise Problem("account_not_found", f"no account has the id {account_id}")
        definitions = self._declared.load()
        return Standing(
            accounts,
            details,
            definitions.credit_normal_of(accounts, details["settings"]),
            definitions.units.get(int(accounts["ledger"][0])),
        )

    def _entry(
        self, reader: Any, standing: Standing, number: int, limit_block: int
    ) -> tuple[int, Any]:
        """The account's entry of a number, and its position."""
        positions, entries = self._history.account_entries(
            reader,
            standing.slot,
            standing.last_position,
            first=number,
            last=number,
            limit=1,
            limit_block=limit_block,
        )
        return int(positions[0]), entries[0]

    # Accounts -----------------------------------------------------------------------------------

    def account(self, account_id: int) -> bytes:
        """Return the JSON of an account, with the metadata of its opening; raise
        account_not_found."""
        standing = self._standing(account_id)
        with self._reader() as (reader, limit_block):
            position, opening = self._entry(reader, standing, 0, limit_block)
            metadata = reader.metadata(position) if opening["flags"] & _HAS_METADATA else None
        extra = []
        if standing.unit is not None:
            balance = standing.balance(_sums_of(standing.account[0]))
            extra.append(b'"balance_text":' + encode(standing.unit.text(balance)))
        if metadata:
            extra.append(b'"metadata":' + bytes(metadata))
        body: bytes = encode_accounts(
            standing.account, standing.details, standing.credit_normal, extras=[b",".join(extra)]
        )
        return body[1:-1]

    def accounts(self, ids: np.ndarray) -> bytes:
        """Return the JSON answer to a look-up of accounts: in the order of the ids, null where
        there is none."""
        accounts, found, details = self._engine.read(
            lambda core: (*core.lookup_accounts(ids), core.lookup_details(ids))
        ).result()
        return b'{"data":' + self._encoded(accounts, details, found) + b"}"

    def _encoded(
        self, accounts: np.ndarray, details: np.ndarray, found: np.ndarray | None
    ) -> bytes:
        sides = self._declared.load().credit_normal_of(accounts, details["settings"])
        body: bytes = encode_accounts(accounts, details, sides, found=found)
        return body

    def balance_at(self, account_id: int, at: int | None) -> bytes:
        """Return the JSON of an account's balances at a time, by default that of the last durable
        block.

        Raises account_not_found also for a time before the account was opened, and time_ahead.
        """
        standing = self._standing(account_id)
        with self._reader() as (reader, limit_block):
            durable = self._engine.durable_timestamp
            if at is None:
                at = durable
            if at > durable:
                raise Problem(
                    "time_ahead",
                    f"{format_time(at)} is after the last durable block, {format_time(durable)}",
                )
            side = self._history.balance_at(
                reader, standing.slot, standing.last_position, at, limit_block
            )
        if side is None:
            opened = format_time(int(standing.account["timestamp"][0]))
            raise Problem("account_not_found", f"the account {account_id} was opened at {opened}")
        return encode(
            {
                "account_id": str(account_id),
                "timestamp": str(at),
                "time": format_time(at),
                "normal_side": standing.side,
                **standing.shown(_sums_of(side)),
            }
        )

    # Statements ---------------------------------------------------------------------------------

    def statement(
        self, account_id: int, wanted: StatementFilter, limit: int, cursor: str | None
    ) -> tuple[bytes, str | None]:
        """Return (JSON of a page of an account's transfers, cursor of the next page).

        All pages of one statement end at the entry that was the account's newest when the first
        was made.
        """
        standing = self._standing(account_id)
        list_of = cursors.fingerprint("statement", account_id, wanted)
        first, until = 0, standing.last_number
        if cursor is not None:
            at, until = cursors.read(cursor, list_of)
            until = min(until, standing.last_number)
            first = at
        elif wanted.reversed:
            first = until
        record = wanted.record(account_id, limit + 1)
        with self._reader() as (reader, limit_block):
            positions, entries = self._history.account_entries(
                reader,
                standing.slot,
                standing.last_position,
                first=0 if wanted.reversed else first,
                last=min(first, until) if wanted.reversed else until,
                reversed=wanted.reversed,
                limit=limit + 1,
                limit_block=limit_block,
                filter=record,
            )
            opening = closing = (0, 0, 0, 0)
            if wanted.timestamp_min:
                opening = self._sums_at(reader, standing, wanted.timestamp_min - 1, limit_block)
            end_position, end = self._entry(reader, standing, until, limit_block)
            if wanted.timestamp_max:
                side = self._history.balance_at(
                    reader, standing.slot, end_position, wanted.timestamp_max, limit_block
                )
                closing = closing if side is None else _sums_of(side)
            else:
                on_debit = int(end["debit_slot"]) == standing.slot
                closing = _sums_of(end["debit" if on_debit else "credit"])
            metadata = {
                index: reader.metadata(int(positions[index]))
                for index in np.flatnonzero(entries["flags"][:limit] & _HAS_METADATA).tolist()
            }
        following = None
        if len(entries) > limit:
            mine = entries["debit_slot"][limit] == standing.slot
            number = int(entries[limit]["debit" if mine else "credit"]["number"])
            following = cursors.write(list_of, number, until)
        lines = self._lines(standing, positions[:limit], entries[:limit], metadata)
        head: dict[str, Any] = {
            "account_id": str(account_id),
            "ledger": int(standing.account["ledger"][0]),
            "code": int(standing.account["code"][0]),
            "normal_side": standing.side,
        }
        if standing.unit is not None:
            head["currency"] = {
                "code": standing.unit.currency,
                "exponent": standing.unit.exponent,
            }
        head |= {"opening": standing.shown(opening), "closing": standing.shown(closing)}
        body = encode(head)[:-1] + b',"data":' + lines + b',"next":' + encode(following) + b"}"
        return body, following

    def _sums_at(
        self, reader: Any, standing: Standing, at: int, limit_block: int
    ) -> tuple[int, int, int, int]:
        side = self._history.balance_at(
            reader, standing.slot, standing.last_position, at, limit_block
        )
        return (0, 0, 0, 0) if side is None else _sums_of(side)

    def _lines(
        self,
        standing: Standing,
        positions: np.ndarray,
        entries: np.ndarray,
        metadata: dict[int, bytes],
    ) -> bytes:
        extras = []
        unit, credit_normal = standing.unit, bool(standing.credit_normal[0])
        debited = entries["debit_slot"] == standing.slot
        sides = np.where(debited, entries["debit"], entries["credit"])
        sums = list(zip(*(_ints(sides[name]) for name in SUMS), strict=True))
        amounts = _ints(entries["record"]["amount"])
        numbers = sides["number"].tolist()
        for index, position in enumerate(positions.tolist()):
            dp, dr, cp, cr = sums[index]
            balance = cr - dr if credit_normal else dr - cr
            extra = (
                f'"position":"{position_text(position)}","entry_number":"{numbers[index]}",'
                f'"side":"{"debit" if debited[index] else "credit"}",'
                f'"debits_pending":"{dp}","debits_posted":"{dr}",'
                f'"credits_pending":"{cp}","credits_posted":"{cr}","balance":"{balance}"'
            ).encode()
            if unit is not None:
                up = bool(debited[index]) != credit_normal
                amount = unit.text(amounts[index] if up else -amounts[index])
                extra += b',"amount_text":' + encode(amount)
                extra += b',"balance_text":' + encode(unit.text(balance))
            extras.append(extra)
        records = np.ascontiguousarray(entries["record"])
        lines: bytes = encode_records("transfers", records, metadata=metadata, extras=extras)
        return lines

    # Transfers ----------------------------------------------------------------------------------

    def transfer(self, transfer_id: int) -> bytes:
        """Return the JSON of a transfer with its metadata; raise transfer_not_found."""
        ids = np.array([layout.from_int(transfer_id)], layout.U128)
        transfers, found = self._engine.find_transfers(ids).result()
        if not found[0]:
            raise Problem("transfer_not_found", f"no transfer has the id {transfer_id}")
        debit = np.ascontiguousarray(transfers["debit_account_id"])
        details = self._engine.read(lambda core: core.lookup_details(debit)).result()
        timestamp = int(transfers["timestamp"][0])
        wanted = StatementFilter(side="debit", timestamp_min=timestamp, timestamp_max=timestamp)
        metadata = None
        with self._reader() as (reader, limit_block):
            positions, entries = self._history.account_entries(
                reader,
                int(details["slot"][0]),
                int(details["last_position"][0]),
                limit=1,
                limit_block=limit_block,
                filter=wanted.record(layout.to_int(debit[0]), 1),
            )
            if len(entries) and entries["flags"][0] & _HAS_METADATA:
                metadata = {0: reader.metadata(int(positions[0]))}
        body: bytes = encode_records("transfers", transfers, metadata=metadata)
        return body[1:-1]

    def transfers(self, ids: np.ndarray) -> bytes:
        """Return the JSON answer to a look-up of transfers: in the order of the ids, null where
        there is none."""
        transfers, found = self._engine.find_transfers(ids).result()
        body: bytes = encode_records("transfers", transfers, found=found)
        return b'{"data":' + body + b"}"

    # Queries ------------------------------------------------------------------------------------

    def query(self, kind: str, wanted: np.ndarray, cursor: str | None) -> tuple[bytes, str | None]:
        """Return (JSON of a page of what a QUERY_FILTER of one row describes, cursor of the next
        page).

        ``kind``: accounts, transfers or change_events. Timestamps order each of them and are
        unique, so the next page
        begins after the last timestamp of this one.
        """
        limit = int(wanted["limit"][0])
        list_of = cursors.fingerprint("query", kind, wanted.tobytes())
        backwards = bool(int(wanted["flags"][0]) & _REVERSED)
        asked = wanted.copy()
        asked["limit"] = limit + 1
        if cursor is not None:
            at, _ = cursors.read(cursor, list_of)
            if (
                not int(asked["timestamp_min"][0])
                <= at
                <= (int(asked["timestamp_max"][0]) or layout.TIMESTAMP_MAX)
            ):
                raise Problem("invalid_cursor", "the cursor is outside of the range of times")
            asked["timestamp_max" if backwards else "timestamp_min"] = at
        details = None
        if kind == "accounts":
            records, details = self._engine.read(
                lambda core: _query_accounts(core, asked[0])
            ).result()
        else:
            with self._reader() as (reader, limit_block):
                if kind == "transfers":
                    records = self._history.query_transfers(reader, asked[0], limit_block)
                else:
                    given = np.zeros(1, layout.CHANGE_EVENTS_FILTER)
                    for name in ("timestamp_min", "timestamp_max", "limit"):
                        given[name] = asked[name]
                    records = self._history.change_events(reader, given[0], limit_block)
        following = None
        if len(records) > limit:
            following = cursors.write(list_of, int(records["timestamp"][limit]))
            records = records[:limit]
        if details is not None:
            body = self._encoded(records, details[:limit], None)
        else:
            body = encode_records(kind, np.ascontiguousarray(records))
        return b'{"data":' + body + b',"next":' + encode(following) + b"}", following

    def trial_balance(self, ledger: int | None) -> bytes:
        """Return the JSON of the sums of each ledger and code, of one ledger or all."""
        rows, business_date = self._engine.read(
            lambda core: (core.trial_balance(), core.business_date)
        ).result()
        named = self._declared.load()
        lines: list[dict[str, Any]] = []
        totals: dict[int, dict[str, int]] = {}
        for row in rows:
            if ledger is not None and row["ledger"] != ledger:
                continue
            lines.append(
                {
                    "ledger": row["ledger"],
                    "code": row["code"],
                    "ledger_name": named.ledger_names.get(row["ledger"]),
                    "code_name": named.code_names.get(row["code"]),
                    "account_count": row["account_count"],
                    **{name: str(row[name]) for name in SUMS},
                }
            )
            total = totals.setdefault(row["ledger"], dict.fromkeys(SUMS, 0))
            for name in SUMS:
                total[name] += row[name]
        date = f"{business_date:08d}"
        return encode(
            {
                "business_date": f"{date[:4]}-{date[4:6]}-{date[6:]}" if business_date else None,
                "data": lines,
                "totals": [
                    {"ledger": number, **{name: str(total[name]) for name in SUMS}}
                    for number, total in totals.items()
                ],
            }
        )

    # The feed -----------------------------------------------------------------------------------

    def events(self, after: int | None, limit: int) -> tuple[bytes, int, int | None]:
        """Return (lines of change events after a position, how many, the position that was read up
        to or None).

        At most ``limit`` events; the last is None when there was no entry of any kind after the
        position.
        """
        with self._reader() as (reader, limit_block):
            positions, entries = self._history.events_after(
                reader, after, min(limit, FEED_ENTRIES), limit_block
            )
            if not len(entries):
                return b"", 0, None
            moves = np.isin(entries["kind"], _MOVES)
            places = positions[moves]
            events = self._history.describe_events(reader, places, entries[moves])
        extras = [b'"position":"' + position_text(p).encode() + b'"' for p in places.tolist()]
        body = encode_records("change_events", events, extras=extras, lines=True)
        return body, len(events), int(positions[-1])


def _query_accounts(core: Any, wanted: np.void) -> tuple[np.ndarray, np.ndarray]:
    accounts = core.query_accounts(wanted)
    return accounts, core.lookup_details(np.ascontiguousarray(accounts["id"]))


def _ints(values: np.ndarray) -> list[int]:
    pairs = zip(values["lo"].tolist(), values["hi"].tolist(), strict=True)
    return [low | high << 64 for low, high in pairs]


def _sums_of(row: Any) -> tuple[int, int, int, int]:
    dp, dr, cp, cr = (layout.to_int(row[name]) for name in SUMS)
    return dp, dr, cp, cr
