"""The core alone under the oracle's interface, with a dict for a store."""

from __future__ import annotations

from functools import partialmethod

import numpy as np
from blake3 import blake3

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from tests.model.answers import Metadata, Record, Result
from tests.model.records import dicts, results

KIND_ENTRY = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
RESOLUTION = {name: number for name, (number, _) in layout.RESOLUTIONS.items()}
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")


class CoreLedger:
    """The core with a dict for a store: requests and look-ups, no queries over history."""

    def __init__(self) -> None:
        self.core = Core()
        self.core.finish_replay()
        self._stored: dict[tuple[int, int], np.ndarray] = {}  # (namespace, id): one RESOLVED row
        self._transfer_times: set[int] = set()
        self._block = Block()

    def _open(self) -> None:
        self.core.open_block(self._block, self.core.block_number + 1)

    def _close(self) -> None:
        self.core.close_block()
        for entry in self._block.entries:
            record, kind = entry["record"], int(entry["kind"])
            if kind in (KIND_ENTRY["transfer"], KIND_ENTRY["expiry"]):
                self._transfer_times.add(int(record["timestamp"]))
            pending = self._stored.get((0, layout.to_int(record["pending_id"])))
            if kind == KIND_ENTRY["expiry"]:
                assert pending is not None
                pending["resolution"] = RESOLUTION["expired"]
            if kind in (KIND_ENTRY["expiry"], KIND_ENTRY["account"]):
                continue
            namespace = int(kind not in (KIND_ENTRY["transfer"], KIND_ENTRY["burned_id"]))
            row = np.zeros(1, layout.RESOLVED)
            row["record"], row["namespace"], row["kind"] = record, namespace, kind
            outcome = "burned" if kind == KIND_ENTRY["burned_id"] else "created"
            row["outcome"] = layout.OUTCOMES[outcome][0]
            if entry["metadata"]:
                digest = blake3(self._block.metadata[int(entry["metadata"]) - 1]).digest()
                row["metadata_digest"] = np.frombuffer(digest, "u1")
            self._stored[namespace, layout.to_int(record["id"])] = row
            if namespace == 0 and record["flags"] & (POST | VOID):
                pending = self._stored[0, layout.to_int(record["pending_id"])]
                posted = bool(record["flags"] & POST)
                pending["resolution"] = RESOLUTION["posted" if posted else "voided"]

    def _request(
        self,
        method: str,
        kind: str,
        events: list[Record],
        timestamp_ns: int,
        metadata: Metadata | None = None,
        dry_run: bool = False,
    ) -> list[Result]:
        array = layout.record_array(layout.DTYPES[kind], events)
        answer = np.zeros(len(events), layout.RESULT)
        self._open()
        if kind == "ACCOUNT":
            asked = self.core.questioned_timestamps(array).tolist()
            used = [time for time in asked if time in self._transfer_times]
            self.core.load_used_timestamps(np.array(used, "<u8"))
        else:
            namespace = int(kind != "TRANSFER")
            named = {event.get(name, 0) for event in events for name in ("id", "pending_id")}
            rows = [
                self._stored[key] for key in ((namespace, n) for n in named) if key in self._stored
            ]
            self.core.load_resolved(np.concatenate([np.zeros(0, layout.RESOLVED), *rows]))
        getattr(self.core, method)(
            array, timestamp_ns, answer, metadata=metadata or {}, dry_run=dry_run
        )
        self._close()
        return results(answer)

    create_accounts = partialmethod(_request, "create_accounts", "ACCOUNT")
    create_transfers = partialmethod(_request, "create_transfers", "TRANSFER")
    change_settings = partialmethod(_request, "change_settings", "ACCOUNT_SETTINGS")
    define = partialmethod(_request, "define", "DEFINITION")
    move_business_date = partialmethod(_request, "move_business_date", "BUSINESS_DATE")

    def expire(self, timestamp_ns: int) -> int:
        """Sweep; return how many expired."""
        self._open()
        count = int(self.core.expire(timestamp_ns, layout.BLOCK_ENTRIES_MAX))
        self._close()
        return count

    def lookup_accounts(self, ids: list[int]) -> list[Record]:
        """Return the accounts of those ids that exist."""
        accounts, found = self.core.lookup_accounts(
            np.array([layout.from_int(identifier) for identifier in ids], layout.U128)
        )
        return dicts(accounts[found])

    def lookup_transfers(self, ids: list[int]) -> list[Record]:
        """Return the transfers of those ids that exist."""
        created = layout.OUTCOMES["created"][0]
        rows = [self._stored[0, n] for n in ids if (0, n) in self._stored]
        return [dicts(row["record"])[0] for row in rows if row["outcome"][0] == created]

    def query_accounts(self, given: Record) -> list[Record]:
        """Return the accounts that a filter matches."""
        return dicts(self.core.query_accounts(layout.record_array(layout.QUERY_FILTER, [given])[0]))
