"""Seals: which blocks end an interval of the outer log, and when the ledger makes one of its own.

A block is sealed when its last timestamp is an interval or more after that of the last sealed
block, when there is none yet, or when it was made to be sealed. Such a block has one entry, the
ledger's own, and is made when traffic leaves a tail of blocks unsealed, or a state root unnamed.
"""

from __future__ import annotations

from typing import Any, Final

from ledger import layout

SEAL: Final = layout.flag_mask("BLOCK", "seal")
SEAL_CODE: Final = layout.ADMINISTRATIONS["seal"][0]
_ADMINISTRATION: Final = layout.ENTRY_KINDS["administration"][0]

OVERDUE_INTERVALS: Final = 4
"""Under traffic whose timestamps do not get on, because the clock is behind them, a seal is made
between requests after so many intervals."""


def is_seal_block(view: Any) -> bool:
    """Return whether a block (a BlockView) was made only to be sealed."""
    if view.entry_count != 1 or not view.flags & SEAL:
        return False
    entry = view.entries(0, 1)[0]
    return bool(entry["kind"] == _ADMINISTRATION and entry["record"]["code"] == SEAL_CODE)


class Seals:
    """Decides the seal of each block in order; owned by the thread that decides the blocks."""

    def __init__(self, interval_ns: int) -> None:
        self._interval_ns = interval_ns
        self._last_timestamp = -1
        self._sealed_at_ns = 0
        self._open_tail = False

    def recover(self, reader: Any, monotonic_ns: int) -> int:
        """Find the last sealed block of a journal; return its number, -1 for none.

        The next interval of an unsealed tail begins now, so that a restart seals it in time.
        """
        number: int = reader.last_block
        self._sealed_at_ns = monotonic_ns
        while number >= 0 and not reader.block(number).flags & SEAL:
            number -= 1
        self._open_tail = number < reader.last_block
        if number >= 0:
            self._last_timestamp = reader.block(number).last_timestamp
        return number

    def take(self, last_timestamp: int, monotonic_ns: int, *, made: bool = False) -> bool:
        """Return whether the next block is sealed; ``made``: it was made to be."""
        first = self._last_timestamp < 0
        self._open_tail = not (
            made or first or last_timestamp >= self._last_timestamp + self._interval_ns
        )
        if not self._open_tail:
            self._last_timestamp = last_timestamp
            self._sealed_at_ns = monotonic_ns
        return not self._open_tail

    def due(self, monotonic_ns: int, *, idle: bool, root_waits: bool) -> bool:
        """Return whether a block should be made to be sealed: an interval is over since the last
        seal, and the last block is not sealed or a state root waits to be named."""
        patience_ns = self._interval_ns * (1 if idle else OVERDUE_INTERVALS)
        return (self._open_tail or root_waits) and monotonic_ns - self._sealed_at_ns >= patience_ns
