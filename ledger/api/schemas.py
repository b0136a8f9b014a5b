"""JSON schemas of all bodies: from the codec's tables, which come from the layout, and a few
written here.

An object has the members that are listed and no others, so a test can hold every answer against
them.
"""

from __future__ import annotations

from typing import Any, Final

from ledger import layout
from ledger._codec import SCHEMAS
from ledger.api.problems import PROBLEMS

Schema = dict[str, Any]

DECIMAL: Final = "^(0|[1-9][0-9]*)$"
SIGNED: Final = "^(0|-?[1-9][0-9]*)$"
UUID: Final = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
RFC_3339: Final = r"^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|\+00:00)$"
DATE: Final = r"^\d{4}-\d\d-\d\d$"
POSITION: Final = r"^\d+:\d+$"
_WHOLE: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 1 << 53}
_DIGITS: Final = {16: 39, 8: 20}


def ref(name: str) -> Schema:
    """Return a reference to a component."""
    return {"$ref": f"#/components/schemas/{name}"}


def decimal(doc: str = "", *, size_bytes: int = 16, signed: bool = False) -> Schema:
    """Return the schema of a whole number in a string."""
    schema: Schema = {
        "type": "string",
        "pattern": SIGNED if signed else DECIMAL,
        "maxLength": _DIGITS[size_bytes] + signed,
    }
    return {**schema, "description": doc} if doc else schema


def array(items: Schema, **more: Any) -> Schema:
    """Return the schema of an array."""
    return {"type": "array", "items": items, **more}


def closed(
    properties: dict[str, Schema], *, optional: tuple[str, ...] = (), doc: str = ""
) -> Schema:
    """Return the schema of an object that has these members and no others."""
    required = [name for name in properties if name not in optional]
    schema: Schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {**schema, "description": doc} if doc else schema


def nullable(schema: Schema) -> Schema:
    """Return the schema of a value that may be null."""
    return {"anyOf": [schema, {"type": "null"}]}


_RFC_3339_ANSWER: Final[Schema] = {"type": "string", "pattern": RFC_3339}


def _doc(field: dict[str, Any]) -> str:
    return str(field["doc"]) + (f" ({field['unit']})" if field["unit"] else "")


def _asked(field: dict[str, Any]) -> Schema:
    """What a request may say for a field."""
    kind, doc = field["type"], {"description": _doc(field)}
    if kind in ("amount", "u64"):
        return {"anyOf": [decimal(size_bytes=field["width"]), _WHOLE], **doc}
    if kind == "id":
        return {"anyOf": [decimal(), {"type": "string", "pattern": UUID}, _WHOLE], **doc}
    if kind == "time":
        return {"anyOf": [decimal(size_bytes=8), _RFC_3339_ANSWER, _WHOLE], **doc}
    if kind == "number":
        return {"type": "integer", "minimum": 0, "maximum": (1 << 8 * field["width"]) - 1, **doc}
    if kind == "flags":
        names = list(field["names"])
        return {**array({"type": "string", "enum": names}, uniqueItems=True), **doc}
    if kind == "enum":
        return {"type": "string", "enum": list(field["names"]), **doc}
    if kind == "date":
        whole = {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}
        return {"anyOf": [{"type": "string", "pattern": DATE}, whole], **doc}
    return ref("Metadata")


def _answered(field: dict[str, Any]) -> Schema:
    """What an answer says for a field."""
    if field["type"] in ("amount", "id", "u64", "time"):
        return decimal(_doc(field), size_bytes=field["width"])
    return _asked(field)


def _event(kind: str, doc: str) -> Schema:
    fields = SCHEMAS[kind].fields
    optional = tuple(field["name"] for field in fields if not field["required"])
    schema = closed({field["name"]: _asked(field) for field in fields}, optional=optional, doc=doc)
    if kind == "transfers":
        schema["description"] += " amount may be left out of a void only."
    return schema


def _record(kind: str, more: dict[str, Schema], optional: tuple[str, ...], doc: str) -> Schema:
    fields = [field for field in SCHEMAS[kind].fields if field["type"] != "raw"]
    properties = {field["name"]: _answered(field) for field in fields}
    return closed({**properties, "time": _RFC_3339_ANSWER, **more}, optional=optional, doc=doc)


def _sums(doc: str) -> dict[str, Schema]:
    names = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")
    return {name: decimal(doc) for name in names}


def _status_names() -> list[str]:
    names = {"created"}
    for statuses in layout.STATUSES.values():
        names |= {status.name for status in statuses}
    return sorted(names)


_TEXT: Final[Schema] = {
    "type": "string",
    "description": "with the ledger's declared exponent and currency, on the account's normal side",
}
_BALANCE: Final = decimal("posted, signed, on the account's normal side", signed=True)
_SIDE: Final[Schema] = {"type": "string", "enum": ["debit", "credit"]}
_NEXT: Final[Schema] = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "description": "cursor of the next page; null on the last",
}
_POSITION: Final[Schema] = {"type": "string", "pattern": POSITION, "description": "block:index"}
_INTEGER: Final[Schema] = {"type": "integer", "minimum": 0}
_CURRENCY: Final = closed(
    {"code": nullable({"type": "string"}), "exponent": {"type": "integer"}},
    doc="as the ledger's definition declares it",
)

_EXPLANATION: Final = closed(
    {
        "rule": {"type": "string"},
        "account_id": decimal("the account whose balance or limit decided"),
        "needed": decimal(),
        "available": decimal(),
        "balances": closed(_sums("as the event found them")),
    },
    optional=("account_id", "needed", "available", "balances"),
    doc="Why an event was refused: the rule, the balance, what was needed and what was available.",
)

_STANDING: Final[dict[str, Schema]] = {
    "normal_side": _SIDE,
    "balance": _BALANCE,
    "available": nullable(
        decimal("what may still be debited (or credited, where only that is limited)")
    ),
    "entry_count": decimal("entries of the account, its opening included", size_bytes=8),
    "settings": array({"type": "string", "enum": [f.name for f in layout.ACCOUNT_SETTINGS_FLAGS]}),
    "overdraft": decimal(),
    "ceiling": decimal(),
    "balance_text": _TEXT,
    "metadata": ref("Metadata"),
}

COMPONENTS: Final[dict[str, Schema]] = {
    "Metadata": {
        "type": "object",
        "description": "A small JSON object, at most 4096 bytes in RFC 8785 form. {} is the same "
        "as none.",
    },
    "AccountEvent": _event("accounts", "An account to open."),
    "TransferEvent": _event("transfers", "A transfer to create."),
    "AccountSettingsEvent": _event(
        "settings", "All settings of an account, in place of those before."
    ),
    "DefinitionEvent": _event("definitions", "A ledger or a code to declare."),
    "BusinessDateEvent": _event("business_date", "The next business date."),
    "Result": closed(
        {
            "index": _INTEGER,
            "status": {"type": "string", "enum": _status_names()},
            "code": {"type": "integer", "minimum": 1, "maximum": layout.CREATED},
            "timestamp": decimal(size_bytes=8),
            "explanation": _EXPLANATION,
        },
        optional=("explanation",),
        doc="The outcome of one event; the code of created is 4294967295.",
    ),
    "Results": closed({"results": array(ref("Result"))}),
    "Account": _record(
        "accounts", _STANDING, ("metadata", "balance_text"), "An account and where it stands."
    ),
    "Transfer": _record("transfers", {"metadata": ref("Metadata")}, ("metadata",), "A transfer."),
    "StatementLine": _record(
        "transfers",
        {
            "metadata": ref("Metadata"),
            "position": _POSITION,
            "entry_number": decimal(size_bytes=8),
            "side": _SIDE,
            **_sums("of the account after this transfer"),
            "balance": _BALANCE,
            "amount_text": _TEXT,
            "balance_text": _TEXT,
        },
        ("metadata", "amount_text", "balance_text"),
        "A transfer as one of its accounts sees it.",
    ),
    "Balance": closed(
        {**_sums("of the account at this time"), "balance": _BALANCE, "balance_text": _TEXT},
        optional=("balance_text",),
    ),
    "Statement": closed(
        {
            "account_id": decimal(),
            "ledger": _INTEGER,
            "code": _INTEGER,
            "normal_side": _SIDE,
            "currency": _CURRENCY,
            "opening": ref("Balance"),
            "closing": ref("Balance"),
            "data": array(ref("StatementLine")),
            "next": _NEXT,
        },
        optional=("currency",),
        doc="opening and closing: the balances before and after the range of time, on every page.",
    ),
    "BalanceAt": closed(
        {
            "account_id": decimal(),
            "timestamp": decimal(size_bytes=8),
            "time": _RFC_3339_ANSWER,
            "normal_side": _SIDE,
            **_sums("of the account at this time"),
            "balance": _BALANCE,
            "balance_text": _TEXT,
        },
        optional=("balance_text",),
    ),
    "Ids": {
        "anyOf": [
            array(ref("Id"), minItems=1, maxItems=layout.REQUEST_EVENTS_MAX),
            closed({"ids": array(ref("Id"), minItems=1, maxItems=layout.REQUEST_EVENTS_MAX)}),
        ]
    },
    "Id": {"anyOf": [decimal(), {"type": "string", "pattern": UUID}, _WHOLE]},
    "AccountLookup": closed({"data": array(nullable(ref("Account")))}),
    "TransferLookup": closed({"data": array(nullable(ref("Transfer")))}),
    "Query": _event(
        "query", "Which records; all given fields must match. change_events: times only."
    ),
    "AccountPage": closed({"data": array(ref("Account")), "next": _NEXT}),
    "TransferPage": closed({"data": array(ref("Transfer")), "next": _NEXT}),
    "ChangeEvent": _record(
        "change_events",
        {"position": _POSITION},
        ("position",),
        "A transfer or an expiry, with both accounts as they were after it.",
    ),
    "ChangeEventPage": closed({"data": array(ref("ChangeEvent")), "next": _NEXT}),
    "TrialBalanceLine": closed(
        {
            "ledger": _INTEGER,
            "code": _INTEGER,
            "ledger_name": nullable({"type": "string"}),
            "code_name": nullable({"type": "string"}),
            "account_count": _INTEGER,
            **_sums("over all accounts of the ledger and code"),
        }
    ),
    "TrialBalance": closed(
        {
            "business_date": nullable({"type": "string", "pattern": DATE}),
            "data": array(ref("TrialBalanceLine")),
            "totals": array(
                closed({"ledger": _INTEGER, **_sums("over all accounts of the ledger")})
            ),
        },
        doc="In each total debits equal credits, pending and posted.",
    ),
    "Live": closed({"live": {"type": "boolean"}}),
    "Ready": closed(
        {
            "ready": {"type": "boolean"},
            "reasons": array(
                closed(
                    {
                        "code": {"type": "string"},
                        "detail": {"type": "string"},
                        "stage": {"type": "string"},
                        "done": _INTEGER,
                        "total": _INTEGER,
                    },
                    optional=("stage", "done", "total"),
                )
            ),
            "warnings": array(closed({"code": {"type": "string"}, "detail": {"type": "string"}})),
        }
    ),
    "Problem": closed(
        {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {"type": "string", "enum": sorted(PROBLEMS)},
            "detail": {"type": "string"},
            "retry": {"type": "string", "enum": ["no", "yes", "same ids"]},
            "request_id": {"type": "string"},
            "event_status": {"type": "string", "enum": _status_names()},
            "event_code": {"type": "integer"},
            "event_timestamp": decimal(size_bytes=8),
            "explanation": _EXPLANATION,
        },
        optional=("event_status", "event_code", "event_timestamp", "explanation"),
        doc="RFC 9457; docs/errors.md lists the codes.",
    ),
}
COMPONENTS["Query"]["properties"]["type"] = {
    "type": "string",
    "enum": ["accounts", "transfers", "change_events"],
}
COMPONENTS["Query"]["properties"]["cursor"] = {"type": "string"}
COMPONENTS["Query"]["properties"]["limit"] = {
    "type": "integer",
    "minimum": 1,
    "maximum": 1000,
    "default": 100,
}
