"""The ledger under the oracle's interface: dicts of ints in, (status, timestamp) and dicts out.

``StateLedger`` is ``ledger.State``: core, id index, packed blocks and history together.
``core_adapter.CoreLedger`` is the core alone, so that a difference can be told apart: a fault of
the rules shows in both, a fault of storage or history only in the first.
"""

from __future__ import annotations

from functools import partialmethod

from ledger import layout
from ledger._core import Core
from ledger.state import State
from tests.model.answers import Metadata, Record, Result
from tests.model.records import dicts, results


class StateLedger:
    """``ledger.State`` with dicts for records."""

    def __init__(self) -> None:
        self.state = State()

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
        answer = getattr(self.state, method)(
            array, timestamp_ns, metadata=metadata or {}, dry_run=dry_run
        )
        return results(answer)

    create_accounts = partialmethod(_request, "create_accounts", "ACCOUNT")
    create_transfers = partialmethod(_request, "create_transfers", "TRANSFER")
    change_settings = partialmethod(_request, "change_settings", "ACCOUNT_SETTINGS")
    define = partialmethod(_request, "define", "DEFINITION")
    move_business_date = partialmethod(_request, "move_business_date", "BUSINESS_DATE")

    def expire(self, timestamp_ns: int) -> int:
        """Sweep; return how many expired."""
        return self.state.expire(timestamp_ns)

    def _look_up(self, method: str, ids: list[int]) -> list[Record]:
        return dicts(getattr(self.state, method)(ids))

    lookup_accounts = partialmethod(_look_up, "lookup_accounts")
    lookup_transfers = partialmethod(_look_up, "lookup_transfers")

    def _query(self, method: str, kind: str, given: Record) -> list[Record]:
        return dicts(getattr(self.state, method)(layout.record_array(layout.DTYPES[kind], [given])))

    get_account_transfers = partialmethod(_query, "get_account_transfers", "ACCOUNT_FILTER")
    get_account_balances = partialmethod(_query, "get_account_balances", "ACCOUNT_FILTER")
    query_accounts = partialmethod(_query, "query_accounts", "QUERY_FILTER")
    query_transfers = partialmethod(_query, "query_transfers", "QUERY_FILTER")
    get_change_events = partialmethod(_query, "get_change_events", "CHANGE_EVENTS_FILTER")

    @property
    def core(self) -> Core:
        """The core, for what ``State`` has no name for."""
        return self.state.core
