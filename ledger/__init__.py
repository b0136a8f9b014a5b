"""Sanyuan: a core-banking ledger whose every acknowledged transfer is durable and provable.

``ledger.State`` is the whole state machine in process; the record dtypes come from
:mod:`ledger.layout`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.layout import (
    ACCOUNT,
    ACCOUNT_BALANCE,
    ACCOUNT_FILTER,
    ACCOUNT_SETTINGS,
    BUSINESS_DATE,
    CHANGE_EVENT,
    CHANGE_EVENTS_FILTER,
    DEFINITION,
    QUERY_FILTER,
    RESULT,
    TRANSFER,
    U128,
)

if TYPE_CHECKING:
    from ledger.state import State

__version__ = "0.1.0"

__all__ = [
    "ACCOUNT",
    "ACCOUNT_BALANCE",
    "ACCOUNT_FILTER",
    "ACCOUNT_SETTINGS",
    "BUSINESS_DATE",
    "CHANGE_EVENT",
    "CHANGE_EVENTS_FILTER",
    "DEFINITION",
    "QUERY_FILTER",
    "RESULT",
    "TRANSFER",
    "U128",
    "State",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # State pulls in every compiled module; importing `ledger.layout` alone must not.
    if name == "State":
        from ledger.state import State

        return State
    raise AttributeError(f"module 'ledger' has no attribute {name!r}")
