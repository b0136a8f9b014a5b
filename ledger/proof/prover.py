"""Makes the bundles that auditors ask for, from what storage has and the log has published.

Every bundle is made under the newest published checkpoint, on a reader of its own, and holds what
it needs and nothing of anybody else. What no checkpoint covers yet is not provable now
(Unavailable); what no kept state root can answer is refused, with the reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from ledger import layout
from ledger.errors import DataDamaged, RequestRefused, Unavailable
from ledger.proof.bundle import Bundle, Log
from ledger.proof.entries import Entry, EntryErased, Reader, read_entry
from ledger.proof.notes import BadNote, parse_checkpoint, parse_note
from ledger.proof.paths import Paths
from ledger.proof.states import AccountState, KeptRoot, States

STATEMENT_ENTRIES_MAX: Final = 1_000_000
"""Of all statements in a bundle. More would make one that verifiers refuse to read."""
SAMPLE_MAX: Final = 100_000
WALK_ENTRIES: Final = 8000
"""Entries that one call of the walk reads."""
_ADMINISTRATION: Final = layout.ENTRY_KINDS["administration"][0]
_BUSINESS_DATE: Final = layout.ADMINISTRATIONS["business_date"][0]
_SAMPLE: Final = b"sanyuan sample v1\n"
_TWO_64: Final = 1 << 64


class PublishedLog(Log, Protocol):
    """The outer log with the newest checkpoint that was published: ``proof.outer.OuterLog``."""

    def checkpoint(self) -> str | None: ...
    def tlog_proof(self, index: int, note: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Account:
    """What the core knows of an account: where it is found."""

    id: int
    slot: int
    ledger: int
    code: int
    ordinal: int
    last_position: int
    """Position of its newest entry, which must be durable."""
    entry_count: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """A business date (YYYYMMDD), or a block."""

    date: int = 0
    block: int = -1

    def is_before(self, root: KeptRoot) -> bool:
        """Return whether a state root is later than this."""
        return root.business_date > self.date if self.date else root.block > self.block

    def __str__(self) -> str:
        text = f"{self.date:08d}"
        return f"{text[:4]}-{text[4:6]}-{text[6:]}" if self.date else f"block {self.block}"


@dataclass(frozen=True, slots=True)
class Sources:
    """What proofs are made from."""

    log: PublishedLog
    states: States
    paths: Paths
    reader: Callable[[], AbstractContextManager[tuple[Reader, int]]]
    """Gives a view of the durable blocks, and the last of them."""
    entries: Callable[[Reader, int, int, int, int], tuple[np.ndarray, np.ndarray]]
    """(reader, slot, position of its entry ``last`` or a later one, first, last) -> positions and
    ENTRY rows of the entries with these numbers, ids filled in; maybe not all of them at once."""


@dataclass(slots=True)
class Statement:
    """A statement as it was proven: the states around it and all entries in between."""

    account_id: int
    opening: AccountState | None
    closing: AccountState
    entries: list[Entry]
    rows: list[np.ndarray]
    """The ENTRY rows of the entries, in the same order."""


@dataclass(slots=True)
class Proven:
    """A finished bundle and what is known of it."""

    bundle: bytes
    note: str
    origin: str
    intervals: list[int]
    statements: list[Statement] = field(default_factory=list)
    trial_balance_block: int | None = None
    full_state_block: int | None = None


@contextmanager
def proving(sources: Sources) -> Iterator[Prover]:
    """Give a Prover under the newest published checkpoint; raise Unavailable("not_provable_yet")
    before there is one."""
    # The checkpoint first: it covers durable blocks only, so the reader has all of them.
    note = sources.log.checkpoint()
    if note is None:
        raise Unavailable("not_provable_yet", "no checkpoint was published yet")
    with sources.reader() as (reader, _):
        yield Prover(sources, reader, note)


class Prover:
    """Proofs under one published checkpoint; for one request. ``proving`` makes it."""

    def __init__(self, sources: Sources, reader: Reader, note: str) -> None:
        """``note`` must have been published when ``reader`` was not made yet."""
        self._sources = sources
        self._reader = reader
        self._bundle = Bundle(
            log=sources.log,
            note=note,
            reader=reader,
            paths=sources.paths,
            states=sources.states,
        )
        self._statements: list[Statement] = []
        self._trial_balance_block: int | None = None
        self._full_state_block: int | None = None

    def finish(self) -> Proven:
        """Return the bundle of everything that was added."""
        body = self._bundle.finish()
        return Proven(
            body,
            self._bundle.note,
            self._bundle.origin,
            self._bundle.intervals,
            self._statements,
            self._trial_balance_block,
            self._full_state_block,
        )

    # Entries ----------------------------------------------------------------------------------

    def add_entry(self, position: int, hide: frozenset[str] = frozenset()) -> int:
        """Add the entry of a position; ``hide``: debit, credit, metadata. Return its place.

        Raises Unavailable("not_provable_yet") while no checkpoint covers it, and
        EntryErased.
        """
        number = position >> layout.INDEX_BITS
        if not self._bundle.covers_block(number):
            raise Unavailable(
                "not_provable_yet", f"block {number} is not under a published checkpoint yet"
            )
        row = self._sources.paths.row(self._reader, position)
        return self._bundle.add_entry(read_entry(self._reader, position, row), hide)

    def add_sample(
        self,
        count: int,
        *,
        seed: str | None = None,
        witness: str | None = None,
        hide: frozenset[str] = frozenset(),
    ) -> int:
        """Add ``count`` entries drawn from all under the checkpoint, and how they were drawn.

        The seed is a text, or the cosignature of a witness of that name under the checkpoint.
        Raises RequestRefused when there are fewer entries, or no such witness has signed.
        """
        if seed is not None:
            key = hashlib.sha256(seed.encode()).digest()
        else:
            key = hashlib.sha256(self._cosignature(witness or "")).digest()
        last = self._bundle.last_record
        total = last.first_entry + last.entry_count
        if not 1 <= count <= min(total, SAMPLE_MAX):
            raise RequestRefused(
                "invalid_sample", f"{count} of {total} entries; at most {SAMPLE_MAX} are drawn"
            )
        places = []
        for number in drawn(key, count, total):
            position = self._position_of_entry(number, last.last_block)
            try:
                places.append(self.add_entry(position, hide))
            except EntryErased:
                places.append(self._bundle.add_erased(position))
        return self._bundle.add_sample(places, seed=seed, witness=witness)

    def _cosignature(self, witness: str) -> bytes:
        note = parse_note(self._bundle.note)
        for signature in note.signatures:
            if signature.name == witness and len(signature.data) == 72:
                return signature.data
        names = ", ".join(s.name for s in note.signatures if len(s.data) == 72) or "nobody"
        raise RequestRefused(
            "invalid_sample", f"{witness!r} did not cosign the checkpoint; {names} did"
        )

    def _position_of_entry(self, number: int, last_block: int) -> int:
        """The position of the entry with a number in the whole ledger."""
        low, high = 0, last_block
        while low < high:
            middle = (low + high + 1) // 2
            if self._reader.block(middle).first_entry <= number:
                low = middle
            else:
                high = middle - 1
        return layout.position(low, number - self._reader.block(low).first_entry)

    # State roots ------------------------------------------------------------------------------

    def _first_provable(self, roots: Iterable[KeptRoot]) -> KeptRoot | None:
        """The first of some kept roots that the checkpoint covers."""
        states = (root for root in roots if self._bundle.state_interval(root.block) is not None)
        return next(states, None)

    def root_at(self, moment: Moment | None) -> KeptRoot:
        """Return the newest provable root, or the newest at or before a date or block.

        Raises Unavailable while there is none, RequestRefused("no_state_root") when all are later.
        """
        kept = self._sources.states.kept()
        early = [root for root in kept if moment is None or not moment.is_before(root)]
        found = self._first_provable(reversed(early))
        if found is not None:
            return found
        if early or not kept:
            raise Unavailable("not_provable_yet", "no state root is under a checkpoint yet")
        raise RequestRefused("no_state_root", f"no state root was kept at or before {moment}")

    def _root_before(self, moment: Moment) -> KeptRoot | None:
        """The newest provable root that none of the entries from a moment on is before."""
        kept = self._sources.states.kept()
        if not moment.date:
            early = [root for root in kept if root.block <= moment.block]
        else:
            early = [
                root
                for root in kept
                if root.business_date < moment.date
                or (root.business_date == moment.date and self._begins_day(root))
            ]
        return self._first_provable(reversed(early))

    def _begins_day(self, root: KeptRoot) -> bool:
        """Whether a root's business date began with the very last entry of its block."""
        view = self._reader.block(root.block)
        before = self._reader.block(root.block - 1).business_date if root.block else 0
        if before >= root.business_date:
            return False
        last = view.entries(view.entry_count - 1, view.entry_count)[0]
        moved = last["kind"] == _ADMINISTRATION and last["record"]["code"] == _BUSINESS_DATE
        return bool(moved)

    def _root_after(self, moment: Moment | None) -> KeptRoot:
        """The oldest provable root that all entries up to a moment are before."""
        if moment is None:
            return self.root_at(None)
        if moment.date:
            late = [r for r in self._sources.states.kept() if r.business_date > moment.date]
        else:
            late = [r for r in self._sources.states.kept() if r.block >= moment.block]
        found = self._first_provable(late)
        if found is not None:
            return found
        if late or self._is_over(moment):
            raise Unavailable("not_provable_yet", f"no state root after {moment} can be proven yet")
        raise RequestRefused("no_state_root", f"no state root was kept after {moment}")

    def _is_over(self, moment: Moment) -> bool:
        """Whether a day has ended, so that a state root is being made of its end."""
        last = self._reader.last_block
        return bool(
            moment.date and last >= 0 and self._reader.block(last).business_date > moment.date
        )

    def _account_at(self, root: KeptRoot, account: Account) -> AccountState | None:
        return self._sources.states.account(
            root.block, ledger=account.ledger, code=account.code, ordinal=account.ordinal
        )

    # Accounts ---------------------------------------------------------------------------------

    def add_account(self, account: Account, at: Moment | None = None) -> int:
        """Add an account's balances at the newest provable root, or at one at or before a moment.

        Raises RequestRefused("account_not_found") when it was opened later; and as ``root_at``.
        """
        root = self.root_at(at)
        state = self._account_at(root, account)
        if state is None:
            raise RequestRefused(
                "account_not_found",
                f"the account {account.id} was not open at the state root of block {root.block}",
            )
        return self._bundle.add_account(self._checked(state, account))

    def _checked(self, state: AccountState, account: Account) -> AccountState:
        if int.from_bytes(state.leaf[:16], "little") != account.id:
            raise DataDamaged(
                f"the state root of block {state.block} has another account in the place of"
                f" {account.id}"
            )
        return state

    def add_statement(
        self,
        account: Account,
        *,
        start: Moment | None = None,
        end: Moment | None = None,
        counterparty: bool = False,
        metadata: bool = False,
    ) -> int:
        """Add an account's complete statement, rounded outwards to provable roots.

        ``start`` and ``end`` are inclusive; None: from the opening, up to the newest root. Raises
        RequestRefused when no root is late enough, the account was opened later, or the statement
        is too long.
        """
        last = self._root_after(end)
        first = self._root_before(start) if start is not None else None
        if first is not None and first.block > last.block:
            raise RequestRefused("invalid_filter", f"{start} is after {end}")
        closing = self._account_at(last, account)
        if closing is None:
            raise RequestRefused(
                "account_not_found",
                f"the account {account.id} was not open at the state root of block {last.block}",
            )
        self._checked(closing, account)
        opening = None if first is None else self._account_at(first, account)
        if opening is not None:
            self._checked(opening, account)
        number = opening.entry_count if opening is not None else 0
        count = closing.entry_count - number
        others = sum(len(statement.entries) for statement in self._statements)
        if others + count > STATEMENT_ENTRIES_MAX:
            raise RequestRefused(
                "proof_too_large",
                f"{others + count} entries are in the period; at most {STATEMENT_ENTRIES_MAX} go"
                " into one bundle: shorten it",
            )
        statement = Statement(account.id, opening, closing, [], [])
        self._read_entries(statement, account, number)
        places = [
            None if state is None else self._bundle.add_account(state)
            for state in (opening, closing)
        ]
        self._statements.append(statement)
        assert places[1] is not None
        return self._bundle.add_statement(
            account.id,
            opening=places[0],
            closing=places[1],
            entries=statement.entries,
            counterparty=counterparty,
            metadata=metadata,
        )

    def _read_entries(self, statement: Statement, account: Account, number: int) -> None:
        closing = statement.closing
        while number < closing.entry_count:
            positions, rows = self._sources.entries(
                self._reader,
                account.slot,
                account.last_position,
                number,
                min(closing.entry_count, number + WALK_ENTRIES) - 1,
            )
            if len(rows) == 0:
                raise DataDamaged(f"the account {account.id} has no entry {number}")
            for place, position in enumerate(positions.tolist()):
                row = rows[place : place + 1]
                entry = read_entry(self._reader, position, row)
                statement.entries.append(entry)
                statement.rows.append(row)
            number += len(rows)

    # Totals -----------------------------------------------------------------------------------

    def add_trial_balance(
        self, at: Moment | None = None, tiles: Sequence[tuple[int, int, int]] = ()
    ) -> int:
        """Add the trial balance at a root as ``root_at`` finds it, and tiles that are opened, each
        as (ledger, code, tile)."""
        root = self.root_at(at)
        place = self._bundle.add_trial_balance(root.block)
        self._trial_balance_block = root.block
        groups = self._sources.states.groups(root.block)
        for ledger, code, tile in tiles:
            try:
                group = [(g.ledger, g.code) for g in groups].index((ledger, code))
                opened = self._sources.states.tile(root.block, group, tile)
            except (ValueError, IndexError):
                raise RequestRefused(
                    "invalid_filter", f"there is no tile {tile} of ledger {ledger}, code {code}"
                ) from None
            self._bundle.add_tile(opened)
        return place

    def add_full_state(self, at: Moment | None = None) -> int:
        """Add the full state at a root as ``root_at`` finds it; its accounts go into a file."""
        root = self.root_at(at)
        self._full_state_block = root.block
        return self._bundle.add_full_state(root.block)

    def add_consistency(self, old_note: str) -> int:
        """Add the proof that the log grew from an older signed checkpoint.

        Raises RequestRefused when it is not one of this log.
        """
        try:
            return self._bundle.add_consistency(old_note)
        except BadNote as error:
            raise RequestRefused("invalid_checkpoint", str(error)) from error

    def consistency(self, old_size: int) -> tuple[int, bytes]:
        """Return (size of the checkpoint, path from an older size to it)."""
        return self._bundle.size, self._bundle.consistency_path(old_size)


def drawn(key: bytes, count: int, total: int) -> list[int]:
    """Return ``count`` different numbers below ``total``, drawn as docs/proofs.md says."""
    found: dict[int, None] = {}
    limit, k = _TWO_64 - _TWO_64 % total, 0
    while len(found) < count:
        digest = hashlib.sha256(_SAMPLE + key + k.to_bytes(8, "big")).digest()
        value = int.from_bytes(digest[:8], "big")
        if value < limit:
            found.setdefault(value % total)
        k += 1
    return list(found)


def checkpoint_size(note: str) -> int:
    """Return how many intervals a signed checkpoint covers."""
    return parse_checkpoint(parse_note(note).text).size
