"""All routes in one table: what is served, who may ask, what goes in and what comes out.

The application is made from it, and so is the OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ledger._codec import CONTENT_TYPES
from ledger.api import feed, lookups, metrics, outer_log, proofs, schemas, service, writes
from ledger.api.inputs import JSON
from ledger.api.proof_schemas import BUNDLE
from ledger.api.schemas import DATE, DECIMAL, POSITION, RFC_3339, UUID, Schema

BINARY: Final[Schema] = {"type": "string", "format": "binary"}
NOT_NOW: Final = 503
_BAD_WRITE: Final = (400, 401, 403, 413, 415, 429, 503)
_BAD_READ: Final = (400, 401, 403, 409, 429, 503)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query parameter; ``place`` path for the id of the path."""

    name: str
    schema: Schema
    doc: str
    place: str = "query"


@dataclass(frozen=True, slots=True)
class Route:
    """A route: ``scopes`` of which a key needs one, empty for none; ``bodies`` by media type;
    ``answers`` of success by
    status and media type; ``problems``: the statuses of its problem documents."""

    name: str
    method: str
    path: str
    handler: writes.Handler
    summary: str
    scopes: frozenset[str]
    parameters: tuple[Parameter, ...]
    bodies: dict[str, Schema]
    answers: dict[int, dict[str, Schema]]
    problems: tuple[int, ...]
    position: bool = False
    """Whether success carries Ledger-Position."""


_WHOLE: Final[Schema] = {"type": "string", "pattern": DECIMAL}
_TRUTH: Final[Schema] = {"type": "boolean", "default": False}
_TIME: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": DECIMAL}, {"type": "string", "pattern": RFC_3339}]
}
_ID: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": DECIMAL}, {"type": "string", "pattern": UUID}]
}
_POSITION: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": POSITION}, {"type": "string", "pattern": DECIMAL}]
}
_PATH_ID: Final = Parameter("id", _ID, "the id: decimal, or a dashed UUID", "path")
_MIN_POSITION: Final = Parameter(
    "min_position", _POSITION, "answer from a state at or after this Ledger-Position"
)
_LIMIT: Final = Parameter(
    "limit",
    {
        "type": "integer",
        "minimum": 1,
        "maximum": lookups.PAGE_MOST,
        "default": lookups.PAGE_DEFAULT,
    },
    "at most so many on a page",
)
_WRITE_PARAMETERS: Final = (
    Parameter("dry_run", _TRUTH, "answer as the real request would, and change nothing"),
    Parameter(
        "explain", _TRUTH, "say of each refusal which rule, which balance, needed and available"
    ),
)
_STATEMENT_PARAMETERS: Final = (
    Parameter(
        "side", {"type": "string", "enum": ["debit", "credit"]}, "only debits or only credits"
    ),
    Parameter("timestamp_min", _TIME, "from this time on, inclusive"),
    Parameter("timestamp_max", _TIME, "up to this time, inclusive"),
    Parameter("user_data_128", _ID, "only transfers with this value"),
    Parameter("user_data_64", _WHOLE, "only transfers with this value"),
    Parameter("user_data_32", _WHOLE, "only transfers with this value"),
    Parameter("code", _WHOLE, "only transfers with this code"),
    Parameter("reversed", _TRUTH, "newest first"),
    Parameter("cursor", {"type": "string"}, "next of the page before"),
)


_MOMENT: Final[Schema] = {
    "anyOf": [{"type": "string", "pattern": DATE}, {"type": "string", "pattern": DECIMAL}]
}
_WAIT: Final = Parameter(
    "wait",
    {"type": "integer", "minimum": 0, "maximum": proofs.WAIT_MOST_S, "default": proofs.WAIT_S},
    "wait so many seconds for the checkpoint that covers it",
)
_AT: Final = Parameter(
    "at", _MOMENT, "the newest state root at or before a business date or block; by default of all"
)
_PERIOD: Final = (
    Parameter("from", _MOMENT, "business date or block, inclusive; by default from the opening"),
    Parameter("to", _MOMENT, "business date or block, inclusive; by default the newest state root"),
    Parameter(
        "disclose",
        {"type": "string"},
        "counterparties, metadata: what is shown and not only its hash; commas between",
    ),
)
_HIDE: Final = Parameter(
    "hide",
    {"type": "string"},
    "debit, credit, metadata: what is only a hash; commas between",
)


def _one_or_many(component: str) -> Schema:
    event = schemas.ref(component)
    return {"anyOf": [event, schemas.array(event, minItems=1, maxItems=8190)]}


def _write(
    name: str,
    path: str,
    kind: str,
    component: str,
    scope: str,
    summary: str,
    *,
    binary: bool = False,
) -> Route:
    bodies = {JSON: _one_or_many(component)}
    if binary:
        bodies[CONTENT_TYPES[kind]] = BINARY
    answers = {JSON: schemas.ref("Results"), CONTENT_TYPES["results"]: BINARY}
    return Route(
        name,
        "POST",
        path,
        writes.writer(kind, binary=binary),
        summary,
        frozenset((scope,)),
        _WRITE_PARAMETERS,
        bodies,
        {200: answers},
        (*_BAD_WRITE, 422),
        position=True,
    )


def _read(
    name: str,
    path: str,
    handler: Any,
    component: str,
    summary: str,
    parameters: tuple[Parameter, ...] = (),
    *,
    problems: tuple[int, ...] = (),
    scope: str = "read",
) -> Route:
    path_parameters = (_PATH_ID,) if "{id}" in path else ()
    return Route(
        name,
        "GET",
        path,
        handler,
        summary,
        frozenset((scope,)),
        (*path_parameters, *parameters, _MIN_POSITION),
        {},
        {200: {JSON: schemas.ref(component)}},
        (*_BAD_READ, *problems),
    )


def _ask(name: str, path: str, handler: Any, asked: str, answer: Schema, summary: str) -> Route:
    return Route(
        name,
        "POST",
        path,
        handler,
        summary,
        frozenset(("read",)),
        (_MIN_POSITION,),
        {JSON: schemas.ref(asked)},
        {200: {JSON: answer}},
        (*_BAD_READ, 413, 415),
    )


def _proof(
    name: str,
    path: str,
    handler: Any,
    summary: str,
    parameters: tuple[Parameter, ...],
    *,
    scope: str = "audit",
    problems: tuple[int, ...] = (),
    answers: dict[str, Schema] | None = None,
    body: dict[str, Schema] | None = None,
) -> Route:
    path_parameters = (_PATH_ID,) if "{id}" in path else ()
    return Route(
        name,
        "GET" if body is None else "POST",
        path,
        handler,
        summary,
        frozenset((scope,)),
        (*path_parameters, *parameters, _WAIT, _MIN_POSITION),
        body or {},
        {200: answers or {JSON: BUNDLE}},
        (*_BAD_READ, *problems, *((413, 415) if body else ())),
    )


def _service(
    name: str,
    path: str,
    handler: Any,
    summary: str,
    answers: dict[int, dict[str, Schema]],
    problems: tuple[int, ...] = (),
    scopes: frozenset[str] = frozenset(),
) -> Route:
    return Route(name, "GET", path, handler, summary, scopes, (), {}, answers, problems)


def table(document: writes.Handler) -> tuple[Route, ...]:
    """Return all routes; ``document`` is the handler that serves what is made of them."""
    return (
        _write(
            "create_accounts",
            "/v1/accounts",
            "accounts",
            "AccountEvent",
            "accounts:write",
            "Open accounts",
            binary=True,
        ),
        _write(
            "create_transfers",
            "/v1/transfers",
            "transfers",
            "TransferEvent",
            "transfers:write",
            "Create transfers; linked ones succeed or fail together",
            binary=True,
        ),
        _write(
            "change_settings",
            "/v1/account-settings",
            "settings",
            "AccountSettingsEvent",
            "admin",
            "Replace the settings of accounts: overdraft, ceiling, blocks",
        ),
        _write(
            "define",
            "/v1/definitions",
            "definitions",
            "DefinitionEvent",
            "admin",
            "Declare ledgers (currency, exponent) and codes (name, normal side)",
        ),
        _write(
            "move_business_date",
            "/v1/business-date",
            "business_date",
            "BusinessDateEvent",
            "admin",
            "Move the business date forward",
        ),
        _ask(
            "lookup_accounts",
            "/v1/accounts/lookup",
            lookups.lookup_accounts,
            "Ids",
            schemas.ref("AccountLookup"),
            "Accounts by id, in order, null where there is none",
        ),
        _ask(
            "lookup_transfers",
            "/v1/transfers/lookup",
            lookups.lookup_transfers,
            "Ids",
            schemas.ref("TransferLookup"),
            "Transfers by id, in order, null where there is none",
        ),
        _ask(
            "query",
            "/v1/query",
            lookups.query,
            "Query",
            {
                "anyOf": [
                    schemas.ref(name) for name in ("AccountPage", "TransferPage", "ChangeEventPage")
                ]
            },
            "Accounts, transfers or change events that match a filter, page by page",
        ),
        _read(
            "get_account",
            "/v1/accounts/{id}",
            lookups.account,
            "Account",
            "An account: its sums, balance, available, entry count, settings, metadata",
            problems=(404,),
        ),
        _read(
            "get_statement",
            "/v1/accounts/{id}/transfers",
            lookups.statement,
            "Statement",
            "A statement: transfers with running balance, opening and closing balance",
            (*_STATEMENT_PARAMETERS, _LIMIT),
            problems=(404,),
        ),
        _read(
            "get_balance",
            "/v1/accounts/{id}/balance",
            lookups.balance,
            "BalanceAt",
            "The balances of an account at a time",
            (Parameter("at", _TIME, "the time; by default that of the last durable block"),),
            problems=(404,),
        ),
        _read(
            "get_transfer",
            "/v1/transfers/{id}",
            lookups.transfer,
            "Transfer",
            "A transfer with its metadata",
            problems=(404,),
        ),
        _read(
            "get_trial_balance",
            "/v1/trial-balance",
            lookups.trial_balance,
            "TrialBalance",
            "Sums of each ledger and code, that cancel to zero",
            (Parameter("ledger", _WHOLE, "only this ledger"),),
        ),
        Route(
            "follow_events",
            "GET",
            "/v1/events",
            feed.events,
            "The change feed: one change event a line, in the order of the log",
            frozenset(("read",)),
            (
                Parameter("after", _POSITION, "the position of the last event that is known"),
                Parameter("limit", _WHOLE, "at most so many events; by default all"),
                Parameter("wait", _WHOLE, "wait so many seconds for the first event, at most 60"),
                Parameter("follow", _TRUTH, "go on for ever; empty lines while nothing happens"),
            ),
            {},
            {200: {feed.CONTENT_TYPE: schemas.ref("ChangeEvent")}},
            _BAD_READ,
        ),
        Route(
            "make_state_root",
            "POST",
            "/v1/state-roots",
            proofs.make_state_root,
            "Make a state root now, and keep it",
            frozenset(("admin",)),
            (),
            {},
            {200: {JSON: schemas.ref("MadeStateRoot")}},
            (401, 403, 429, 503),
        ),
        Route(
            "list_state_roots",
            "GET",
            "/v1/state-roots",
            proofs.state_roots,
            "The kept state roots, at which balances and statements can be proven",
            frozenset(("audit",)),
            (),
            {},
            {200: {JSON: schemas.ref("StateRoots")}},
            (401, 403, 429, 503),
        ),
        _proof(
            "prove_transfer",
            "/v1/transfers/{id}/proof",
            proofs.transfer,
            "A bundle: the transfer is in the journal",
            (_HIDE,),
            scope="read",
            problems=(404,),
        ),
        _proof(
            "prove_account",
            "/v1/accounts/{id}/proof",
            proofs.account,
            "A bundle: the account had these balances at a state root",
            (_AT,),
            scope="read",
            problems=(404,),
        ),
        _proof(
            "prove_statement",
            "/v1/accounts/{id}/statement-proof",
            proofs.statement,
            "A bundle: these are all entries of the account between two state roots, rounded"
            " outwards",
            _PERIOD,
            scope="read",
            problems=(404,),
        ),
        _proof(
            "prove_trial_balance",
            "/v1/trial-balance/proof",
            proofs.trial_balance,
            "A bundle: the sums of each ledger and code at a state root",
            (
                _AT,
                Parameter(
                    "tiles",
                    {"type": "string"},
                    "256 accounts each to open, as ledger:code:tile; commas between",
                ),
            ),
        ),
        _proof(
            "prove_consistency",
            "/v1/consistency-proof",
            proofs.consistency,
            "The path from an older size of the log to the newest checkpoint",
            (Parameter("from", _WHOLE, "the older size"),),
            scope="read",
            answers={JSON: schemas.ref("ConsistencyProof")},
        ),
        _proof(
            "prove_consistency_with",
            "/v1/consistency-proof",
            proofs.consistency_bundle,
            "A bundle: the log grew from an older checkpoint",
            (),
            scope="read",
            body={JSON: schemas.ref("OldCheckpoint")},
        ),
        _proof(
            "sample_entries",
            "/v1/audit/sample",
            proofs.sample,
            "A bundle: entries drawn from all, by a seed or a witness's cosignature",
            (
                Parameter("count", _WHOLE, "how many"),
                Parameter("seed", {"type": "string"}, "any text; or else a witness"),
                Parameter("witness", {"type": "string"}, "name of a witness that cosigned"),
                _HIDE,
            ),
        ),
        _proof(
            "export_package",
            "/v1/audit/export",
            proofs.export,
            "A zip for an auditor: statements of accounts, or the trial balance and all accounts",
            (
                Parameter(
                    "account", {"type": "string"}, "ids with commas between, or the word all"
                ),
                *_PERIOD,
            ),
            problems=(404,),
            answers={proofs.ZIP_TYPE: BINARY},
        ),
        _service(
            "get_checkpoint",
            "/checkpoint",
            outer_log.checkpoint,
            "The newest published checkpoint of the outer log (C2SP tlog-checkpoint)",
            {200: {outer_log.TEXT.partition(";")[0]: {"type": "string"}}},
            (404,),
        ),
        Route(
            "get_tile",
            "GET",
            "/tile/{path}",
            outer_log.tile,
            "A tile of hashes or of records of the outer log (C2SP tlog-tiles)",
            frozenset(),
            (
                Parameter(
                    "path",
                    {"type": "string"},
                    "level or entries, number, and the width of a partial tile: 0/x001/234.p/7",
                    "path",
                ),
            ),
            {},
            {200: {outer_log.BYTES: BINARY}},
            (404,),
        ),
        _service(
            "live",
            "/livez",
            service.live,
            "Whether the process answers",
            {200: {JSON: schemas.ref("Live")}},
        ),
        _service(
            "ready",
            "/readyz",
            service.ready,
            "Whether requests are taken, and why not",
            {200: {JSON: schemas.ref("Ready")}, NOT_NOW: {JSON: schemas.ref("Ready")}},
        ),
        _service(
            "metrics",
            "/metrics",
            service.prometheus,
            "Metrics in the text format of Prometheus",
            {200: {metrics.CONTENT_TYPE.partition(";")[0]: {"type": "string"}}},
            (401, 403),
            frozenset(("audit",)),
        ),
        _service(
            "openapi",
            "/openapi.json",
            document,
            "This document",
            {200: {JSON: {"type": "object"}}},
        ),
    )
