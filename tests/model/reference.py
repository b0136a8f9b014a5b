"""The oracle: the ledger's rules as plain dicts and ints, written from docs/semantics.md.

It is written to be read, not to be fast, and takes from the ledger only names and numbers.
Every event and every answer is a dict of integers by field name. State is a handful of dicts
that change only through ``_put``, which notes the old value, so that a broken chain and a dry
run are taken back by writing the old values again.
"""

from __future__ import annotations

from functools import partialmethod

from ledger import layout
from tests.model.administration import Administration
from tests.model.answers import (
    ABSENT,
    BALANCES,
    USER_DATA,
    Metadata,
    Record,
    Result,
    first_broken,
    full,
)

U128_MAX, SECOND, NEVER = layout.U128_MAX, 10**9, 1 << 64
A = {flag.name: 1 << flag.bit for flag in layout.ACCOUNT_FLAGS}
T = {flag.name: 1 << flag.bit for flag in layout.TRANSFER_FLAGS}
LINKED = A["linked"]
LIMITS = A["debits_must_not_exceed_credits"], A["credits_must_not_exceed_debits"]
RESOLVES = T["post_pending_transfer"] | T["void_pending_transfer"]
BALANCING = T["balancing_debit"] | T["balancing_credit"]
CLOSING = T["closing_debit"] | T["closing_credit"]
TRANSIENT = {status.name for status in layout.TRANSFER_STATUSES if status.transient}


class Reference(Administration):
    """A ledger in memory; the methods are those of ``ledger.State``, with dicts for records."""

    def __init__(self) -> None:
        super().__init__()
        self.burned: dict[int, bool] = {}
        self.resolutions: dict[int, str] = {}  # of pending transfers: open posted voided expired
        self.open_holds: dict[int, Record] = {}  # pending transfers that are open and can expire
        self._taken: dict[int, str] = {}  # timestamps of objects -> account or transfer

    # -- Requests ------------------------------------------------------------------------------

    def _create(
        self,
        kind: str,
        events: list[Record],
        timestamp_ns: int,
        metadata: Metadata | None = None,
        dry_run: bool = False,
    ) -> list[Result]:
        """Decide accounts or transfers in order; return (status number, timestamp) of each."""
        metadata = metadata or {}
        imported = A["imported"] if kind == "ACCOUNT" else T["imported"]
        decide = self._account if kind == "ACCOUNT" else self._transfer
        stored = self.accounts if kind == "ACCOUNT" else self.transfers
        results: list[tuple[str, int]] = []
        chain: int | None = None  # index of the open chain's first event
        mark, broken = 0, False
        times = [timestamp_ns - len(events) + index + 1 for index in range(len(events))]
        for index, (given, time) in enumerate(zip(events, times, strict=True)):
            event = full(kind, given)
            linked, last = event["flags"] & LINKED, index == len(events) - 1
            if linked and chain is None:
                chain, mark, broken = index, len(self._undo), False
            if linked and last:
                status = "linked_event_chain_open"
            elif chain is not None and broken:
                status = "linked_event_failed"
            else:
                status = self._import_rules(event, time, imported, events[0].get("flags", 0))
                status = status or decide(event, time, metadata.get(index, b""))
            if chain is not None and status != "created" and not broken:
                self._take_back(mark)
                failed = [("linked_event_failed", earlier) for earlier in times[chain:index]]
                results[chain:], broken = failed, True
            if status in TRANSIENT and kind == "TRANSFER":
                self._put(self.burned, event["id"], True)
            keeps = status in ("created", "exists")
            results.append((status, stored[event["id"]]["timestamp"] if keeps else time))
            chain = chain if linked else None
        return self._finish(kind, results, dry_run)

    create_accounts = partialmethod(_create, "ACCOUNT")
    create_transfers = partialmethod(_create, "TRANSFER")

    @staticmethod
    def _import_rules(event: Record, time: int, imported: int, first_flags: int) -> str:
        if (first_flags ^ event["flags"]) & imported:
            return f"imported_event_{'not_' if event['flags'] & imported else ''}expected"
        if not event["flags"] & imported:
            return "timestamp_must_be_zero" if event["timestamp"] else ""
        if not 1 <= event["timestamp"] <= layout.TIMESTAMP_MAX:
            return "imported_event_timestamp_out_of_range"
        return "imported_event_timestamp_must_not_advance" if event["timestamp"] >= time else ""

    # -- Accounts ------------------------------------------------------------------------------

    def _account(self, event: Record, time: int, metadata: bytes) -> str:
        status = first_broken(
            (event["reserved"], "reserved_field"),
            (event["flags"] & ~sum(A.values()), "reserved_flag"),
            (event["id"] == 0, "id_must_not_be_zero"),
            (event["id"] == U128_MAX, "id_must_not_be_int_max"),
        )
        if status:
            return status
        if stored := self.accounts.get(event["id"]):
            for field in ("flags", *USER_DATA, "ledger", "code"):
                if event[field] != stored[field]:
                    return f"exists_with_different_{field}"
            return self._same_metadata("account", event["id"], metadata)
        imported, exclusive = event["flags"] & A["imported"], event["flags"] & sum(LIMITS)
        status = first_broken(
            (exclusive == sum(LIMITS), "flags_are_mutually_exclusive"),
            *((event[field], f"{field}_must_be_zero") for field in BALANCES),
            (event["ledger"] == 0, "ledger_must_not_be_zero"),
            (event["code"] == 0, "code_must_not_be_zero"),
        )
        if status:
            return status
        if imported and self._regresses("account", event["timestamp"]):
            return "imported_event_timestamp_must_not_regress"

        # From here on the account is opened.
        timestamp = event["timestamp"] or time
        self._put(self.accounts, event["id"], {**event, "timestamp": timestamp})
        self._put(self.metadata, ("account", event["id"]), metadata)
        self._take_time("account", timestamp)
        return "created"

    def _regresses(self, kind: str, timestamp: int) -> bool:
        return timestamp <= self.latest[kind] or timestamp in self._taken

    def _take_time(self, kind: str, timestamp: int) -> None:
        self._put(self._taken, timestamp, kind)
        self._put(self.latest, kind, timestamp)

    # -- Transfers -----------------------------------------------------------------------------

    def _transfer(self, event: Record, time: int, metadata: bytes) -> str:
        flags, pending = event["flags"], event["flags"] & T["pending"]
        status = first_broken(
            (flags & ~sum(T.values()), "reserved_flag"),
            (event["id"] == 0, "id_must_not_be_zero"),
            (event["id"] == U128_MAX, "id_must_not_be_int_max"),
        )
        if status:
            return status
        if event["id"] in self.transfers:
            return self._transfer_exists(event, metadata)
        if event["id"] in self.burned:
            return "id_already_failed"
        if flags & RESOLVES:
            return self._post_or_void(event, time, metadata)
        debit_id, credit_id = event["debit_account_id"], event["credit_account_id"]
        status = first_broken(
            (debit_id == 0, "debit_account_id_must_not_be_zero"),
            (debit_id == U128_MAX, "debit_account_id_must_not_be_int_max"),
            (credit_id == 0, "credit_account_id_must_not_be_zero"),
            (credit_id == U128_MAX, "credit_account_id_must_not_be_int_max"),
            (debit_id == credit_id, "accounts_must_be_different"),
            (event["pending_id"], "pending_id_must_be_zero"),
            (event["timeout"] and not pending, "timeout_reserved_for_pending_transfer"),
            (flags & CLOSING and not pending, "closing_transfer_must_be_pending"),
            (event["ledger"] == 0, "ledger_must_not_be_zero"),
            (event["code"] == 0, "code_must_not_be_zero"),
        )
        if status:
            return status
        debit, credit = self.accounts.get(debit_id), self.accounts.get(credit_id)
        if debit is None:
            return "debit_account_not_found"
        if credit is None:
            return "credit_account_not_found"
        status = first_broken(
            (debit["ledger"] != credit["ledger"], "accounts_must_have_the_same_ledger"),
            (
                event["ledger"] != debit["ledger"],
                "transfer_must_have_the_same_ledger_as_accounts",
            ),
        )
        timestamp = event["timestamp"] or time
        if flags & T["imported"] and not status:
            rule = "imported_event_timestamp_must_"
            status = first_broken(
                (self._regresses("transfer", timestamp), rule + "not_regress"),
                (timestamp <= debit["timestamp"], rule + "postdate_debit_account"),
                (timestamp <= credit["timestamp"], rule + "postdate_credit_account"),
                (event["timeout"], "imported_event_timeout_must_be_zero"),
            )
        amount = self._balanced_amount(event, debit, credit)
        status = status or self._closed_or_blocked(debit, credit)
        status = status or self._overflow(event, amount, timestamp, debit, credit)
        if status := status or self._limit(amount, debit, credit):
            return status

        # From here on the transfer must succeed.
        transfer = {**event, "amount": amount, "timestamp": timestamp}
        state = "pending" if pending else "posted"
        debit, credit = dict(debit), dict(credit)
        debit[f"debits_{state}"] += amount
        credit[f"credits_{state}"] += amount
        debit["flags"] |= A["closed"] if flags & T["closing_debit"] else 0
        credit["flags"] |= A["closed"] if flags & T["closing_credit"] else 0
        if pending:
            self._put(self.resolutions, event["id"], "open")
            if event["timeout"]:
                self._put(self.open_holds, event["id"], transfer)
        kind = "two_phase_pending" if pending else "single_phase"
        self._store_transfer(transfer, debit, credit, kind, metadata)
        return "created"

    def _transfer_exists(self, event: Record, metadata: bytes) -> str:
        stored, flags = self.transfers[event["id"]], event["flags"]
        if flags != stored["flags"]:
            return "exists_with_different_flags"
        if event["pending_id"] != stored["pending_id"]:
            return "exists_with_different_pending_id"
        if event["timeout"] != stored["timeout"]:
            return "exists_with_different_timeout"
        event = dict(event)
        if flags & RESOLVES:
            self._inherit(event, self.transfers[stored["pending_id"]])
        for field in ("debit_account_id", "credit_account_id"):
            if event[field] != stored[field]:
                return f"exists_with_different_{field}"
        enough = flags & BALANCING and event["amount"] >= stored["amount"]
        if event["amount"] != stored["amount"] and not enough:
            return "exists_with_different_amount"
        for field in (*USER_DATA, "ledger", "code"):
            if event[field] != stored[field]:
                return f"exists_with_different_{field}"
        return self._same_metadata("transfer", event["id"], metadata)

    @staticmethod
    def _inherit(event: Record, pending: Record) -> None:
        for field in ("debit_account_id", "credit_account_id", "ledger", "code", *USER_DATA):
            event[field] = event[field] or pending[field]
        everything = 0 if event["flags"] & T["void_pending_transfer"] else U128_MAX
        if event["amount"] == everything:
            event["amount"] = pending["amount"]

    @staticmethod
    def _balanced_amount(event: Record, debit: Record, credit: Record) -> int:
        amount: int = event["amount"]
        if event["flags"] & T["balancing_debit"]:
            used = debit["debits_posted"] + debit["debits_pending"]
            amount = min(amount, max(0, debit["credits_posted"] - used))
        if event["flags"] & T["balancing_credit"]:
            used = credit["credits_posted"] + credit["credits_pending"]
            amount = min(amount, max(0, credit["debits_posted"] - used))
        return amount

    def _closed_or_blocked(self, debit: Record, credit: Record) -> str:
        return first_broken(
            (debit["flags"] & A["closed"], "debit_account_already_closed"),
            (credit["flags"] & A["closed"], "credit_account_already_closed"),
            (self._setting(debit, "debits_blocked") is not None, "debits_blocked"),
            (self._setting(credit, "credits_blocked") is not None, "credits_blocked"),
        )

    @staticmethod
    def _overflow(event: Record, amount: int, timestamp: int, debit: Record, credit: Record) -> str:
        pending = event["flags"] & T["pending"]
        debits = debit["debits_pending"] + debit["debits_posted"] + amount
        credits = credit["credits_pending"] + credit["credits_posted"] + amount
        too_late = timestamp + event["timeout"] * SECOND > layout.TIMESTAMP_MAX
        return first_broken(
            (pending and debit["debits_pending"] + amount > U128_MAX, "overflows_debits_pending"),
            (
                pending and credit["credits_pending"] + amount > U128_MAX,
                "overflows_credits_pending",
            ),
            (debit["debits_posted"] + amount > U128_MAX, "overflows_debits_posted"),
            (credit["credits_posted"] + amount > U128_MAX, "overflows_credits_posted"),
            (debits > U128_MAX, "overflows_debits"),
            (credits > U128_MAX, "overflows_credits"),
            (too_late, "overflows_timeout"),
        )

    def _limit(self, amount: int, debit: Record, credit: Record) -> str:
        debits = debit["debits_pending"] + debit["debits_posted"] + amount
        credits = credit["credits_pending"] + credit["credits_posted"] + amount
        overdraft, ceiling = self._setting(debit, "overdraft"), self._setting(credit, "ceiling")
        excess = debits - debit["credits_posted"], credits - credit["debits_posted"]
        limited = debit["flags"] & LIMITS[0], credit["flags"] & LIMITS[1]
        return first_broken(
            (limited[0] and overdraft is None and excess[0] > 0, "exceeds_credits"),
            (limited[1] and ceiling is None and excess[1] > 0, "exceeds_debits"),
            (overdraft is not None and excess[0] > overdraft, "exceeds_overdraft"),
            (ceiling is not None and excess[1] > ceiling, "exceeds_ceiling"),
        )

    def _post_or_void(self, event: Record, time: int, metadata: bytes) -> str:
        flags, void = event["flags"], event["flags"] & T["void_pending_transfer"]
        others = flags & (T["pending"] | BALANCING | CLOSING)
        status = first_broken(
            (others or flags & RESOLVES == RESOLVES, "flags_are_mutually_exclusive"),
            (event["pending_id"] == 0, "pending_id_must_not_be_zero"),
            (event["pending_id"] == U128_MAX, "pending_id_must_not_be_int_max"),
            (event["pending_id"] == event["id"], "pending_id_must_be_different"),
            (event["timeout"], "timeout_reserved_for_pending_transfer"),
        )
        if status:
            return status
        pending = self.transfers.get(event["pending_id"])
        if pending is None:
            return "pending_transfer_not_found"
        if not pending["flags"] & T["pending"]:
            return "pending_transfer_not_pending"
        transfer = {**event, "timestamp": event["timestamp"] or time}
        self._inherit(transfer, pending)
        for field in ("debit_account_id", "credit_account_id", "ledger", "code"):
            if transfer[field] != pending[field]:
                return f"pending_transfer_has_different_{field}"
        if transfer["amount"] > pending["amount"]:
            return "exceeds_pending_transfer_amount"
        if void and transfer["amount"] < pending["amount"]:
            return "pending_transfer_has_different_amount"
        resolution = self.resolutions[pending["id"]]
        if resolution in ("posted", "voided"):
            return f"pending_transfer_already_{resolution}"
        if resolution == "expired" or time >= self.expires_at(pending):
            return "pending_transfer_expired"
        if flags & T["imported"] and self._regresses("transfer", transfer["timestamp"]):
            return "imported_event_timestamp_must_not_regress"
        debit, credit = self._released(pending, reopen=bool(void))
        if not void and (status := self._closed_or_blocked(debit, credit)):
            return status

        # From here on the transfer must succeed.
        if not void:
            debit["debits_posted"] += transfer["amount"]
            credit["credits_posted"] += transfer["amount"]
        self._resolve(pending, "voided" if void else "posted")
        kind = "two_phase_voided" if void else "two_phase_posted"
        self._store_transfer(transfer, debit, credit, kind, metadata)
        return "created"

    @staticmethod
    def expires_at(pending: Record) -> int:
        return pending["timestamp"] + pending["timeout"] * SECOND if pending["timeout"] else NEVER

    def _released(self, pending: Record, *, reopen: bool) -> tuple[Record, Record]:
        """Copies of both accounts without the pending amount, opened again if it closed them."""
        debit = dict(self.accounts[pending["debit_account_id"]])
        credit = dict(self.accounts[pending["credit_account_id"]])
        debit["debits_pending"] -= pending["amount"]
        credit["credits_pending"] -= pending["amount"]
        if reopen and pending["flags"] & T["closing_debit"]:
            debit["flags"] &= ~A["closed"]
        if reopen and pending["flags"] & T["closing_credit"]:
            credit["flags"] &= ~A["closed"]
        return debit, credit

    def _resolve(self, pending: Record, resolution: str) -> None:
        self._put(self.resolutions, pending["id"], resolution)
        self._put(self.open_holds, pending["id"], ABSENT)

    def _store_transfer(
        self, transfer: Record, debit: Record, credit: Record, kind: str, metadata: bytes
    ) -> None:
        self._put(self.transfers, transfer["id"], transfer)
        self._put(self.metadata, ("transfer", transfer["id"]), metadata)
        self._change(transfer, debit, credit, kind, transfer["timestamp"])

    def _change(
        self, transfer: Record, debit: Record, credit: Record, kind: str, timestamp: int
    ) -> None:
        """Write both accounts back, take the timestamp and note the change event."""
        self._put(self.accounts, debit["id"], debit)
        self._put(self.accounts, credit["id"], credit)
        self._take_time("transfer", timestamp)
        event = {"ledger": transfer["ledger"], "timestamp": timestamp}
        event["type"] = layout.CHANGE_EVENT_TYPES[kind][0]
        for field in (
            "id",
            "amount",
            "pending_id",
            *USER_DATA,
            "timeout",
            "code",
            "flags",
            "timestamp",
        ):
            event[f"transfer_{field}"] = transfer[field]
        for side, account in (("debit", debit), ("credit", credit)):
            for field in ("id", *BALANCES, *USER_DATA, "code", "flags", "timestamp"):
                event[f"{side}_account_{field}"] = account[field]
        self._put(self.changes, timestamp, event)

    def expire(self, timestamp_ns: int) -> int:
        """Release every open pending transfer that is due at ``timestamp_ns``; return how many."""
        due = [hold for hold in self.open_holds.values() if self.expires_at(hold) <= timestamp_ns]
        due.sort(key=lambda hold: (self.expires_at(hold), hold["timestamp"]))
        for index, hold in enumerate(due):
            debit, credit = self._released(hold, reopen=True)
            self._resolve(hold, "expired")
            timestamp = timestamp_ns - len(due) + index + 1
            self._change(hold, debit, credit, "two_phase_expired", timestamp)
        self._undo.clear()
        return len(due)
