"""The oracle's tables, how they change and are taken back, and the answers from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ledger import layout

Record = dict[str, Any]
Metadata = dict[int, bytes]
Result = tuple[int, int]
F = {flag.name: 1 << flag.bit for flag in layout.ACCOUNT_FILTER_FLAGS}
HISTORY = layout.flag_mask("ACCOUNT", "history")
USER_DATA = ("user_data_128", "user_data_64", "user_data_32")
BALANCES = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
FIELDS = {
    record.name: [f.name for f in record.fields if not f.type.startswith("bytes")]
    for record in layout.RECORDS
}


def full(kind: str, given: Record) -> Record:
    """Return the record of a kind with the fields that are not given set to 0."""
    return {name: given.get(name, 0) for name in FIELDS[kind]}


ABSENT: Any = object()


def first_broken(*rules: tuple[object, str]) -> str:
    """Return the status of the first rule that is broken, or nothing."""
    return next((status for broken, status in rules if broken), "")


class Answers:
    """The tables of accounts, transfers and changes, and all that can be asked of them."""

    def __init__(self) -> None:
        self.accounts: dict[int, Record] = {}  # as a look-up answers them, in order of opening
        self.transfers: dict[int, Record] = {}  # as stored, in order of creation
        self.changes: dict[int, Record] = {}  # change events by timestamp, in order
        self.metadata: dict[tuple[str, int], bytes] = {}
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    def _finish(self, kind: str, results: list[tuple[str, int]], dry_run: bool) -> list[Result]:
        if dry_run:
            self._take_back(0)
        self._undo.clear()
        return [(layout.STATUS_NUMBERS[kind][status], time) for status, time in results]

    def _put(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key, ABSENT)))
        if value is ABSENT:
            table.pop(key, None)
        else:
            table[key] = value

    def _take_back(self, mark: int) -> None:
        while len(self._undo) > mark:
            table, key, old = self._undo.pop()
            if old is ABSENT:
                table.pop(key, None)
            else:
                table[key] = old

    def _same_metadata(self, namespace: str, identifier: int, metadata: bytes) -> str:
        same = self.metadata[namespace, identifier] == metadata
        return "exists" if same else "exists_with_different_metadata"

    def lookup_accounts(self, ids: Iterable[int]) -> list[Record]:
        """Return the accounts of those ids that exist, in the order of the ids."""
        return [self.accounts[identifier] for identifier in ids if identifier in self.accounts]

    def lookup_transfers(self, ids: Iterable[int]) -> list[Record]:
        """Return the transfers of those ids that exist, in the order of the ids."""
        return [self.transfers[identifier] for identifier in ids if identifier in self.transfers]

    def get_account_transfers(self, given: Record) -> list[Record]:
        """Return the transfers of one account in order of time; none for an invalid filter."""
        wanted, flags = full("ACCOUNT_FILTER", given), given.get("flags", 0)
        if wanted["account_id"] in (0, layout.U128_MAX) or not flags & (F["debits"] | F["credits"]):
            return []
        sides = [side for side in ("debit", "credit") if flags & F[f"{side}s"]]

        def on_a_side(transfer: Record) -> bool:
            return any(transfer[f"{side}_account_id"] == wanted["account_id"] for side in sides)

        equal = (*USER_DATA, "code")
        return _select(self.transfers, wanted, equal, F["reversed"], sum(F.values()), on_a_side)

    def get_account_balances(self, given: Record) -> list[Record]:
        """Return the balances after each of those transfers; none without the history flag."""
        account = self.accounts.get(given.get("account_id", 0))
        if account is None or not account["flags"] & HISTORY:
            return []
        answer = []
        for transfer in self.get_account_transfers(given):
            change = self.changes[transfer["timestamp"]]
            side = "debit" if transfer["debit_account_id"] == account["id"] else "credit"
            balances = {name: change[f"{side}_account_{name}"] for name in BALANCES}
            answer.append({**balances, "timestamp": transfer["timestamp"]})
        return answer

    def query_accounts(self, given: Record) -> list[Record]:
        """Return the accounts that match every given field, in order of time."""
        wanted = full("QUERY_FILTER", given)
        return _select(self.accounts, wanted, (*USER_DATA, "ledger", "code"), 1, 1)

    def query_transfers(self, given: Record) -> list[Record]:
        """Return the transfers that match every given field, in order of time."""
        wanted = full("QUERY_FILTER", given)
        return _select(self.transfers, wanted, (*USER_DATA, "ledger", "code"), 1, 1)

    def get_change_events(self, given: Record) -> list[Record]:
        """Return transfers and expiries of a time range, with both accounts as of each."""
        wanted = {**full("CHANGE_EVENTS_FILTER", given), "flags": 0}
        return _select(self.changes, wanted, (), 0, 0)


def _select(
    records: dict[int, Record],
    wanted: Record,
    equal: tuple[str, ...],
    reversed_flag: int,
    known_flags: int,
    matches: Callable[[Record], bool] = lambda record: True,
) -> list[Record]:
    """The records that match a filter; none where the filter is invalid."""
    first, last = wanted["timestamp_min"], wanted["timestamp_max"] or layout.TIMESTAMP_MAX
    if not wanted["limit"] or max(first, last) > layout.TIMESTAMP_MAX or first > last:
        return []
    if wanted["flags"] & ~known_flags:
        return []
    found = [
        record
        for record in records.values()
        if first <= record["timestamp"] <= last
        and all(wanted[field] in (0, record[field]) for field in equal)
        and matches(record)
    ]
    found = found[::-1] if wanted["flags"] & reversed_flag else found
    return found[: min(wanted["limit"], layout.QUERY_RECORDS_MAX)]
