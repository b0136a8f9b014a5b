"""Records to JSON: requests for the client, answers for the server. The other half of
``ledger._codec``, which exports it.

Each record is written in one pass into a buffer that was made large enough before; digits come in
pairs from a table.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ledger._layout cimport (
    ACCOUNT_CLOSED,
    ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS,
    ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS,
    ACCOUNT_SETTINGS_CEILING,
    ACCOUNT_SETTINGS_CREDITS_BLOCKED,
    ACCOUNT_SETTINGS_DEBITS_BLOCKED,
    ACCOUNT_SETTINGS_OVERDRAFT,
    account_t,
)
from ledger._scan cimport u128
from ledger._schema cimport (
    TYPE_AMOUNT,
    TYPE_DATE,
    TYPE_ENUM,
    TYPE_FLAGS,
    TYPE_ID,
    TYPE_RAW,
    TYPE_TIME,
    TYPE_U64,
    Schema,
    StatusNames,
    field_t,
    schema_t,
)

cimport numpy as cnp

import numpy as np

from ledger import layout
from ledger._schema import SCHEMAS, STATUS_NAMES

cnp.import_array()

cdef uint8_t[200] PAIRS
cdef int _index
for _index in range(100):
    PAIRS[2 * _index] = 0x30 + _index // 10
    PAIRS[2 * _index + 1] = 0x30 + _index % 10

cdef const char* SETTING_NAMES[4]
cdef uint32_t SETTING_SIZES[4]
_setting_names = [flag.name.encode() for flag in layout.ACCOUNT_SETTINGS_FLAGS]
for _index in range(4):
    SETTING_NAMES[_index] = _setting_names[_index]
    SETTING_SIZES[_index] = <uint32_t>len(_setting_names[_index])

cdef u128 TEN_19 = <u128>10000000000000000000u


# ----------------------------------------------------------------------------------------------
# Buffer and values
# ----------------------------------------------------------------------------------------------

cdef struct buffer_t:
    uint8_t* data
    size_t used
    size_t capacity


cdef int reserve(buffer_t* b, size_t size) except -1:
    """Make room for `size` more bytes."""
    cdef uint8_t* grown
    if b.used + size <= b.capacity:
        return 0
    b.capacity = (b.used + size) * 3 // 2
    grown = <uint8_t*>realloc(b.data, b.capacity)
    if grown == NULL:
        raise MemoryError
    b.data = grown
    return 0


cdef inline void put(buffer_t* b, const void* text, size_t size) noexcept nogil:
    memcpy(b.data + b.used, text, size)
    b.used += size


cdef inline void put_char(buffer_t* b, uint8_t c) noexcept nogil:
    b.data[b.used] = c
    b.used += 1


cdef int put_bytes(buffer_t* b, bytes text) except -1:
    reserve(b, <size_t>PyBytes_GET_SIZE(text) + 1)
    put(b, PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
    return 0


cdef void put_u64(buffer_t* b, uint64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int at = 20
    cdef uint64_t pair
    while value >= 100:
        pair = value % 100
        value //= 100
        at -= 2
        memcpy(digits + at, PAIRS + 2 * pair, 2)
    if value >= 10:
        at -= 2
        memcpy(digits + at, PAIRS + 2 * value, 2)
    else:
        at -= 1
        digits[at] = <uint8_t>(0x30 + value)
    put(b, digits + at, <size_t>(20 - at))


cdef void put_padded(buffer_t* b, uint64_t value, int width) noexcept nogil:
    """Exactly `width` digits."""
    cdef uint8_t* out = b.data + b.used
    cdef int at = width
    while at >= 2:
        at -= 2
        memcpy(out + at, PAIRS + 2 * (value % 100), 2)
        value //= 100
    if at:
        out[0] = <uint8_t>(0x30 + value % 10)
    b.used += <size_t>width


cdef void put_u128(buffer_t* b, u128 value) noexcept nogil:
    cdef u128 upper
    if value <= <u128>0xFFFFFFFFFFFFFFFFu:
        put_u64(b, <uint64_t>value)
        return
    upper = value / TEN_19
    if upper < TEN_19:
        put_u64(b, <uint64_t>upper)
    else:
        put_u64(b, <uint64_t>(upper / TEN_19))
        put_padded(b, <uint64_t>(upper % TEN_19), 19)
    put_padded(b, <uint64_t>(value % TEN_19), 19)


cdef void put_time(buffer_t* b, uint64_t nanoseconds) noexcept nogil:
    """RFC 3339 in UTC with nine digits: the civil date from days, in 400-year eras that begin on
    March 1."""
    cdef uint64_t seconds = nanoseconds // 1000000000u
    cdef uint64_t days = seconds // 86400 + 719468
    cdef uint64_t era = days // 146097
    cdef uint64_t day_of_era = days % 146097
    cdef uint64_t year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146096
    ) // 365
    cdef uint64_t day = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef uint64_t shifted = (5 * day + 2) // 153
    cdef uint64_t month = shifted + 3 if shifted < 10 else shifted - 9
    cdef uint64_t year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    put_padded(b, year, 4)
    put_char(b, 0x2D)
    put_padded(b, month, 2)
    put_char(b, 0x2D)
    put_padded(b, day - (153 * shifted + 2) // 5 + 1, 2)
    put_char(b, 0x54)
    seconds %= 86400
    put_padded(b, seconds // 3600, 2)
    put_char(b, 0x3A)
    put_padded(b, seconds // 60 % 60, 2)
    put_char(b, 0x3A)
    put_padded(b, seconds % 60, 2)
    put_char(b, 0x2E)
    put_padded(b, nanoseconds % 1000000000u, 9)
    put_char(b, 0x5A)


cdef void put_value(buffer_t* b, const field_t* f, const uint8_t* place) noexcept nogil:
    cdef u128 wide = 0
    cdef uint64_t value = 0
    cdef uint32_t index
    cdef bint first = True
    if f.width == 16:
        memcpy(&wide, place, 16)
    elif f.width == 8:
        memcpy(&value, place, 8)
    elif f.width == 4:
        memcpy(&value, place, 4)
    elif f.width == 2:
        memcpy(&value, place, 2)
    else:
        value = place[0]
    if f.type == TYPE_AMOUNT or f.type == TYPE_ID:
        put_char(b, 0x22)
        put_u128(b, wide)
        put_char(b, 0x22)
    elif f.type == TYPE_U64 or f.type == TYPE_TIME:
        put_char(b, 0x22)
        put_u64(b, value)
        put_char(b, 0x22)
    elif f.type == TYPE_FLAGS:
        put_char(b, 0x5B)
        for index in range(f.name_count):
            if value & f.names[index].value:
                if not first:
                    put_char(b, 0x2C)
                first = False
                put_char(b, 0x22)
                put(b, f.names[index].text, f.names[index].size)
                put_char(b, 0x22)
        put_char(b, 0x5D)
    elif f.type == TYPE_ENUM:
        put_char(b, 0x22)
        for index in range(f.name_count):
            if value == f.names[index].value:
                put(b, f.names[index].text, f.names[index].size)
        put_char(b, 0x22)
    elif f.type == TYPE_DATE and value <= 99999999:
        put_char(b, 0x22)
        put_padded(b, value // 10000, 4)
        put_char(b, 0x2D)
        put_padded(b, value // 100 % 100, 2)
        put_char(b, 0x2D)
        put_padded(b, value % 100, 2)
        put_char(b, 0x22)
    else:
        put_u64(b, value)


cdef inline bint is_zero(const field_t* f, const uint8_t* place) noexcept nogil:
    cdef int index
    for index in range(f.width):
        if place[index]:
            return False
    return True


cdef void put_record(
    buffer_t* b, const schema_t* schema, const uint8_t* record, bint sparse
) noexcept nogil:
    """All fields without the closing brace; `sparse` leaves out those that are zero and need not
    be given."""
    cdef int index
    cdef const field_t* f
    cdef uint64_t timestamp
    cdef uint64_t always = schema.required | schema.required_unless_void
    put_char(b, 0x7B)
    for index in range(schema.field_count):
        f = &schema.fields[index]
        if f.type == TYPE_RAW:
            continue
        if sparse and not always >> index & 1 and is_zero(f, record + f.offset):
            continue
        if b.data[b.used - 1] != 0x7B:
            put_char(b, 0x2C)
        put(b, f.prefix, f.prefix_size)
        put_value(b, f, record + f.offset)
    if not sparse and schema.timestamp_offset >= 0:
        memcpy(&timestamp, record + schema.timestamp_offset, 8)
        put(b, <const char*>b',"time":"', 9)
        put_time(b, timestamp)
        put_char(b, 0x22)


cdef object _packed(records, dtype):
    """The records as one contiguous array of the layout's dtype; a caller's mistake is a
    TypeError."""
    if records.dtype != dtype or records.ndim != 1:
        raise TypeError(f"must be a 1-D array of {dtype.itemsize}-byte records of the layout")
    return np.ascontiguousarray(records)


# ----------------------------------------------------------------------------------------------
# Requests and answers
# ----------------------------------------------------------------------------------------------

def encode_records(
    str kind not None, records not None, *, found=None, metadata=None, extras=None, bint lines=False
):
    """Return the JSON array of records of a kind of SCHEMAS: all fields, and ``time`` where there
    is a timestamp.

    found: a bool for each record, False writes null. metadata: for each record canonical bytes or
    None, or
    {index: bytes}. extras: for each record the JSON bytes of further members (``"balance":"1"``)
    or b"". lines: one
    object a line (NDJSON) in place of an array.
    """
    cdef Schema schema = SCHEMAS[kind]
    cdef buffer_t b
    cdef Py_ssize_t index, count
    cdef const uint8_t* place
    cdef dict metadata_by_index = None
    cdef size_t room = schema.c.text_size_max + 64
    records = _packed(records, schema.dtype)
    if metadata is not None:
        pairs = metadata.items() if isinstance(metadata, dict) else enumerate(metadata)
        metadata_by_index = {at: text for at, text in pairs if text}
    place = <const uint8_t*>cnp.PyArray_DATA(records)
    count = len(records)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        reserve(&b, 64 + <size_t>count * room // 2)
        if not lines:
            put_char(&b, 0x5B)
        for index in range(count):
            reserve(&b, room)
            if index and not lines:
                put_char(&b, 0x2C)
            if found is not None and not found[index]:
                put(&b, <const char*>b"null", 4)
                continue
            put_record(&b, &schema.c, place + <size_t>index * schema.c.item_size, False)
            if metadata_by_index and index in metadata_by_index:
                put_bytes(&b, b',"metadata":')
                put_bytes(&b, metadata_by_index[index])
            if extras is not None and extras[index]:
                put_bytes(&b, b",")
                put_bytes(&b, extras[index])
            reserve(&b, 2)
            put_char(&b, 0x7D)
            if lines:
                put_char(&b, 0x0A)
        if not lines:
            reserve(&b, 1)
            put_char(&b, 0x5D)
        return PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.used)
    finally:
        free(b.data)


cdef inline void put_sums(buffer_t* b, u128 more, u128 less) noexcept nogil:
    """The difference, with its sign."""
    if more >= less:
        put_u128(b, more - less)
    else:
        put_char(b, 0x2D)
        put_u128(b, less - more)


cdef inline u128 room(u128 have, u128 spent, u128 more) noexcept nogil:
    """have + more - spent, not below 0 and not above 2^128-1."""
    cdef u128 rest
    if have >= spent:
        rest = have - spent
        return rest + more if rest <= ~(<u128>0) - more else ~(<u128>0)
    return more - (spent - have) if more > spent - have else 0


cdef void put_standing(
    buffer_t* b, const account_t* account, const uint8_t* details, bint credit_normal
) noexcept nogil:
    """The members that say where an account stands: what its sums, flags and settings amount to."""
    cdef u128 overdraft, ceiling, dp, dr, cp, cr
    cdef uint64_t entry_count
    cdef uint32_t settings, bit
    cdef bint first = True
    memcpy(&dp, &account.debits_pending, 16)
    memcpy(&dr, &account.debits_posted, 16)
    memcpy(&cp, &account.credits_pending, 16)
    memcpy(&cr, &account.credits_posted, 16)
    memcpy(&overdraft, details, 16)
    memcpy(&ceiling, details + 16, 16)
    memcpy(&entry_count, details + 32, 8)
    memcpy(&settings, details + 52, 4)
    put(b, <const char*>b',"normal_side":"', 16)
    put(b, <const char*>(b"credit" if credit_normal else b"debit"), 6 if credit_normal else 5)
    put(b, <const char*>b'","balance":"', 13)
    if credit_normal:
        put_sums(b, cr, dr)
    else:
        put_sums(b, dr, cr)
    put(b, <const char*>b'","available":', 14)
    if account.flags & ACCOUNT_DEBITS_MUST_NOT_EXCEED_CREDITS or settings & (
        ACCOUNT_SETTINGS_OVERDRAFT | ACCOUNT_SETTINGS_DEBITS_BLOCKED
    ):
        put_char(b, 0x22)
        if account.flags & ACCOUNT_CLOSED or settings & ACCOUNT_SETTINGS_DEBITS_BLOCKED:
            put_char(b, 0x30)
        else:
            put_u128(b, room(cr, dp + dr, overdraft))
        put_char(b, 0x22)
    elif account.flags & ACCOUNT_CREDITS_MUST_NOT_EXCEED_DEBITS or settings & (
        ACCOUNT_SETTINGS_CEILING | ACCOUNT_SETTINGS_CREDITS_BLOCKED
    ):
        put_char(b, 0x22)
        if account.flags & ACCOUNT_CLOSED or settings & ACCOUNT_SETTINGS_CREDITS_BLOCKED:
            put_char(b, 0x30)
        else:
            put_u128(b, room(dr, cp + cr, ceiling))
        put_char(b, 0x22)
    else:
        put(b, <const char*>b"null", 4)
    put(b, <const char*>b',"entry_count":"', 16)
    put_u64(b, entry_count)
    put(b, <const char*>b'","settings":[', 14)
    for bit in range(4):
        if settings >> bit & 1:
            put(b, <const char*>b',"' if not first else <const char*>b'"', 1 if first else 2)
            first = False
            put(b, SETTING_NAMES[bit], SETTING_SIZES[bit])
            put_char(b, 0x22)
    put(b, <const char*>b'],"overdraft":"', 15)
    put_u128(b, overdraft)
    put(b, <const char*>b'","ceiling":"', 13)
    put_u128(b, ceiling)
    put_char(b, 0x22)


def encode_accounts(
    accounts not None, details not None, credit_normal not None, *, found=None, extras=None
):
    """Return the JSON array of accounts with where they stand beside their fields.

    details: the ACCOUNT_DETAILS of the same accounts; credit_normal: a bool for each, whether its
    balance is credits
    minus debits. The members beyond the record: normal_side, balance (signed, on the normal side),
    available (what may
    still be debited, or credited where only that is limited; null where nothing limits it),
    entry_count, settings,
    overdraft, ceiling. found, extras: as for encode_records.
    """
    cdef Schema schema = SCHEMAS["accounts"]
    cdef buffer_t b
    cdef Py_ssize_t index, count
    cdef const uint8_t* place
    cdef const uint8_t* details_place
    cdef const uint8_t* normal_place
    cdef size_t size = schema.c.text_size_max + 400
    accounts = _packed(accounts, schema.dtype)
    details = np.ascontiguousarray(details)
    credit_normal = np.ascontiguousarray(credit_normal, "?")
    if details.dtype.itemsize != 56 or not (
        len(details) == len(accounts) == len(credit_normal)
    ):
        raise TypeError("details and credit_normal must be those of the accounts")
    place = <const uint8_t*>cnp.PyArray_DATA(accounts)
    details_place = <const uint8_t*>cnp.PyArray_DATA(details)
    normal_place = <const uint8_t*>cnp.PyArray_DATA(credit_normal)
    count = len(accounts)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        reserve(&b, 64 + <size_t>count * size // 2)
        put_char(&b, 0x5B)
        for index in range(count):
            reserve(&b, size)
            if index:
                put_char(&b, 0x2C)
            if found is not None and not found[index]:
                put(&b, <const char*>b"null", 4)
                continue
            put_record(&b, &schema.c, place + 128 * index, False)
            put_standing(
                &b,
                <const account_t*>(place + 128 * index),
                details_place + 56 * index,
                normal_place[index],
            )
            if extras is not None and extras[index]:
                put_bytes(&b, b",")
                put_bytes(&b, extras[index])
            reserve(&b, 2)
            put_char(&b, 0x7D)
        reserve(&b, 1)
        put_char(&b, 0x5D)
        return PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.used)
    finally:
        free(b.data)


def encode_events(str kind not None, records not None, *, metadata=None):
    """Return the JSON array that asks for these events: fields that are zero and need not be given
    are left out.

    metadata: {index: JSON bytes of an object}. Raises ValueError for what JSON cannot say: bits
    that are no flag, a
    reserved field that is not zero.
    """
    cdef Schema schema = SCHEMAS[kind]
    cdef buffer_t b
    cdef Py_ssize_t index, count
    cdef const uint8_t* place
    cdef size_t room = schema.c.text_size_max + 64
    cdef dict metadata_by_index = metadata or {}
    records = _packed(records, schema.dtype)
    for name in schema.unwritten:
        if np.ascontiguousarray(records[name]).view("u1").any():
            raise ValueError(f"{name} is not zero, which only the binary form can say")
    for field in schema.fields:
        if field["type"] != "flags":
            continue
        if int(records[field["name"]].max(initial=0)) >> <object>len(field["names"]):
            raise ValueError("a reserved flag is set, which only the binary form can say")
    place = <const uint8_t*>cnp.PyArray_DATA(records)
    count = len(records)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        reserve(&b, 64 + <size_t>count * room // 2)
        put_char(&b, 0x5B)
        for index in range(count):
            reserve(&b, room)
            if index:
                put_char(&b, 0x2C)
            put_record(&b, &schema.c, place + <size_t>index * schema.c.item_size, True)
            if metadata_by_index and index in metadata_by_index:
                put_bytes(&b, b',"metadata":')
                put_bytes(&b, metadata_by_index[index])
            reserve(&b, 2)
            put_char(&b, 0x7D)
        put_char(&b, 0x5D)
        return PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.used)
    finally:
        free(b.data)


def encode_results(
    str kind not None, results not None, *, bint only_refused=False, explanations=None
):
    """Return ``{"results": [...]}`` for the RESULT array of a request of a kind; with
    ``only_refused`` no created ones.

    explanations: {index: JSON bytes}, written as ``explanation``.
    """
    cdef StatusNames names = STATUS_NAMES[kind]
    cdef buffer_t b
    cdef Py_ssize_t index, count
    cdef const uint8_t* place
    cdef uint64_t timestamp
    cdef uint32_t status
    cdef bint first = True
    results = _packed(results, layout.RESULT)
    place = <const uint8_t*>cnp.PyArray_DATA(results)
    count = len(results)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        reserve(&b, 64 + <size_t>count * (100 if not only_refused else 8))
        put(&b, <const char*>b'{"results":[', 12)
        for index in range(count):
            memcpy(&timestamp, place + 16 * index, 8)
            memcpy(&status, place + 16 * index + 8, 4)
            if only_refused and status == <uint32_t>4294967295u:
                continue
            reserve(&b, 200)
            if not first:
                put_char(&b, 0x2C)
            first = False
            put(&b, <const char*>b'{"index":', 9)
            put_u64(&b, <uint64_t>index)
            put(&b, <const char*>b',"status":"', 11)
            if status == <uint32_t>4294967295u:
                put(&b, <const char*>b"created", 7)
            elif status < 1100 and names.text[status] != NULL:
                put(&b, names.text[status], names.size[status])
            else:
                raise AssertionError(f"status {status} of event {index} is none of {kind}")
            put(&b, <const char*>b'","code":', 9)
            put_u64(&b, status)
            put(&b, <const char*>b',"timestamp":"', 14)
            put_u64(&b, timestamp)
            put_char(&b, 0x22)
            if explanations and index in explanations:
                put_bytes(&b, b',"explanation":')
                put_bytes(&b, explanations[index])
                reserve(&b, 8)
            put_char(&b, 0x7D)
        reserve(&b, 2)
        put(&b, <const char*>b"]}", 2)
        return PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.used)
    finally:
        free(b.data)


def encode_ids(ids not None):
    """Return the JSON array of decimal strings of a U128 array."""
    cdef buffer_t b
    cdef Py_ssize_t index, count
    cdef const uint8_t* place
    cdef u128 value
    ids = _packed(ids, layout.U128)
    place = <const uint8_t*>cnp.PyArray_DATA(ids)
    count = len(ids)
    b.data, b.used, b.capacity = NULL, 0, 0
    try:
        reserve(&b, 8 + 48 * <size_t>count)
        put_char(&b, 0x5B)
        for index in range(count):
            memcpy(&value, place + 16 * index, 16)
            if index:
                put_char(&b, 0x2C)
            put_char(&b, 0x22)
            put_u128(&b, value)
            put_char(&b, 0x22)
        put_char(&b, 0x5D)
        return PyBytes_FromStringAndSize(<char*>b.data, <Py_ssize_t>b.used)
    finally:
        free(b.data)


def format_time(uint64_t nanoseconds):
    """Return a timestamp in RFC 3339, UTC, with nine digits after the second."""
    cdef uint8_t text[40]
    cdef buffer_t b
    b.data, b.used, b.capacity = text, 0, 40
    put_time(&b, nanoseconds)
    return text[: b.used].decode("ascii")
