"""The exceptions of the ledger: the world's failures and misuse. A client's mistake is a status,
not an exception.

::

    LedgerError
    ├── ConfigurationError     a knob is missing, out of range or contradicts another
    ├── RequestRefused         the request as a whole cannot be taken; carries a code
    ├── Unavailable            not now: queue full, disk nearly full, recovering, clock jumped
    ├── DirectoryInUse         another process holds the data directory
    ├── DiskFailed             a read, write or sync failed; so the process stops
    │   └── DiskFull           there is no room left on the disk
    └── DataDamaged            stored bytes are not what was written; names file, block or page
        └── FormatTooNew       written by a newer version of the ledger
"""

from __future__ import annotations


class LedgerError(Exception):
    """Base of all exceptions of the ledger."""


class ConfigurationError(LedgerError):
    """A knob is missing, out of range or contradicts another."""


class RequestRefused(LedgerError):
    """A request as a whole cannot be taken; ``code`` is stable and listed in docs/errors.md."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Unavailable(LedgerError):
    """The ledger cannot take this now; ``retry_after_s`` says when to try again."""

    def __init__(self, code: str, detail: str, retry_after_s: int = 1) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class DirectoryInUse(LedgerError):
    """Another process holds the data directory."""


class DiskFailed(LedgerError):
    """A read, write or sync failed."""


class DiskFull(DiskFailed):
    """There is no room left on the disk."""


class DataDamaged(LedgerError):
    """Stored bytes are not what was written."""


class FormatTooNew(DataDamaged):
    """The data directory was written by a newer version of the ledger."""
