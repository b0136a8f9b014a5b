"""The oracle's administrative events: account settings, definitions, the business date."""

from __future__ import annotations

import base64
import calendar
import hashlib
import json
from functools import partialmethod

from ledger import layout
from tests.model.answers import Answers, Metadata, Record, Result, first_broken, full

U128_MAX = layout.U128_MAX
S = {flag.name: 1 << flag.bit for flag in layout.ACCOUNT_SETTINGS_FLAGS}
LEDGER, CODE, SIGNING_KEY = (
    layout.DEFINITION_KINDS[name][0] for name in ("ledger", "code", "signing_key")
)


def is_signing_key(metadata: bytes) -> bool:
    """Whether metadata is ``{"vkey": "name+id+key"}`` of an Ed25519 key."""
    try:
        ((field, vkey),) = json.loads(metadata).items()
        name, key_id, text = vkey.split("+", 2)
        key = base64.b64decode(text, validate=True)
    except (ValueError, AttributeError):
        return False
    named = 1 <= len(name) <= 200 and all("!" <= letter <= "~" for letter in name)
    digest = hashlib.sha256(name.encode() + b"\n" + key).hexdigest()
    return bool(
        field == "vkey" and named and len(key) == 33 and key[0] == 1 and key_id == digest[:8]
    )


class Administration(Answers):
    """Events that share one namespace of permanent ids and are never linked."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: dict[int, Record] = {}  # by account: the last settings event
        self.administrative: dict[int, tuple[str, Record]] = {}  # by id: kind, event
        self.definitions: dict[tuple[int, int], Record] = {}  # by kind and ledger or code
        self.latest = {"account": 0, "transfer": 0, "business_date": 0}

    def _setting(self, account: Record, name: str) -> int | None:
        """The overdraft or ceiling in force, 0 for a block in force; None for what is not."""
        settings = self.settings.get(account["id"])
        if settings is None or not settings["flags"] & S[name]:
            return None
        return int(settings.get(name, 0))

    def _administer(
        self,
        kind: str,
        events: list[Record],
        timestamp_ns: int,
        metadata: Metadata | None = None,
        dry_run: bool = False,
    ) -> list[Result]:
        """Decide administrative events in order; return (status number, timestamp) of each."""
        apply = {
            "ACCOUNT_SETTINGS": self._change_settings,
            "DEFINITION": self._define,
            "BUSINESS_DATE": self._move_business_date,
        }[kind]
        results = []
        for index, given in enumerate(events):
            event, time = full(kind, given), timestamp_ns - len(events) + index + 1
            attached = (metadata or {}).get(index, b"")
            status = self._administrative_rules(kind, event, attached)
            status = status or apply({**event, "timestamp": time}, attached)
            if status == "created":
                self._put(self.administrative, event["id"], (kind, {**event, "timestamp": time}))
                self._put(self.metadata, ("administrative", event["id"]), attached)
            elif status == "exists":
                time = self.administrative[event["id"]][1]["timestamp"]
            results.append((status, time))
        return self._finish("ADMINISTRATIVE", results, dry_run)

    change_settings = partialmethod(_administer, "ACCOUNT_SETTINGS")
    define = partialmethod(_administer, "DEFINITION")
    move_business_date = partialmethod(_administer, "BUSINESS_DATE")

    def _administrative_rules(self, kind: str, event: Record, metadata: bytes) -> str:
        unused = () if kind == "DEFINITION" else ("ledger", "code")
        code_definition = kind == "DEFINITION" and event["kind"] not in (LEDGER, SIGNING_KEY)
        flags = sum(S.values()) if kind == "ACCOUNT_SETTINGS" else int(code_definition)
        reserved = [name for name in event if name.startswith("reserved") or name in unused]
        status = first_broken(
            (event["timestamp"], "timestamp_must_be_zero"),
            (any(event[name] for name in reserved), "reserved_field"),
            (event["flags"] & ~flags, "reserved_flag"),
            (event["id"] == 0, "id_must_not_be_zero"),
            (event["id"] == U128_MAX, "id_must_not_be_int_max"),
        )
        if status:
            return status
        if event["id"] in self.administrative:
            stored_kind, stored = self.administrative[event["id"]]
            if (kind, {**event, "timestamp": stored["timestamp"]}) != (stored_kind, stored):
                return "exists_with_different_content"
            return self._same_metadata("administrative", event["id"], metadata)
        return ""

    def _change_settings(self, event: Record, _: bytes) -> str:
        status = first_broken(
            (event["account_id"] == 0, "account_id_must_not_be_zero"),
            (event["account_id"] == U128_MAX, "account_id_must_not_be_int_max"),
            (event["overdraft"] and not event["flags"] & S["overdraft"], "overdraft_must_be_zero"),
            (event["ceiling"] and not event["flags"] & S["ceiling"], "ceiling_must_be_zero"),
            (event["account_id"] not in self.accounts, "account_not_found"),
        )
        if status:
            return status
        self._put(self.settings, event["account_id"], event)
        return "created"

    def _define(self, event: Record, metadata: bytes) -> str:
        kind, ledger, code = event["kind"], event["ledger"], event["code"]
        key, declared = (kind, ledger or code), len(self.definitions)
        full_up = declared == layout.DEFINITIONS_MAX and key not in self.definitions
        status = first_broken(
            (kind not in (LEDGER, CODE, SIGNING_KEY), "definition_kind_unknown"),
            (kind == LEDGER and ledger == 0, "ledger_must_not_be_zero"),
            (kind != LEDGER and ledger != 0, "ledger_must_be_zero"),
            (kind == CODE and code == 0, "code_must_not_be_zero"),
            (kind != CODE and code != 0, "code_must_be_zero"),
            (event["exponent"] > (18 if kind == LEDGER else 0), "exponent_out_of_range"),
            (kind == SIGNING_KEY and not is_signing_key(metadata), "signing_key_malformed"),
            (full_up, "definitions_full"),
        )
        if status:
            return status
        self._put(self.definitions, key, event)
        return "created"

    def _move_business_date(self, event: Record, _: bytes) -> str:
        year, month, day = event["date"] // 10_000, event["date"] // 100 % 100, event["date"] % 100
        month_exists = 1 <= year <= 9999 and 1 <= month <= 12
        if not month_exists or not 1 <= day <= calendar.monthrange(year, month)[1]:
            return "date_out_of_range"
        if event["date"] <= self.latest["business_date"]:
            return "date_must_advance"
        self._put(self.latest, "business_date", event["date"])
        return "created"
