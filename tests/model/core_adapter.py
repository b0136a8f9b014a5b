"""The core alone under the oracle's interface, with a dict for a store.

Unlike ``ledger.State`` it can decide several requests in one block, as the engine does, and it
keeps its blocks, so that they can be replayed and decided again.
"""

from __future__ import annotations

import random
from functools import partialmethod

import numpy as np
from blake3 import blake3

from ledger import layout
from ledger._block import Block
from ledger._core import Core
from ledger._verifier import Verifier
from tests.model.answers import Metadata, Record, Result
from tests.model.records import dicts, results

KIND_ENTRY = {name: number for name, (number, _) in layout.ENTRY_KINDS.items()}
RESOLUTION = {name: number for name, (number, _) in layout.RESOLUTIONS.items()}
POST = layout.flag_mask("TRANSFER", "post_pending_transfer")
VOID = layout.flag_mask("TRANSFER", "void_pending_transfer")


class CoreLedger:
    """Requests and look-ups, no queries over history.

    With ``rng``, a block is closed at random after a request or by a look-up; without, after every
    request.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self.core = Core()
        self.core.finish_replay()
        self.blocks: list[Block] = []
        self._rng = rng
        self._stored: dict[tuple[int, int], np.ndarray] = {}  # (namespace, id): one RESOLVED row
        self._transfer_times: set[int] = set()
        self._block: Block | None = None

    def _open(self) -> None:
        if self._block is None:
            self._block = Block()
            self.core.open_block(self._block, self.core.block_number + 1)

    def _maybe_close(self) -> None:
        if self._rng is None or self._rng.random() < 0.3:
            self._close()

    def _close(self) -> None:
        block, self._block = self._block, None
        if block is None:
            return
        self.core.close_block()
        if not block.count:
            return
        self.core.hash_block(block, bytes([block.number % 251]) * 32)
        self.blocks.append(block)
        for entry in block.entries:
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
                digest = blake3(block.metadata[int(entry["metadata"]) - 1]).digest()
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
        self._maybe_close()
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
        self._maybe_close()
        return count

    def lookup_accounts(self, ids: list[int]) -> list[Record]:
        """Return the accounts of those ids that exist."""
        self._close()
        accounts, found = self.core.lookup_accounts(
            np.array([layout.from_int(identifier) for identifier in ids], layout.U128)
        )
        return dicts(accounts[found])

    def lookup_transfers(self, ids: list[int]) -> list[Record]:
        """Return the transfers of those ids that exist."""
        self._close()
        created = layout.OUTCOMES["created"][0]
        rows = [self._stored[0, n] for n in ids if (0, n) in self._stored]
        return [dicts(row["record"])[0] for row in rows if row["outcome"][0] == created]

    def query_accounts(self, given: Record) -> list[Record]:
        """Return the accounts that a filter matches."""
        self._close()
        return dicts(self.core.query_accounts(layout.record_array(layout.QUERY_FILTER, [given])[0]))

    def replayed(self) -> CoreLedger:
        """Return a ledger that was recovered from the stored blocks alone; roots must agree."""
        self._close()
        again = CoreLedger()
        again._stored = self._stored
        for block in self.blocks:
            entries = block.entries.copy()
            entries["metadata"], entries["reserved"] = 0, 0
            opened = entries["kind"] == KIND_ENTRY["account"]
            for name in ("debit_account_id", "credit_account_id"):
                entries["record"][name][~opened] = 0  # the journal has slots for them
            copy = Block.of(block, entries, block.metadata)
            again.core.replay(copy)
            again.core.hash_block(copy, block.seed)
            assert copy.root == block.root, f"block {block.number}"
        again.core.finish_replay()
        return again

    def differences(self) -> list[str]:
        """Return what of the first block that is decided differently comes out differently."""
        self._close()
        verifier = Verifier()
        for block in self.blocks:
            entries = block.entries.copy()
            entries["reserved"] = 0
            if found := verifier.redecide(Block.of(block, entries, block.metadata)):
                return list(found)
        return []
