"""The wire forms of the records, from ledger.layout: one Schema for each kind, which parser and
writer walk."""

from libc.string cimport memset

import numpy as np

from ledger import layout
from ledger.errors import RequestRefused

_TYPES = {
    TYPE_AMOUNT: "amount", TYPE_ID: "id", TYPE_U64: "u64", TYPE_NUMBER: "number", TYPE_TIME: "time",
    TYPE_FLAGS: "flags", TYPE_ENUM: "enum", TYPE_DATE: "date", TYPE_RAW: "raw",
}
_WIDTHS = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "u128": 16}
_TEXT_SIZES = {
    TYPE_AMOUNT: 42, TYPE_ID: 42, TYPE_U64: 23, TYPE_NUMBER: 11, TYPE_TIME: 23, TYPE_DATE: 13,
}


cdef class Schema:
    """The fields of one kind of JSON object and where their values lie in a record.

    ``fields`` tells each field's name, JSON type (amount id u64 number time flags enum date raw),
    names (of flags or
    members), whether it must be present, its width in bytes and its doc: what the OpenAPI document
    is built from.
    """

    def __init__(self, kind, record, *, flags=None, leave_out=(), required=(), raw=(), extra=()):
        self.kind, self.dtype, self._keep = kind, layout.DTYPES[record], []
        memset(&self.c, 0, sizeof(schema_t))
        self.c.flags_field = -1
        self.c.timestamp_offset = -1
        self.c.item_size = self.dtype.itemsize
        described = []
        table = next(r for r in layout.RECORDS if r.name == record)
        left_out = [
            f.name for f in table.fields if f.name.startswith("reserved") or f.name in leave_out
        ]
        for field in (*(f for f in table.fields if f.name not in left_out), *extra):
            described.append(self._add(field, record, flags, field.name in required))
        for name in raw:
            field = layout.Field(name, "raw", "a JSON value")
            described.append(self._add(field, record, flags, name in required))
        self.fields, self.unwritten = tuple(described), tuple(left_out)

    def _add(self, field, record, flags, required):
        cdef int index = self.c.field_count
        cdef field_t* f = &self.c.fields[index]
        cdef const name_t* first = &self.names[self.names_used]
        names = {}
        if field.type == "raw":
            kind = TYPE_RAW
        elif field.type == "u128":
            kind = TYPE_AMOUNT if field.unit == "minor units" else TYPE_ID
        elif field.type == "u64":
            kind = TYPE_TIME if field.unit == "ns" else TYPE_U64
        elif field.name == "flags" or field.name.endswith("_flags"):
            kind = TYPE_FLAGS
            table = {"flags": flags, "transfer_flags": "TRANSFER"}.get(field.name, "ACCOUNT")
            names = {flag.name: 1 << flag.bit for flag in layout.FLAGS[table]}
        elif field.name in ("kind", "type"):
            kind = TYPE_ENUM
            table = layout.DEFINITION_KINDS if field.name == "kind" else layout.CHANGE_EVENT_TYPES
            names = {name: number for name, (number, _) in table.items()}
        else:
            kind = TYPE_DATE if field.unit == "YYYYMMDD" else TYPE_NUMBER
        for name, value in names.items():
            text = name.encode()
            self._keep.append(text)
            self.names[self.names_used].text = text
            self.names[self.names_used].size = len(text)
            self.names[self.names_used].value = value
            self.names_used += 1
        text, prefix = field.name.encode(), b'"' + field.name.encode() + b'":'
        self._keep += [text, prefix]
        f.name, f.name_size, f.prefix, f.prefix_size = text, len(text), prefix, len(prefix)
        guess = text + b'":'
        if len(guess) <= 32:
            f.words_size, f.word_count = len(guess), (len(guess) + 7) // 8
            for at in range(f.word_count):
                part = guess[8 * at : 8 * at + 8]
                f.words[<int>at] = int.from_bytes(part, "little")
                f.masks[<int>at] = int.from_bytes(b"\xff" * len(part), "little")
        f.names, f.name_count = first, len(names)
        f.type, f.required = kind, required
        if kind != TYPE_RAW:
            f.width = _WIDTHS[field.type]
            # An extra field lies where its doc says: in a record's field of another name.
            f.offset = self.dtype.fields[
                field.name if field.name in self.dtype.fields else field.unit
            ][1]
        if required:
            self.c.required |= 1 << index
        if record == "TRANSFER" and field.name == "amount":
            self.c.required_unless_void |= 1 << index
        if field.name == "flags":
            self.c.flags_field = index
        if field.name == "timestamp":
            self.c.timestamp_offset = f.offset
        self.c.text_size_max += f.prefix_size + _TEXT_SIZES.get(
            kind, 0
        ) + 2 + sum(len(n) + 3 for n in names)
        self.c.field_count += 1
        return {"name": field.name, "type": _TYPES[
            kind
        ], "names": tuple(names), "required": bool(required),
                "width": f.width, "doc": field.doc, "unit": field.unit}


SCHEMAS = {
    "accounts": Schema(
        "accounts", "ACCOUNT", flags="ACCOUNT", required=("id", "ledger", "code"), raw=("metadata",)
    ),
    "transfers": Schema(
        "transfers", "TRANSFER", flags="TRANSFER", required=("id",), raw=("metadata",)
    ),
    "settings": Schema(
        "settings", "ACCOUNT_SETTINGS", flags="ACCOUNT_SETTINGS", required=("id", "account_id"),
        leave_out=("ledger", "code"), raw=("metadata",),
    ),
    "definitions": Schema(
        "definitions", "DEFINITION", flags="DEFINITION", required=("id", "kind"), raw=("metadata",)
    ),
    "business_date": Schema(
        "business_date", "BUSINESS_DATE", required=(
            "id", "date"
        ), leave_out=("ledger", "code", "flags"),
        raw=("metadata",),
    ),
    "change_events": Schema("change_events", "CHANGE_EVENT", flags="TRANSFER"),
    "query": Schema(
        "query", "QUERY_FILTER", flags="QUERY_FILTER", required=("type",), raw=("type", "cursor")
    ),
    "results": Schema(
        "results", "RESULT", leave_out=("status",),
        extra=(layout.Field("code", "u32", "the status's number", "status"),
               layout.Field("index", "u32", "place of the event in the request", "reserved")),
    ),
}
"""The kinds of objects: events, records, filters and results."""


cdef class StatusNames:
    """The names of a kind's statuses by number, for the writer."""

    def __init__(self, statuses):
        self.keep = []
        memset(self.text, 0, sizeof(self.text))
        for status in statuses:
            name = status.name.encode()
            self.keep.append(name)
            self.text[<int>status.number] = name
            self.size[<int>status.number] = len(name)


STATUS_NAMES = {
    "accounts": StatusNames(layout.ACCOUNT_STATUSES),
    "transfers": StatusNames(layout.TRANSFER_STATUSES),
    "settings": StatusNames(layout.ADMINISTRATIVE_STATUSES),
    "definitions": StatusNames(layout.ADMINISTRATIVE_STATUSES),
    "business_date": StatusNames(layout.ADMINISTRATIVE_STATUSES),
}
CONTENT_TYPES = {
    "accounts": "application/vnd.sanyuan.accounts",
    "transfers": "application/vnd.sanyuan.transfers",
    "results": "application/vnd.sanyuan.results",
}
"""Media types of the binary forms: records as in docs/records.md, one after the other."""


def decode_binary(str kind not None, bytes body not None):
    """Return the record array over a body of 128-byte records (accounts, transfers), read-only,
    without a copy.

    Raises RequestRefused for its size.
    """
    dtype = SCHEMAS[kind].dtype
    if not body:
        raise RequestRefused("empty_request", "the body holds no event")
    if len(body) % dtype.itemsize:
        raise RequestRefused(
            "wrong_record_size",
            f"{len(body)} bytes are no whole number of {dtype.itemsize}-byte records",
        )
    if len(body) // dtype.itemsize > layout.REQUEST_EVENTS_MAX:
        raise RequestRefused(
            "too_many_events",
            f"more than {layout.REQUEST_EVENTS_MAX} events; split the request",
        )
    return np.frombuffer(body, dtype)


def decode_results_binary(bytes body not None):
    """Return the RESULT array of a binary answer, writable; raise RequestRefused for its size."""
    if len(body) % layout.RESULT.itemsize:
        raise RequestRefused(
            "wrong_record_size", f"{len(body)} bytes are no whole number of 16-byte results"
        )
    return np.frombuffer(body, layout.RESULT).copy()
