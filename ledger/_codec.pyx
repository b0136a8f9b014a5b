"""Wire bytes to arrays of records and back: JSON and binary, for the server and for the client. No
sockets.

The fields of a kind, their JSON types and their places come from ledger.layout, once, at import
(``SCHEMAS``); one small
parser and one writer walk those tables. Nothing per event is a Python object. On the wire:

- amounts, ids and 64-bit numbers are decimal strings (whole JSON numbers up to 2^53 are taken too;
  ids also as dashed UUIDs);
- 32- and 16-bit numbers are JSON numbers; flags are arrays of names; metadata is an object;
- a time is a string of nanoseconds or RFC 3339 in UTC; answers carry nanoseconds, and ``time`` in
  RFC 3339 beside it.

What cannot be taken raises RequestRefused with a code of docs/errors.md and a detail that names
event and field. A body that
is not JSON is malformed_json, whatever else is wrong with it; after that the first fault in the
order of the text counts.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from ledger._scan cimport (
    SCAN_DEPTH,
    SCAN_DEPTH_MAX,
    SCAN_END,
    SCAN_OK,
    SCAN_SURROGATE,
    SCAN_SYNTAX,
    SCAN_UTF8,
    fault,
    load8,
    scan_begin,
    scan_digits,
    scan_string,
    scanner_t,
    skip_number,
    skip_space,
    skip_value,
    u128,
)
from ledger._schema cimport (
    FIELDS_MAX,
    TYPE_AMOUNT,
    TYPE_DATE,
    TYPE_ENUM,
    TYPE_FLAGS,
    TYPE_ID,
    TYPE_NUMBER,
    TYPE_TIME,
    TYPE_U64,
    Schema,
    field_t,
    schema_t,
)
from ledger._text cimport REFUSED_RANGE, REFUSED_TYPE, parse_text_number, time_from_text

cimport numpy as cnp

import numpy as np

from ledger import layout
from ledger._canonical import canonical_metadata
from ledger._schema import CONTENT_TYPES, SCHEMAS, decode_binary, decode_results_binary
from ledger._writer import (
    encode_accounts,
    encode_events,
    encode_ids,
    encode_records,
    encode_results,
    format_time,
)
from ledger.errors import RequestRefused

cnp.import_array()

__all__ = [
    "CONTENT_TYPES",
    "SCHEMAS",
    "decode_binary",
    "decode_events",
    "decode_ids",
    "decode_object",
    "decode_page",
    "decode_results",
    "decode_results_binary",
    "encode_accounts",
    "encode_events",
    "encode_ids",
    "encode_records",
    "encode_results",
    "format_time",
    "parse_id",
    "parse_time",
]

cdef enum:
    NO_FIELD = 255
    NO_EVENT = 0xFFFFFFFF
    EVENTS_MAX = 8190
    SMALL_BODY = 16384

    REFUSED_TIME = 22
    REFUSED_FLAG = 23
    REFUSED_FLAG_TWICE = 24
    REFUSED_NAME = 25
    REFUSED_UNKNOWN_FIELD = 26
    REFUSED_DUPLICATE_FIELD = 27
    REFUSED_MISSING_FIELD = 28
    REFUSED_TOO_MANY = 29
    REFUSED_EMPTY = 30
    REFUSED_TOP = 31
    REFUSED_MEMORY = 32

cdef uint64_t INTEGER_MAX = 1 << 53
cdef u128 U128_MAX = ~(<u128>0)

cdef struct slice_t:
    uint32_t event
    uint32_t field
    size_t start
    size_t size

cdef struct parse_t:
    scanner_t s
    const schema_t* schema
    bint lenient
    int depth
    uint32_t event
    int field
    const uint8_t* text
    size_t text_size
    slice_t* slices
    size_t slice_count
    size_t slice_capacity
    uint8_t follow[FIELDS_MAX + 1]
    uint64_t given


# ----------------------------------------------------------------------------------------------
# Values
# ----------------------------------------------------------------------------------------------

cdef inline void store(uint8_t* place, uint8_t width, u128 value) noexcept nogil:
    cdef uint64_t low = <uint64_t>value
    if width == 16:
        memcpy(place, &value, 16)
    elif width == 8:
        memcpy(place, &low, 8)
    elif width == 4:
        memcpy(place, &low, 4)
    elif width == 2:
        memcpy(place, &low, 2)
    else:
        place[0] = <uint8_t>low


cdef inline u128 load(const uint8_t* place, uint8_t width) noexcept nogil:
    cdef u128 value = 0
    cdef uint64_t low = 0
    if width == 16:
        memcpy(&value, place, 16)
        return value
    if width == 8:
        memcpy(&low, place, 8)
    elif width == 4:
        memcpy(&low, place, 4)
    elif width == 2:
        memcpy(&low, place, 2)
    else:
        low = place[0]
    return low


cdef int parse_whole(parse_t* p, u128 limit, bint quoted, bint is_id, u128* value) noexcept nogil:
    """A whole number from 0 to `limit`, as a JSON number up to 2^53 or, where `quoted`, as a
    decimal string."""
    cdef scanner_t* s = &p.s
    cdef const uint8_t* start = s.at
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef int count = 0, code
    cdef bint fits
    cdef uint8_t c = start[0]
    if c == 0x22:
        if not quoted:
            return REFUSED_TYPE
        s.at += 1
        fits = scan_digits(s, value, &count)
        if fits and s.at[0] == 0x22 and count > 0 and (count == 1 or start[1] != 0x30):
            s.at += 1
            return SCAN_OK if value[0] <= limit else REFUSED_RANGE
        s.at = start
        code = scan_string(s, &text, &size)
        return code if code != SCAN_OK else parse_text_number(text, size, is_id, limit, value)
    if 0x30 <= c <= 0x39:
        fits = scan_digits(s, value, &count)
        while 0x30 <= s.at[0] <= 0x39:
            s.at += 1
        if c == 0x30 and s.at - start > 1:
            return SCAN_SYNTAX
        if s.at[0] == 0x2E or s.at[0] | 0x20 == 0x65:
            return REFUSED_TYPE
        if not fits or value[0] > limit or value[0] > INTEGER_MAX:
            return REFUSED_RANGE
        return SCAN_OK
    if c == 0x2D:
        code = skip_number(s)
        if code != SCAN_OK:
            return code
        while start < s.at:
            if start[0] == 0x2E or start[0] | 0x20 == 0x65:
                return REFUSED_TYPE
            start += 1
        return REFUSED_RANGE
    return REFUSED_TYPE


cdef int parse_time_value(parse_t* p, u128* value) noexcept nogil:
    cdef scanner_t* s = &p.s
    cdef const uint8_t* start = s.at
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef int code = parse_whole(p, 0xFFFFFFFFFFFFFFFFu, True, False, value)
    if code == REFUSED_TYPE and start[0] == 0x22:
        s.at = start
        code = scan_string(s, &text, &size)
        if code == SCAN_OK and not time_from_text(text, size, value):
            code = REFUSED_TIME
    return code


cdef int parse_date_value(parse_t* p, u128* value) noexcept nogil:
    """YYYY-MM-DD, or the number YYYYMMDD; whether there is such a day is the ledger's to say."""
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef int index, code
    cdef uint32_t total = 0
    if p.s.at[0] != 0x22:
        return parse_whole(p, 0xFFFFFFFFu, False, False, value)
    code = scan_string(&p.s, &text, &size)
    if code != SCAN_OK:
        return code
    if size != 10 or text[4] != 0x2D or text[7] != 0x2D:
        return REFUSED_TIME
    for index in range(10):
        if index == 4 or index == 7:
            continue
        if not 0x30 <= text[index] <= 0x39:
            return REFUSED_TIME
        total = total * 10 + text[index] - 0x30
    value[0] = total
    return SCAN_OK


cdef int parse_name(parse_t* p, const field_t* f, int refusal, uint32_t* value) noexcept nogil:
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef uint32_t index
    cdef int code
    if p.s.at[0] != 0x22:
        return REFUSED_TYPE
    code = scan_string(&p.s, &text, &size)
    if code != SCAN_OK:
        return code
    for index in range(f.name_count):
        if f.names[index].size == size and memcmp(f.names[index].text, text, size) == 0:
            value[0] = f.names[index].value
            return SCAN_OK
    p.text, p.text_size = text, size
    return refusal


cdef int parse_flags(parse_t* p, const field_t* f, u128* value) noexcept nogil:
    cdef scanner_t* s = &p.s
    cdef uint32_t mask = 0, bit = 0
    cdef int code
    if s.at[0] != 0x5B:
        return REFUSED_TYPE
    s.at += 1
    skip_space(s)
    if s.at[0] == 0x5D:
        s.at += 1
        value[0] = 0
        return SCAN_OK
    while True:
        skip_space(s)
        code = parse_name(p, f, REFUSED_FLAG, &bit)
        if code != SCAN_OK:
            return code
        if mask & bit:
            return REFUSED_FLAG_TWICE
        mask |= bit
        skip_space(s)
        if s.at[0] == 0x5D:
            s.at += 1
            value[0] = mask
            return SCAN_OK
        if s.at[0] != 0x2C:
            return fault(s)
        s.at += 1


cdef int keep_slice(parse_t* p, int field) noexcept nogil:
    """Remember where a raw value lies; what is in it is looked at later."""
    cdef const uint8_t* start = p.s.at
    cdef slice_t* grown
    cdef int code = skip_value(&p.s, p.depth)
    if code != SCAN_OK:
        return code
    if p.slice_count == p.slice_capacity:
        p.slice_capacity = p.slice_capacity * 2 + 16
        grown = <slice_t*>realloc(p.slices, p.slice_capacity * sizeof(slice_t))
        if grown == NULL:
            return REFUSED_MEMORY
        p.slices = grown
    p.slices[p.slice_count].event = p.event
    p.slices[p.slice_count].field = <uint32_t>field
    p.slices[p.slice_count].start = <size_t>(start - p.s.begin)
    p.slices[p.slice_count].size = <size_t>(p.s.at - start)
    p.slice_count += 1
    return SCAN_OK


cdef int parse_value(parse_t* p, int field, uint8_t* record) noexcept nogil:
    cdef const field_t* f = &p.schema.fields[field]
    cdef u128 value = 0
    cdef uint32_t member = 0
    cdef int code
    if f.type == TYPE_AMOUNT:
        code = parse_whole(p, U128_MAX, True, False, &value)
    elif f.type == TYPE_ID:
        code = parse_whole(p, U128_MAX, True, True, &value)
    elif f.type == TYPE_NUMBER:
        code = parse_whole(p, (<u128>1 << (8 * f.width)) - 1, False, False, &value)
    elif f.type == TYPE_FLAGS:
        code = parse_flags(p, f, &value)
    elif f.type == TYPE_U64:
        code = parse_whole(p, 0xFFFFFFFFFFFFFFFFu, True, False, &value)
    elif f.type == TYPE_TIME:
        code = parse_time_value(p, &value)
    elif f.type == TYPE_ENUM:
        code = parse_name(p, f, REFUSED_NAME, &member)
        value = member
    elif f.type == TYPE_DATE:
        code = parse_date_value(p, &value)
    else:
        return keep_slice(p, field)
    if code == SCAN_OK:
        store(record + f.offset, f.width, value)
    return code


# ----------------------------------------------------------------------------------------------
# Objects and arrays
# ----------------------------------------------------------------------------------------------

cdef inline bint is_guessed(const scanner_t* s, const field_t* f) noexcept nogil:
    """Whether the field's name, quoted and with its colon right behind, is at the scanner."""
    cdef uint32_t index
    if f.word_count == 0 or s.end - s.at < 40 or s.at[0] != 0x22:
        return False
    for index in range(f.word_count):
        if (load8(s.at + 1 + 8 * index) ^ f.words[index]) & f.masks[index]:
            return False
    return True


cdef int find_field(parse_t* p, int expected, int* field) noexcept nogil:
    """The field whose name is at the scanner, which moves behind its colon; the one that followed
    last time is tried first."""
    cdef scanner_t* s = &p.s
    cdef const field_t* f
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef int code, index
    if expected < p.schema.field_count and is_guessed(s, &p.schema.fields[expected]):
        s.at += p.schema.fields[expected].words_size + 1
        field[0] = expected
        return SCAN_OK
    code = scan_string(s, &text, &size)
    if code != SCAN_OK:
        return code
    field[0] = NO_FIELD
    for index in range(p.schema.field_count):
        f = &p.schema.fields[index]
        if f.name_size == size and memcmp(f.name, text, size) == 0:
            field[0] = index
            break
    if field[0] == NO_FIELD and not p.lenient:
        p.text, p.text_size = text, size
        return REFUSED_UNKNOWN_FIELD
    skip_space(s)
    if s.at[0] != 0x3A:
        return fault(s)
    s.at += 1
    return SCAN_OK


cdef int parse_object(parse_t* p, uint8_t* record) noexcept nogil:
    cdef scanner_t* s = &p.s
    cdef const schema_t* schema = p.schema
    cdef uint64_t seen = 0, required = schema.required
    cdef int previous = FIELDS_MAX, code, field = NO_FIELD, index
    p.field = NO_FIELD
    if s.at[0] != 0x7B:
        return REFUSED_TYPE
    s.at += 1
    skip_space(s)
    if s.at[0] == 0x7D:
        s.at += 1
    else:
        while True:
            skip_space(s)
            code = find_field(p, p.follow[previous], &field)
            if code != SCAN_OK:
                return code
            if field != NO_FIELD:
                p.field = field
                if seen >> field & 1 and not p.lenient:
                    return REFUSED_DUPLICATE_FIELD
                seen |= <uint64_t>1 << field
                p.follow[previous] = <uint8_t>field
                previous = field
            skip_space(s)
            code = skip_value(s, p.depth) if field == NO_FIELD else parse_value(p, field, record)
            if code != SCAN_OK:
                return code
            p.field = NO_FIELD
            skip_space(s)
            if s.at[0] == 0x7D:
                s.at += 1
                break
            if s.at[0] != 0x2C:
                return fault(s)
            s.at += 1
    if schema.required_unless_void:
        index = schema.flags_field
        if not <uint64_t>load(record + schema.fields[index].offset, 2) & 8:
            required |= schema.required_unless_void
    p.given = seen
    required &= ~seen
    if required and not p.lenient:
        for index in range(schema.field_count):
            if required >> index & 1:
                p.field = index
                return REFUSED_MISSING_FIELD
    return SCAN_OK


cdef int parse_array(
    parse_t* p, uint8_t* records, uint8_t* found, uint32_t capacity, uint32_t* count
) noexcept nogil:
    """An array of objects, `at` on its bracket; with `found`, null is an object that is not
    there."""
    cdef scanner_t* s = &p.s
    cdef int code
    count[0] = 0
    p.event, p.field = 0, NO_FIELD
    s.at += 1
    skip_space(s)
    if s.at[0] == 0x5D:
        s.at += 1
        return SCAN_OK
    while True:
        skip_space(s)
        p.event, p.field = count[0], NO_FIELD
        if count[0] == capacity:
            return REFUSED_TOO_MANY
        if found != NULL and s.end - s.at >= 4 and memcmp(s.at, b"null", 4) == 0:
            s.at += 4
        else:
            code = parse_object(p, records + <size_t>count[0] * p.schema.item_size)
            if code != SCAN_OK:
                return code
            if found != NULL:
                found[count[0]] = 1
        count[0] += 1
        skip_space(s)
        if s.at[0] == 0x5D:
            s.at += 1
            return SCAN_OK
        if s.at[0] != 0x2C:
            return fault(s)
        s.at += 1


cdef int parse_end(parse_t* p) noexcept nogil:
    skip_space(&p.s)
    return SCAN_OK if p.s.at == p.s.end else SCAN_SYNTAX


cdef int parse_body(
    parse_t* p, uint8_t* records, uint32_t capacity, uint32_t* count, bint* single
) noexcept nogil:
    """One object or an array of them, and nothing else."""
    cdef int code
    p.event, p.field = 0, NO_FIELD
    skip_space(&p.s)
    if p.s.at == p.s.end:
        return REFUSED_EMPTY
    single[0] = p.s.at[0] == 0x7B
    if single[0]:
        count[0] = 1
        p.depth = 1
        code = parse_object(p, records)
    elif p.s.at[0] == 0x5B:
        code = parse_array(p, records, NULL, capacity, count)
    else:
        code = REFUSED_TOP
    if code == SCAN_OK:
        code = parse_end(p)
    return REFUSED_EMPTY if code == SCAN_OK and count[0] == 0 else code


cdef void parse_begin(parse_t* p, Schema schema, bytes body, bint lenient) noexcept:
    cdef int index
    scan_begin(&p.s, <const uint8_t*>PyBytes_AS_STRING(body), <size_t>PyBytes_GET_SIZE(body))
    p.schema, p.lenient = &schema.c, lenient
    p.event, p.field, p.text, p.text_size, p.depth = 0, NO_FIELD, NULL, 0, 2
    p.slices, p.slice_count, p.slice_capacity = NULL, 0, 0
    for index in range(FIELDS_MAX):
        p.follow[index] = <uint8_t>(index + 1)
    p.follow[FIELDS_MAX] = 0


cdef str _shown(const uint8_t* text, size_t size):
    return (<const char*>text)[: size if size < 64 else 64].decode("utf-8", "backslashreplace")


cdef object _malformed(scanner_t* s, int code):
    at = f"byte {s.at - s.begin}: "
    if code == SCAN_END:
        what = "the body ends in the middle of a value"
    elif code == SCAN_UTF8:
        what = "not UTF-8"
    elif code == SCAN_SURROGATE:
        what = "a lone surrogate is no character"
    elif code == SCAN_DEPTH:
        what = f"nested deeper than {SCAN_DEPTH_MAX}"
    else:
        what = f"{chr(s.at[0])!r} is not JSON here"
    return RequestRefused("malformed_json", at + what)


cdef object _refusal(parse_t* p, int code):
    """The exception for a code: malformed_json when the text as a whole is not JSON, else what was
    found first."""
    cdef scanner_t whole
    cdef int syntax
    if code == REFUSED_MEMORY:
        return MemoryError()
    if code == REFUSED_EMPTY:
        return RequestRefused("empty_request", "the body holds no event")
    scan_begin(&whole, p.s.begin, <size_t>(p.s.end - p.s.begin))
    syntax = skip_value(&whole, 0)
    if syntax == SCAN_OK:
        skip_space(&whole)
        syntax = SCAN_OK if whole.at == whole.end else SCAN_SYNTAX
    if syntax != SCAN_OK:
        return _malformed(&whole, syntax)
    if code == REFUSED_TOP:
        return RequestRefused("wrong_type", "the body must be an object or an array of objects")
    if code == REFUSED_TOO_MANY:
        return RequestRefused(
            "too_many_events", f"more than {EVENTS_MAX} events; split the request"
        )
    event = "" if p.event == NO_EVENT else f"event {p.event}"
    where = event and event + ": "
    if code == REFUSED_UNKNOWN_FIELD:
        return RequestRefused(
            "unknown_field", f"{where}no field is named {_shown(p.text, p.text_size)!r}"
        )
    if p.field == NO_FIELD:
        return RequestRefused("wrong_type", f"{where}must be an object")
    field = p.schema.fields[p.field]
    where = f"{event and event + ', '}field {field.name.decode()}: "
    if code == REFUSED_DUPLICATE_FIELD:
        return RequestRefused("duplicate_field", where + "appears twice")
    if code == REFUSED_MISSING_FIELD:
        return RequestRefused("missing_field", where + "is missing")
    if code == REFUSED_FLAG:
        return RequestRefused(
            "unknown_flag", where + f"no flag is named {_shown(p.text, p.text_size)!r}"
        )
    if code == REFUSED_FLAG_TWICE:
        return RequestRefused("unknown_flag", where + "a flag is named twice")
    if code == REFUSED_NAME:
        return RequestRefused(
            "unknown_name", where + f"no member is named {_shown(p.text, p.text_size)!r}"
        )
    if code == REFUSED_TIME:
        return RequestRefused("invalid_time", where + _expected(field.type, field.width))
    if code == REFUSED_RANGE:
        return RequestRefused("out_of_range", where + _expected(field.type, field.width))
    return RequestRefused("wrong_type", where + _expected(field.type, field.width))


cdef str _expected(int type, int width):
    if type == TYPE_AMOUNT or type == TYPE_U64:
        return f"must be a decimal string from 0 to 2^{8 * width}-1, or a whole number up to 2^53"
    if type == TYPE_ID:
        return "must be a decimal string below 2^128, a dashed UUID, or a whole number up to 2^53"
    if type == TYPE_NUMBER:
        return f"must be a whole number from 0 to {2 ** (8 * <object>width) - 1}"
    if type == TYPE_TIME:
        return "must be a string of nanoseconds, or a time of RFC 3339 in UTC from 1970 to 2261"
    if type == TYPE_FLAGS:
        return "must be an array of flag names"
    if type == TYPE_DATE:
        return "must be a date YYYY-MM-DD, or the number YYYYMMDD"
    return "must be a string"


cdef bytes _slice(bytes body, slice_t at):
    return body[at.start : at.start + at.size]


def decode_events(str kind not None, bytes body not None):
    """Return (records, metadata, single) of a JSON request body of a kind of SCHEMAS.

    records: a writable record array of 1 to 8190 events, fields that are not given zero; metadata:
    {event index: canonical
    bytes}; single: whether the body was one object. Raises RequestRefused.
    """
    cdef Schema schema = SCHEMAS[kind]
    cdef parse_t p
    cdef uint32_t count = 0
    cdef uint32_t capacity = <uint32_t>min(EVENTS_MAX, len(body) // 3 + 1)
    cdef bint single = False
    cdef int code
    cdef size_t index
    cdef dict metadata = {}
    cdef uint8_t* place
    records = np.zeros(capacity, schema.dtype)
    place = <uint8_t*>cnp.PyArray_DATA(records)
    parse_begin(&p, schema, body, False)
    try:
        if len(body) < SMALL_BODY:
            # Letting go of the interpreter and waiting for it again would take longer than parsing.
            code = parse_body(&p, place, capacity, &count, &single)
        else:
            with nogil:
                code = parse_body(&p, place, capacity, &count, &single)
        if code != SCAN_OK:
            raise _refusal(&p, code)
        for index in range(p.slice_count):
            try:
                text = canonical_metadata(_slice(body, p.slices[index]))
            except RequestRefused as error:
                raise RequestRefused(
                    error.code, f"event {p.slices[index].event}, field metadata: {error.detail}"
                ) from None
            if text:
                metadata[p.slices[index].event] = text
    finally:
        free(p.slices)
    return records[:count], metadata, bool(single)


def decode_object(str kind not None, bytes body not None):
    """Return (record array of one, {raw field: its JSON bytes}, names of the fields given) of a
    body that is one object; raise RequestRefused."""
    cdef Schema schema = SCHEMAS[kind]
    cdef parse_t p
    cdef int code
    cdef size_t index
    records = np.zeros(1, schema.dtype)
    cdef uint8_t* place = <uint8_t*>cnp.PyArray_DATA(records)
    parse_begin(&p, schema, body, False)
    try:
        skip_space(&p.s)
        if p.s.at == p.s.end:
            raise RequestRefused("empty_request", "the body is empty; it must be an object")
        p.event, p.depth = NO_EVENT, 1
        code = parse_object(&p, place)
        if code == SCAN_OK:
            code = parse_end(&p)
        if code != SCAN_OK:
            raise _refusal(&p, code)
        raw = {
            (<bytes>p.schema.fields[p.slices[index].field].name).decode():
            _slice(body, p.slices[index])
            for index in range(p.slice_count)
        }
    finally:
        free(p.slices)
    given = frozenset(
        field["name"] for index, field in enumerate(schema.fields) if p.given >> <int>index & 1
    )
    return records, raw, given


def decode_page(str kind not None, str key not None, bytes body not None):
    """Return (records, found, metadata, others) of an answer: an object whose member ``key`` is an
    array of objects or nulls.

    found: a bool for each record; metadata: {index: canonical bytes}; others: {other member: its
    JSON bytes}. For the
    client: fields that it does not know are passed over. Raises RequestRefused when the body is no
    such answer.
    """
    cdef Schema schema = SCHEMAS[kind]
    cdef parse_t p
    cdef uint32_t count = 0
    cdef uint32_t capacity = <uint32_t>min(EVENTS_MAX, len(body) // 3 + 1)
    cdef int code = SCAN_OK
    cdef size_t index
    cdef const uint8_t* text = NULL
    cdef const uint8_t* start
    cdef size_t size = 0
    records, found = np.zeros(capacity, schema.dtype), np.zeros(capacity, "?")
    cdef uint8_t* place = <uint8_t*>cnp.PyArray_DATA(records)
    cdef uint8_t* found_place = <uint8_t*>cnp.PyArray_DATA(found)
    cdef dict others = {}
    wanted = key.encode()
    parse_begin(&p, schema, body, True)
    p.depth = 3
    try:
        skip_space(&p.s)
        if p.s.at[0] != 0x7B:
            raise _refusal(&p, REFUSED_TOP)
        p.s.at += 1
        skip_space(&p.s)
        while p.s.at[0] != 0x7D:
            code = scan_string(&p.s, &text, &size)
            name = (<const char*>text)[:size] if code == SCAN_OK else b""
            skip_space(&p.s)
            if code == SCAN_OK and p.s.at[0] != 0x3A:
                code = fault(&p.s)
            if code == SCAN_OK:
                p.s.at += 1
                skip_space(&p.s)
                start = p.s.at
                if name == wanted and start[0] == 0x5B:
                    with nogil:
                        code = parse_array(&p, place, found_place, capacity, &count)
                else:
                    code = skip_value(&p.s, 1)
                    others[name.decode()] = (<const char*>start)[: p.s.at - start]
            skip_space(&p.s)
            if code == SCAN_OK and p.s.at[0] == 0x2C:
                p.s.at += 1
                skip_space(&p.s)
            elif code == SCAN_OK and p.s.at[0] != 0x7D:
                code = fault(&p.s)
            if code != SCAN_OK:
                raise _refusal(&p, code)
        metadata = {
            p.slices[index].event: _slice(body, p.slices[index])
            for index in range(p.slice_count)
        }
    finally:
        free(p.slices)
    return records[:count], found[:count], metadata, others


def decode_results(bytes body not None):
    """Return (RESULT array, uint32 array of the events' indexes) of a JSON answer to a write;
    raise RequestRefused."""
    results, _, _, _ = decode_page("results", "results", body)
    indexes = results["reserved"].copy()
    results["reserved"] = 0
    return results, indexes


def decode_ids(bytes body not None):
    """Return the U128 array of a body that is an array of 1 to 8190 ids, or an object with that
    array as ``ids``."""
    cdef Schema schema = SCHEMAS["transfers"]
    cdef parse_t p
    cdef uint32_t count = 0
    cdef uint32_t capacity = <uint32_t>min(EVENTS_MAX, len(body) // 2 + 1)
    cdef int code = SCAN_OK
    cdef const uint8_t* text = NULL
    cdef size_t size = 0
    cdef u128 value = 0
    cdef bint wrapped
    ids = np.zeros(capacity, layout.U128)
    cdef uint8_t* place = <uint8_t*>cnp.PyArray_DATA(ids)
    parse_begin(&p, schema, body, False)
    skip_space(&p.s)
    if p.s.at == p.s.end:
        raise RequestRefused("empty_request", "the body holds no id")
    wrapped = p.s.at[0] == 0x7B
    p.event = NO_EVENT
    if wrapped:
        p.s.at += 1
        skip_space(&p.s)
        if p.s.at[0] == 0x7D:
            raise RequestRefused("missing_field", "field ids: is missing")
        code = scan_string(&p.s, &text, &size)
        if code == SCAN_OK and (size != 3 or memcmp(text, b"ids", 3) != 0):
            p.text, p.text_size = text, size
            code = REFUSED_UNKNOWN_FIELD
        skip_space(&p.s)
        if code == SCAN_OK and p.s.at[0] != 0x3A:
            code = fault(&p.s)
        if code == SCAN_OK:
            p.s.at += 1
            skip_space(&p.s)
    if code == SCAN_OK:
        code = SCAN_OK if p.s.at[0] == 0x5B else REFUSED_TYPE
    if code == SCAN_OK:
        p.s.at += 1
        skip_space(&p.s)
        while p.s.at[0] != 0x5D or count:
            skip_space(&p.s)
            if count == capacity:
                code = REFUSED_TOO_MANY
                break
            code = parse_whole(&p, U128_MAX, True, True, &value)
            if code != SCAN_OK:
                break
            store(place + 16 * <size_t>count, 16, value)
            count += 1
            skip_space(&p.s)
            if p.s.at[0] == 0x5D:
                break
            if p.s.at[0] != 0x2C:
                code = fault(&p.s)
                break
            p.s.at += 1
    if code == SCAN_OK:
        p.s.at += 1
        skip_space(&p.s)
        if wrapped and p.s.at[0] == 0x2C:
            code = REFUSED_UNKNOWN_FIELD
            p.text, p.text_size = b"more than ids", 13
        elif wrapped and p.s.at[0] != 0x7D:
            code = fault(&p.s)
        elif wrapped:
            p.s.at += 1
    if code == SCAN_OK:
        code = parse_end(&p)
    if code == SCAN_OK and count:
        return ids[:count]
    if code == SCAN_OK:
        raise RequestRefused("empty_request", "the body holds no id")
    refused = _refusal(&p, code)
    if refused.code == "malformed_json" or (code != REFUSED_TYPE and code != REFUSED_RANGE):
        raise refused
    raise RequestRefused(
        "wrong_type" if code == REFUSED_TYPE else "out_of_range",
        f"id {count}: {_expected(TYPE_ID, 16)}; the body must be an array of ids",
    )


def parse_id(str text not None):
    """Return the integer of an id as it stands in a path: decimal or a dashed UUID; raise
    ValueError for neither."""
    cdef bytes raw = text.encode("utf-8", "surrogateescape")
    cdef u128 value = 0
    cdef const uint8_t* place = <const uint8_t*>PyBytes_AS_STRING(raw)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(raw)
    if parse_text_number(place, size, True, U128_MAX, &value) != SCAN_OK:
        raise ValueError(_expected(TYPE_ID, 16))
    return int(<uint64_t>(value >> 64)) << 64 | int(<uint64_t>value)


def parse_time(str text not None):
    """Return the nanoseconds of a time as it stands in a query string: nanoseconds or RFC 3339;
    raise ValueError for neither."""
    cdef bytes raw = text.encode("utf-8", "surrogateescape")
    cdef const uint8_t* place = <const uint8_t*>PyBytes_AS_STRING(raw)
    cdef size_t size = <size_t>PyBytes_GET_SIZE(raw)
    cdef u128 value = 0
    if parse_text_number(place, size, False, 0xFFFFFFFFFFFFFFFFu, &value) == SCAN_OK:
        return int(<uint64_t>value)
    if not time_from_text(place, size, &value):
        raise ValueError(_expected(TYPE_TIME, 8))
    return int(<uint64_t>value)
