"""The oracle and a ledger side by side: every request goes to both, every answer is compared."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ledger import layout
from tests.model.administration import CODE, LEDGER, SIGNING_KEY, S
from tests.model.answers import BALANCES, Metadata, Record
from tests.model.reference import Reference

STATUS_KINDS = {
    "create_accounts": "ACCOUNT",
    "create_transfers": "TRANSFER",
    "change_settings": "ADMINISTRATIVE",
    "define": "ADMINISTRATIVE",
    "move_business_date": "ADMINISTRATIVE",
}
FLAG_KINDS = {
    "create_accounts": "ACCOUNT",
    "create_transfers": "TRANSFER",
    "change_settings": "ACCOUNT_SETTINGS",
    "define": "DEFINITION",
    "get_account_transfers": "ACCOUNT_FILTER",
    "get_account_balances": "ACCOUNT_FILTER",
    "query_accounts": "QUERY_FILTER",
    "query_transfers": "QUERY_FILTER",
}
PAGE = layout.QUERY_RECORDS_MAX
EVERYTHING = {"limit": PAGE}
_FLAGS = {
    kind: [(flag.name, 1 << flag.bit) for flag in layout.FLAGS[kind]]
    for kind in set(FLAG_KINDS.values())
}


class Pair:
    """One ledger under test and its oracle; ``reached`` counts what the ledger answered.

    ``reached`` has keys (kind, status name) of answers and (kind, flag name) of flags that took
    effect: of events that were created and of queries that found something.
    """

    def __init__(
        self, ledger: Any, reached: Counter[tuple[str, str]] | None = None, *, history: bool = True
    ) -> None:
        self.oracle, self.ledger, self.history = Reference(), ledger, history
        self.reached: Counter[tuple[str, str]] = Counter() if reached is None else reached

    def request(
        self,
        method: str,
        events: list[Record],
        timestamp_ns: int,
        metadata: Metadata | None = None,
        dry_run: bool = False,
    ) -> list[tuple[int, int]]:
        """Send a request to both; raise ``AssertionError`` where the results differ."""
        arguments = events, timestamp_ns, metadata, dry_run
        expected = getattr(self.oracle, method)(*arguments)
        actual = getattr(self.ledger, method)(*arguments)
        if actual != expected:
            names = layout.STATUS_NAMES[STATUS_KINDS[method]]
            for index, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
                assert found == wanted, (
                    f"{method} at {timestamp_ns} event {index} of {events}: the ledger says"
                    f" {names.get(found[0])} at {found[1]}, the oracle"
                    f" {names[wanted[0]]} at {wanted[1]}"
                )
        status_kind, flag_kind = STATUS_KINDS[method], FLAG_KINDS.get(method)
        names = layout.STATUS_NAMES[status_kind]
        for event, (status, _) in zip(events, actual, strict=True):
            self.reached[status_kind, names[status]] += 1
            if flag_kind and status == layout.CREATED:
                self._count_flags(flag_kind, event.get("flags", 0))
        return list(actual)

    def _count_flags(self, kind: str, flags: int) -> None:
        for name, bit in _FLAGS[kind]:
            if flags & bit:
                self.reached[kind, name] += 1

    def expire(self, timestamp_ns: int) -> int:
        """Sweep both; return how many expired."""
        expected, actual = self.oracle.expire(timestamp_ns), self.ledger.expire(timestamp_ns)
        assert actual == expected, f"the ledger expired {actual}, the oracle {expected}"
        return actual

    def query(self, method: str, given: Record) -> int:
        """Ask both; return how many records they answered."""
        expected, actual = getattr(self.oracle, method)(given), getattr(self.ledger, method)(given)
        _same(method, given, actual, expected)
        if actual and method in FLAG_KINDS:
            self._count_flags(FLAG_KINDS[method], given.get("flags", 0))
        return len(actual)

    def compare(self) -> None:
        """Compare every account, transfer and change event, and what only the core can tell."""
        oracle = self.oracle
        self._look_up("accounts", list(oracle.accounts))
        self._look_up("transfers", list(oracle.transfers))
        missing = [identifier for identifier in oracle.burned if identifier not in oracle.transfers]
        assert not self.ledger.lookup_transfers([0, layout.U128_MAX, *missing])
        assert not self.ledger.lookup_accounts([0, layout.U128_MAX])
        self._all("query_accounts", len(oracle.accounts))
        if self.history:
            self._all("query_transfers", len(oracle.transfers))
            self._all("get_change_events", len(oracle.changes))
        self._compare_core()

    def _look_up(self, what: str, ids: list[int]) -> None:
        method = f"lookup_{what}"
        expected = getattr(self.oracle, method)(ids)
        _same(method, {}, getattr(self.ledger, method)(ids), expected)

    def _all(self, method: str, count: int) -> None:
        found, timestamp_min = 0, 0
        while found < count:
            given = {**EVERYTHING, "timestamp_min": timestamp_min}
            expected = getattr(self.oracle, method)(given)
            _same(method, given, getattr(self.ledger, method)(given), expected)
            found, timestamp_min = found + len(expected), expected[-1]["timestamp"] + 1

    def _compare_core(self) -> None:
        oracle, core = self.oracle, self.ledger.core
        assert core.business_date == oracle.latest["business_date"]
        assert core.last_account_timestamp == oracle.latest["account"]
        assert core.last_transfer_timestamp == oracle.latest["transfer"]
        assert core.hold_count == list(oracle.resolutions.values()).count("open")
        definitions = {}
        for row in core.definitions():
            key = row["kind"], row["ledger"] or row["code"]
            definitions[key] = row["exponent"], row["flags"], row["metadata"]
        assert {kind for kind, _ in definitions} <= {LEDGER, CODE, SIGNING_KEY}
        assert definitions == {
            key: (row["exponent"], row["flags"], oracle.metadata["administrative", row["id"]])
            for key, row in oracle.definitions.items()
        }
        sums: dict[tuple[int, int], Counter[str]] = {}
        for account in oracle.accounts.values():
            group = sums.setdefault((account["ledger"], account["code"]), Counter())
            group.update({"account_count": 1, **{name: account[name] for name in BALANCES}})
            settings = oracle.settings.get(
                account["id"], {"flags": 0, "overdraft": 0, "ceiling": 0}
            )
            details = core.account_details(account["id"])
            assert details["settings"] == settings["flags"], account["id"]
            for name in ("overdraft", "ceiling"):
                in_force = settings[name] if settings["flags"] & S[name] else 0
                assert details[name] == in_force, (account["id"], name)
        trial_balance = {(row["ledger"], row["code"]): row for row in core.trial_balance()}
        assert trial_balance == {
            (ledger, code): {"ledger": ledger, "code": code, **{n: group[n] for n in group}}
            for (ledger, code), group in sums.items()
        }
        for state in ("pending", "posted"):
            debits = sum(account[f"debits_{state}"] for account in oracle.accounts.values())
            assert debits == sum(a[f"credits_{state}"] for a in oracle.accounts.values())


def _same(method: str, given: Record, actual: list[Record], expected: list[Record]) -> None:
    if actual == expected:
        return
    assert len(actual) == len(expected), (
        f"{method}({given}): the ledger answers {len(actual)}, the oracle {len(expected)} records"
    )
    for found, wanted in zip(actual, expected, strict=True):
        differing = {
            name: (found.get(name), wanted.get(name))
            for name in {*found, *wanted}
            if found.get(name) != wanted.get(name)
        }
        assert not differing, f"{method}({given}): (ledger, oracle) {differing} of {wanted}"
