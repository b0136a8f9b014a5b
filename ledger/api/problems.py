"""Errors over HTTP: RFC 9457 problem documents with a stable ``code``, from one catalogue.

docs/errors.md is generated from the catalogue. A detail says what is wrong with this request; what
went wrong inside
of the server never leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from ledger.errors import DataDamaged, DiskFailed, LedgerError, RequestRefused, Unavailable

Retry = Literal["no", "yes", "same ids"]


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """One kind of error: its code and HTTP status, a title, the cause, the fix, and whether to try
    again.

    ``retry``: ``no``, the same request fails again; ``yes``, nothing was done; ``same ids``, the
    outcome of a write is
    unknown, and sending the same ids again is safe.
    """

    code: str
    status: int
    title: str
    cause: str
    fix: str
    retry: Retry = "no"


_KINDS: Final = (
    # The body
    ProblemKind(
        "empty_request",
        400,
        "Nothing is asked for",
        "The body is empty, or an array without elements.",
        "Send at least one event or id.",
    ),
    ProblemKind(
        "malformed_json",
        400,
        "The body is not JSON",
        "The body is no JSON text in UTF-8 (RFC 8259), is nested deeper than 64, or was cut off.",
        "The detail names the byte where it stops being JSON.",
    ),
    ProblemKind(
        "malformed_body",
        400,
        "The body could not be read",
        "The transfer coding or the compression of the body is broken.",
        "Check Transfer-Encoding and Content-Encoding, or send the body plain.",
    ),
    ProblemKind(
        "wrong_type",
        400,
        "A value has the wrong type",
        "A field holds another JSON type than it should, or a number with fraction, exponent or "
        "leading zero.",
        "Amounts, ids and 64-bit numbers are decimal strings, or whole JSON numbers up to 2^53.",
    ),
    ProblemKind(
        "out_of_range",
        400,
        "A number does not fit",
        "A number is negative, wider than its field, or a JSON number above 2^53.",
        "Write large numbers as decimal strings.",
    ),
    ProblemKind(
        "unknown_field",
        400,
        "There is no such field",
        "An object has a member that its kind does not know; it is refused rather than ignored.",
        "Correct the name; docs/records.md lists the fields.",
    ),
    ProblemKind(
        "duplicate_field",
        400,
        "A field appears twice",
        "An object has the same member more than once.",
        "Send each field once.",
    ),
    ProblemKind(
        "missing_field",
        400,
        "A field is missing",
        "A field that has no default is not there.",
        "Add it. An amount is needed by everything but a void.",
    ),
    ProblemKind(
        "unknown_flag",
        400,
        "There is no such flag",
        "A flag's name is unknown, or given twice.",
        "Correct it; docs/records.md lists the flags.",
    ),
    ProblemKind(
        "unknown_name",
        400,
        "There is no such name",
        "A member of an enumeration has an unknown name.",
        "Correct it; docs/records.md lists the names.",
    ),
    ProblemKind(
        "invalid_time",
        400,
        "This is no time",
        "A time or date is not one of the calendar, not in UTC, or not between 1970 and 2261.",
        "Write nanoseconds as a decimal string, or RFC 3339 with Z; a date as YYYY-MM-DD.",
    ),
    ProblemKind(
        "invalid_metadata",
        400,
        "The metadata cannot be kept",
        "The metadata is no object, repeats a key, or has a number that its canonical form (RFC "
        "8785) would change.",
        "Write such numbers as strings.",
    ),
    ProblemKind(
        "metadata_too_large",
        400,
        "The metadata is too large",
        "The metadata of an event has more than 4096 bytes in canonical form.",
        "Keep the document elsewhere and its digest here.",
    ),
    ProblemKind(
        "wrong_record_size",
        400,
        "The body is no whole number of records",
        "A binary body's size is not a multiple of 128 bytes.",
        "Send records as docs/records.md lays them out, one after the other.",
    ),
    ProblemKind(
        "too_many_events",
        413,
        "Too many events",
        "A request has more than 8190 events or ids.",
        "Split it; a linked chain must stay within one request.",
    ),
    ProblemKind(
        "body_too_large",
        413,
        "The body is too large",
        "The body is larger than body_bytes of the configuration.",
        "Split the request.",
    ),
    ProblemKind(
        "body_timeout",
        408,
        "The body did not arrive in time",
        "The body was not complete after body_timeout_s seconds; nothing was done.",
        "Send it again over a connection that carries it.",
        "yes",
    ),
    ProblemKind(
        "unsupported_media_type",
        415,
        "This media type is not read here",
        "Content-Type is missing, or one that this route does not take.",
        "Use application/json, or for accounts and transfers application/vnd.sanyuan.accounts or "
        ".transfers.",
    ),
    # Path and query
    ProblemKind(
        "invalid_id",
        400,
        "This is no id",
        "An id in the path is neither a decimal number below 2^128 nor a dashed UUID.",
        "Correct the id.",
    ),
    ProblemKind(
        "invalid_parameter",
        400,
        "A parameter has a wrong value",
        "A query parameter or a header cannot be understood.",
        "The detail says what it takes.",
    ),
    ProblemKind(
        "unknown_parameter",
        400,
        "There is no such parameter",
        "A query parameter has an unknown name; it is refused rather than ignored.",
        "Correct the name; /openapi.json lists them.",
    ),
    ProblemKind(
        "invalid_filter",
        400,
        "The filter cannot match",
        "The limit is 0 or above 1000, the range ends before it begins, no side is asked for, or "
        "an id is 0 or 2^128-1.",
        "Correct the filter.",
    ),
    ProblemKind(
        "invalid_cursor",
        400,
        "This is no cursor of this list",
        "The cursor was made up, damaged, or belongs to a list with other filters.",
        "Take next from the page before, with the same filters; or start again without a cursor.",
    ),
    ProblemKind(
        "invalid_checkpoint",
        400,
        "This is no checkpoint of this log",
        "The body is no signed checkpoint, or one of another log.",
        "Send the checkpoint as the log served it.",
    ),
    ProblemKind(
        "invalid_sample",
        400,
        "This sample cannot be drawn",
        "The count is 0 or more than the entries there are, or the witness did not cosign.",
        "The detail says what can be.",
    ),
    # Who asks
    ProblemKind(
        "key_missing",
        401,
        "An API key is needed",
        "The request has no Authorization: Bearer header.",
        "Send the key; sanyuan api-keys makes one.",
    ),
    ProblemKind(
        "key_unknown",
        401,
        "This API key is not known",
        "The key is mistyped or revoked.",
        "Check it with sanyuan api-keys.",
    ),
    ProblemKind(
        "scope_missing",
        403,
        "This API key may not do that",
        "The key lacks the scope that the route needs.",
        "Use a key with one of the scopes that the detail names.",
    ),
    # What is not there
    ProblemKind(
        "route_not_found",
        404,
        "There is nothing here",
        "No route has this path.",
        "/openapi.json lists the routes.",
    ),
    ProblemKind(
        "account_not_found",
        404,
        "There is no such account",
        "No account has this id, or none had it at that time.",
        "Check the id and the time.",
    ),
    ProblemKind(
        "transfer_not_found",
        404,
        "There is no such transfer",
        "No transfer has this id. A refused transfer is not stored.",
        "Check the id.",
    ),
    ProblemKind(
        "checkpoint_not_found",
        404,
        "There is no checkpoint",
        "The ledger has no signing key, or nothing was posted yet.",
        "Make a key (docs/keys.md); /readyz says what keeps a checkpoint from being published.",
    ),
    ProblemKind(
        "tile_not_found",
        404,
        "There is no such tile",
        "A name that no tile has, a tile beyond the checkpoint, or a partial one whose full tile "
        "took its place.",
        "Read the checkpoint; ask for the full tile instead of a partial one.",
    ),
    ProblemKind(
        "method_not_allowed",
        405,
        "This path has other methods",
        "The route is not for this method.",
        "The Allow header lists the methods.",
    ),
    ProblemKind(
        "position_ahead",
        409,
        "The ledger has not got that far",
        "min_position is beyond everything that is durable, and stayed so for two seconds.",
        "Use a Ledger-Position that this ledger gave.",
    ),
    ProblemKind(
        "time_ahead",
        409,
        "The ledger has not got that far",
        "The time is after the last durable block, so a later transfer could still fall before it.",
        "Ask for a time that has passed in the ledger; any write moves it on.",
        "yes",
    ),
    ProblemKind(
        "event_refused",
        422,
        "The event was refused",
        "The only event of the request was refused, and the request said Prefer: handling=strict.",
        "status and status_code name the rule; docs/records.md lists them.",
    ),
    ProblemKind(
        "no_state_root",
        409,
        "No state root was kept there",
        "Balances, statements and totals are proven at kept state roots, and none is old or late "
        "enough.",
        "GET /v1/state-roots lists them; POST /v1/state-roots makes one now.",
    ),
    ProblemKind(
        "checkpoint_ahead",
        409,
        "The log has not got that far",
        "The size is beyond the newest published checkpoint of this log.",
        "If this log signed that checkpoint, keep it: it shows that the log was cut.",
    ),
    ProblemKind(
        "proof_too_large",
        409,
        "The proof would be too large",
        "It would have more entries or bytes than verifiers read, or than a zip holds.",
        "Ask for a shorter period or fewer accounts.",
    ),
    # Not now
    ProblemKind(
        "not_provable_yet",
        503,
        "Not provable yet",
        "No published checkpoint covers it yet, or no state root; or the server has no signing "
        "key.",
        "Wait as Retry-After says, or ask with a longer wait; /readyz names what is amiss.",
        "yes",
    ),
    ProblemKind(
        "too_many_requests",
        429,
        "Too many requests at once",
        "More requests, bytes of bodies, followers of the feed or large proofs are under way than "
        "the server takes.",
        "Send fewer at a time; put more events into one request.",
        "yes",
    ),
    ProblemKind(
        "queue_full",
        503,
        "The queue is full",
        "As many requests wait for a block as the configuration allows.",
        "Wait as Retry-After says.",
        "yes",
    ),
    ProblemKind(
        "too_many_readers",
        503,
        "Too many reads at once",
        "As many reads of the journal are under way as it allows.",
        "Wait as Retry-After says.",
        "yes",
    ),
    ProblemKind(
        "holds_full",
        503,
        "Too many open pending transfers",
        "The table of open holds is full.",
        "Post, void or let expire what is pending, or raise holds of the configuration.",
        "yes",
    ),
    ProblemKind(
        "disk_nearly_full",
        503,
        "The disk is nearly full",
        "Less disk is free than disk_reserve_bytes; posting has stopped, reading goes on.",
        "Make room; posting goes on by itself.",
        "yes",
    ),
    ProblemKind(
        "clock_jumped",
        503,
        "The clock cannot be trusted",
        "The clock stepped, or is behind the last block; posting has stopped, reading goes on.",
        "Set the clock right, or confirm it.",
        "yes",
    ),
    ProblemKind(
        "recovering",
        503,
        "The ledger is recovering",
        "The server has started and reads its journal.",
        "Wait; /readyz tells how far it is.",
        "yes",
    ),
    ProblemKind(
        "stopping",
        503,
        "The server is stopping",
        "The server was told to stop; what it had taken, it finishes.",
        "Try again when it is back.",
        "yes",
    ),
    ProblemKind(
        "failed",
        503,
        "The ledger has stopped",
        "A write to the disk failed, so the ledger takes nothing more until it is started again.",
        "Mend the disk and start the server; see docs/operating.md.",
        "yes",
    ),
    # Our side
    ProblemKind(
        "outcome_unknown",
        500,
        "The outcome is unknown",
        "The disk failed after the request was taken: what was asked for may or may not be "
        "durable.",
        "Start the server again, then send the same ids again.",
        "same ids",
    ),
    ProblemKind(
        "data_damaged",
        500,
        "Stored data is damaged",
        "Bytes read from the disk are not those that were written.",
        "Run sanyuan verify; see docs/operating.md.",
    ),
    ProblemKind(
        "internal_error",
        500,
        "The server made a mistake",
        "Something went wrong that should not; the server's log has it under the request id.",
        "Report it with the X-Request-Id.",
        "same ids",
    ),
)
PROBLEMS: Final = {kind.code: kind for kind in _KINDS}
"""The catalogue by code. Codes are stable: they are never renamed, only added."""

CONTENT_TYPE: Final = "application/problem+json"


@dataclass(eq=False)
class Problem(Exception):
    """Raised by handlers: a code of the catalogue, what is wrong here, and members and headers for
    the answer."""

    code: str
    detail: str
    members: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> ProblemKind:
        """The entry of the catalogue."""
        return PROBLEMS[self.code]

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the members of the problem document (RFC 9457)."""
        kind = self.kind
        return {
            "type": f"urn:sanyuan:problem:{self.code}",
            "title": kind.title,
            "status": kind.status,
            "code": self.code,
            "detail": self.detail,
            "retry": kind.retry,
            "request_id": request_id,
            **self.members,
        }


def from_exception(error: BaseException, *, write: bool) -> Problem | None:
    """Return the problem that says what an exception of the ledger means; None for our own
    mistakes.

    ``write``: whether the request may have changed something by the time that the exception came.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestRefused) and error.code in PROBLEMS:
        return Problem(error.code, error.detail)
    if isinstance(error, Unavailable) and error.code in PROBLEMS:
        return Problem(
            error.code, error.detail, headers={"Retry-After": str(max(1, error.retry_after_s))}
        )
    if isinstance(error, DiskFailed | DataDamaged) or (write and isinstance(error, LedgerError)):
        if write:
            return Problem("outcome_unknown", "the ledger stopped before the request was durable")
        if isinstance(error, DataDamaged):
            return Problem("data_damaged", "what is stored for this answer cannot be read")
    return None


def page() -> str:
    """Return the text of docs/errors.md."""
    lines = [
        "<!-- Generated by tools/generate.py from ledger/api/problems.py; do not edit. -->",
        "# Errors over HTTP",
        "",
        "Every answer that is not 2xx is a problem document (RFC 9457, `application/problem+json`)",
        "with a stable `code`, a `detail` for this request, `retry` and the `request_id`. A",
        "refused event is no error: it is a result with a status, see [records.md](records.md).",
        "",
        "`retry` is `no`: the same request fails again; `yes`: nothing was done, try again, after",
        "`Retry-After` where it is given; `same ids`: the outcome of a write is unknown, send the",
        "same ids again, they take effect once.",
        "",
    ]
    for kind in _KINDS:
        lines += [
            f"## {kind.code}",
            "",
            f"**{kind.status}** {kind.title}. {kind.cause} {kind.fix} Retry: {kind.retry}.",
            "",
        ]
    return "\n".join(lines)
