"""The guard of the wall clock: what stamps the entries must not jump, nor be behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BEHIND_SLACK_NS: Final = 10_000_000
"""Timestamps of one block may run a little ahead of the clock; a clock is behind only beyond
this."""


class ClockGuard:
    """Notices a wall clock that jumped against the monotonic one, or that is behind the last block.

    Both are over when the clock is set right, since nothing was posted meanwhile, or confirmed.
    """

    def __init__(
        self, clock_ns: Callable[[], int], monotonic_ns: Callable[[], int], jump_ns: int
    ) -> None:
        self._clock_ns = clock_ns
        self._monotonic_ns = monotonic_ns
        self._jump_ns = jump_ns
        self._offset_ns = 0
        self._behind_confirmed = False
        self.reason: str | None = None

    def start(self) -> None:
        """Take the clock as it is for right, except that it must not be behind the last block."""
        self._offset_ns = self._clock_ns() - self._monotonic_ns()
        self._behind_confirmed = False

    def confirm(self) -> None:
        """Take the clock as it is for right, behind the last block or not."""
        self.start()
        self._behind_confirmed = True

    def now(self, last_timestamp: int) -> int:
        """Return the time, ns; set ``reason`` to why it cannot be trusted, or to None."""
        now = self._clock_ns()
        step_ns = now - self._monotonic_ns() - self._offset_ns
        behind_ns = last_timestamp - now
        if behind_ns <= 0:
            self._behind_confirmed = False
        self.reason = None
        if abs(step_ns) > self._jump_ns:
            self.reason = (
                f"the clock stepped by {step_ns / 1e9:.3f} s against the monotonic time;"
                " set it right, or confirm it"
            )
        elif behind_ns > BEHIND_SLACK_NS and not self._behind_confirmed:
            self.reason = (
                f"the clock is {behind_ns / 1e9:.3f} s behind the last block;"
                " wait for it, set it right, or confirm it"
            )
        return now
