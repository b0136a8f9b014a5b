"""Builds bundle.json: items, and under them the states, blocks and intervals they lead through.

Items name what they use; ``finish`` puts each state, block and interval into the bundle once, in
the order of its first use, as docs/proofs.md asks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ledger import layout
from ledger.errors import DataDamaged, RequestRefused
from ledger.proof import canonical
from ledger.proof.canonical import b64
from ledger.proof.entries import INDEX_MASK, Entry, Reader, ext_item, packed, side_item
from ledger.proof.interval import Record, parse_record
from ledger.proof.notes import parse_checkpoint, parse_note
from ledger.proof.paths import Paths
from ledger.proof.states import AccountState, States, TileState

FORMAT: Final = "sanyuan bundle v1"
STATE_FILE: Final = "state.bin"
BUNDLE_BYTES_MAX: Final = 256 << 20
"""A verifier reads no more."""


class Log(Protocol):
    """The outer log: ``proof.outer.OuterLog``."""

    def record(self, index: int) -> str: ...
    def path(self, index: int, size: int) -> list[bytes]: ...
    def consistency(self, old: int, new: int) -> list[bytes]: ...
    def interval_of_block(self, block: int) -> int | None: ...
    def interval_of_state(self, block: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class _BlockUse:
    number: int


@dataclass(frozen=True, slots=True)
class _StateUse:
    block: int
    group: int | None
    """None: all groups."""


class Bundle:
    """A bundle under one signed checkpoint, of blocks that a reader shows. Use it once.

    ``note`` is the signed checkpoint; everything that is added must be under it.
    """

    def __init__(
        self, *, log: Log, note: str, reader: Reader, paths: Paths, states: States
    ) -> None:
        self._log, self._reader, self._paths, self._states = log, reader, paths, states
        self.note = note
        checkpoint = parse_checkpoint(parse_note(note).text)
        self.origin = checkpoint.origin
        self.size = checkpoint.size
        self._records: dict[int, tuple[str, Record]] = {}
        self._items: list[dict[str, Any]] = []
        self._uses: list[list[_BlockUse | _StateUse | int]] = []
        """What each item uses, in order: blocks, states, intervals by index."""
        self._accounts: dict[tuple[int, int, bytes], int] = {}
        self.intervals: list[int] = []
        """After ``finish``: the indexes of the intervals that are in the bundle."""

    # What is under the checkpoint -------------------------------------------------------------

    def record(self, index: int) -> Record:
        """Return the record of an interval under the checkpoint."""
        return self._record(index)[1]

    def _record(self, index: int) -> tuple[str, Record]:
        found = self._records.get(index)
        if found is None:
            text = self._log.record(index)
            found = self._records[index] = (text, parse_record(text))
        return found

    @property
    def last_record(self) -> Record:
        """The record of the last interval under the checkpoint."""
        return self.record(self.size - 1)

    def covers_block(self, number: int) -> bool:
        """Return whether a block is in an interval under the checkpoint."""
        return self.size > 0 and number <= self.last_record.last_block

    def state_interval(self, block: int) -> int | None:
        """Return the interval under the checkpoint that names a block's state root: the last one if
        it does, so that the state can be claimed to be the newest. None when none does."""
        if self.size == 0:
            return None
        newest = self.last_record.state
        if newest is None or block > newest.block:
            return None
        if newest.block == block:
            return self.size - 1
        index = self._log.interval_of_state(block)
        return index if index is not None and index < self.size else None

    def is_newest(self, block: int) -> bool:
        """Return whether no later state root is under the checkpoint."""
        newest = self.last_record.state if self.size else None
        return newest is not None and newest.block == block

    # Items ------------------------------------------------------------------------------------

    def _add(self, item: dict[str, Any], *uses: _BlockUse | _StateUse | int) -> int:
        self._items.append(item)
        self._uses.append(list(uses))
        return len(self._items) - 1

    def add_entry(self, entry: Entry, hide: frozenset[str] = frozenset()) -> int:
        """Add an ``entry``; ``hide``: debit, credit, metadata, which are then hashes. Return its
        place."""
        debit = side_item(entry.debit, opened="debit" not in hide)
        credit = side_item(entry.credit, opened="credit" not in hide)
        # The released amount is hashed into the sides: without an open one nothing confirms it.
        released = entry.released if any(isinstance(s, dict) for s in (debit, credit)) else 0
        leaf, path = self._paths.in_block(self._reader, entry.position)
        if leaf != entry.leaf:
            raise DataDamaged(f"the parts of the entry at position {entry.position} are not those")
        return self._add(
            {
                "type": "entry",
                "index": entry.index,
                "kind": entry.kind,
                "record": b64(entry.record),
                "released": str(released),
                "debit": debit,
                "credit": credit,
                "ext": ext_item(entry.ext, opened="metadata" not in hide),
                "path": b64(path),
            },
            _BlockUse(entry.block),
        )

    def add_erased(self, position: int) -> int:
        """Add the leaf of an entry of which nothing else is left; return its place."""
        leaf, path = self._paths.in_block(self._reader, position)
        return self._add(
            {
                "type": "erased",
                "index": position & INDEX_MASK,
                "leaf": b64(leaf),
                "path": b64(path),
            },
            _BlockUse(position >> layout.INDEX_BITS),
        )

    def add_account(self, state: AccountState) -> int:
        """Add an ``account``, or find the same one; return its place."""
        key = (state.block, state.group, state.leaf)
        if key in self._accounts:
            return self._accounts[key]
        place = self._add(
            {
                "type": "account",
                "group": state.group,
                "leaf": b64(state.leaf),
                "tile_path": b64(state.tile_path),
                "sums": b64(state.sums),
                "sum_path": b64(state.sum_path),
                "newest": self.is_newest(state.block),
            },
            _StateUse(state.block, state.group),
        )
        self._accounts[key] = place
        return place

    def add_statement(
        self,
        account_id: int,
        *,
        opening: int | None,
        closing: int,
        entries: Sequence[Entry],
        counterparty: bool = False,
        metadata: bool = False,
    ) -> int:
        """Add a ``statement`` between two account items, given by place; return its place.

        ``entries`` are all of the account in between; ``counterparty`` and ``metadata`` open what
        is a hash otherwise.
        """
        return self._add(
            {
                "type": "statement",
                "account": str(account_id),
                "opening": opening,
                "closing": closing,
                "entries": [
                    b64(packed(entry, account_id, counterparty=counterparty, metadata=metadata))
                    for entry in entries
                ],
            }
        )

    def add_trial_balance(self, block: int) -> int:
        """Add a ``trial_balance`` of a kept root; return its place."""
        return self._add({"type": "trial_balance"}, _StateUse(block, None))

    def add_tile(self, tile: TileState) -> int:
        """Add a ``tile`` that is opened; return its place."""
        return self._add(
            {
                "type": "tile",
                "group": tile.group,
                "tile": tile.tile,
                "leaves": [b64(leaf) for leaf in tile.leaves],
                "sums": b64(tile.sums),
                "sum_path": b64(tile.sum_path),
            },
            _StateUse(tile.block, tile.group),
        )

    def add_full_state(self, block: int) -> int:
        """Add a ``full_state`` of a kept root, whose accounts are in a file; return its place."""
        return self._add({"type": "full_state", "file": STATE_FILE}, _StateUse(block, None))

    def add_consistency(self, old_note: str) -> int:
        """Add a ``consistency`` from an older signed checkpoint; return its place.

        Raises RequestRefused when that is not of this log, or not older.
        """
        old = parse_checkpoint(parse_note(old_note).text)
        if old.origin != self.origin:
            raise RequestRefused("invalid_checkpoint", f"a checkpoint of the log {old.origin!r}")
        return self._add(
            {"type": "consistency", "old": old_note, "path": b64(self.consistency_path(old.size))}
        )

    def consistency_path(self, old_size: int) -> bytes:
        """Return the path from an older size of the log to the checkpoint's.

        Raises RequestRefused for a size that the log had not reached.
        """
        if old_size > self.size:
            raise RequestRefused(
                "checkpoint_ahead", f"the checkpoint has size {self.size}, not yet {old_size}"
            )
        return b"".join(self._log.consistency(old_size, self.size))

    def add_sample(
        self, items: Sequence[int], *, seed: str | None = None, witness: str | None = None
    ) -> int:
        """Add a ``sample`` of entry items, given by place in order of drawing; return its place."""
        return self._add(
            {
                "type": "sample",
                "count": len(items),
                "seed": seed,
                "witness": witness,
                "items": list(items),
            },
            self.size - 1,
        )

    # The whole --------------------------------------------------------------------------------

    def finish(self) -> bytes:
        """Return bundle.json.

        Raises RequestRefused("proof_too_large") beyond what verifiers read.
        """
        whole = {
            use.block
            for uses in self._uses
            for use in uses
            if isinstance(use, _StateUse) and use.group is None
        }
        intervals: dict[int, int] = {}
        blocks: dict[int, tuple[int, int]] = {}
        states: dict[tuple[int, int | None], tuple[int, int]] = {}
        for item, uses in zip(self._items, self._uses, strict=True):
            for use in uses:
                if isinstance(use, int):
                    intervals.setdefault(use, len(intervals))
                elif isinstance(use, _BlockUse):
                    if use.number not in blocks:
                        index = self._interval_of_block(use.number)
                        interval = intervals.setdefault(index, len(intervals))
                        blocks[use.number] = (len(blocks), interval)
                    item["block"] = blocks[use.number][0]
                else:
                    key = (use.block, None if use.block in whole else use.group)
                    if key not in states:
                        index = self._interval_of_state(use.block)
                        interval = intervals.setdefault(index, len(intervals))
                        states[key] = (len(states), interval)
                    item["state"] = states[key][0]
        self.intervals = list(intervals)
        body = canonical.with_digest(
            {
                "format": FORMAT,
                "origin": self.origin,
                "instance": self.last_record.instance.hex(),
                "checkpoint": self.note,
                "intervals": [self._interval(index) for index in intervals],
                "blocks": [self._block(number, place) for number, (_, place) in blocks.items()],
                "states": [
                    self._state(block, group, place)
                    for (block, group), (_, place) in states.items()
                ],
                "items": self._items,
            }
        )
        if len(body) > BUNDLE_BYTES_MAX:
            raise RequestRefused(
                "proof_too_large", f"the proof has {len(body)} bytes; at most {BUNDLE_BYTES_MAX}"
            )
        return body

    def _interval_of_block(self, number: int) -> int:
        index = self._log.interval_of_block(number)
        if index is None or index >= self.size:
            raise ValueError(f"block {number} is not under the checkpoint")
        return index

    def _interval_of_state(self, block: int) -> int:
        index = self.state_interval(block)
        if index is None:
            raise ValueError(f"the state root of block {block} is not under the checkpoint")
        return index

    def _interval(self, index: int) -> dict[str, Any]:
        path = b"".join(self._log.path(index, self.size))
        return {"index": index, "record": self._record(index)[0], "path": b64(path)}

    def _block(self, number: int, interval: int) -> dict[str, Any]:
        record = self.record(self._interval_of_block(number))
        path = self._paths.in_interval(
            self._reader,
            number,
            first=record.first_block,
            last=record.last_block,
            root=record.root,
        )
        header = self._reader.block(number).header_bytes
        return {"interval": interval, "header": b64(header), "path": b64(path)}

    def _state(self, block: int, group: int | None, interval: int) -> dict[str, Any]:
        named = self.record(self._interval_of_state(block)).state
        if named is None or named.block != block:
            raise DataDamaged(f"the log has no state root of block {block} where it should be")
        groups = self._states.groups(block)
        state: dict[str, Any] = {"interval": interval, "block": block}
        if group is None:
            state["groups"] = [b64(one.fields) for one in groups]
        else:
            state["group_count"] = len(groups)
            state["index"] = group
            state["group"] = b64(groups[group].fields)
            state["path"] = b64(self._states.group_path(block, group))
        return state
