"""Canonical JSON (RFC 8785) of metadata objects: one form for what means the same, so that it can
be hashed and compared.

Keys are sorted by their UTF-16 code units, strings are written with the fewest escapes, numbers as
ECMAScript writes
them. Stricter than RFC 8785 where a silent change would be worse than a refusal: a key may not
repeat, text must be
well-formed Unicode, and a number must be one that its canonical form writes exactly (0.1 and 1.50
are, 0.1000000000000000055
and 9007199254740993 are not: they belong into a string).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc

from ledger._scan cimport (
    SCAN_DEPTH_MAX,
    SCAN_END,
    SCAN_OK,
    SCAN_SURROGATE,
    SCAN_UTF8,
    fault,
    put_utf8,
    scan_begin,
    scan_char,
    scanner_t,
    skip_literal,
    skip_number,
    skip_plain,
    skip_space,
)

from ledger.errors import RequestRefused
from ledger.layout import METADATA_BYTES_MAX

cdef const char* HEX = b"0123456789abcdef"


class NotCanonical(ValueError):
    """The text has no canonical form; the message says why."""


def format_number(double value):
    """Return a finite number as ECMAScript's Number.prototype.toString writes it (RFC 8785,
    3.2.2.3)."""
    if value != value or value in (float("inf"), float("-inf")):
        raise NotCanonical("a number must be finite")
    sign, digits, point = _decimal(repr(value))
    cdef Py_ssize_t count = len(digits)
    if not digits:
        return "0"
    if count <= point <= 21:
        text = digits + "0" * (point - count)
    elif 0 < point <= 21:
        text = digits[:point] + "." + digits[point:]
    elif -6 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        exponent = point - 1
        text = digits[0] + ("." + digits[1:] if count > 1 else "")
        text += ("e+" if exponent >= 0 else "e-") + str(abs(exponent))
    return sign + text


cdef tuple _decimal(str text):
    """A number's sign, its digits without zeros at either end, and the place of the point:
    0.digits * 10**point."""
    sign = "-" if text.startswith("-") else ""
    mantissa, _, exponent = text.lstrip("-").replace("E", "e").partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    stripped = digits.lstrip("0")
    if not stripped:
        return "", "", 0
    if len(exponent) > 8:
        raise NotCanonical("a number has an exponent out of range")
    point = len(whole) - (len(digits) - len(stripped)) + (int(exponent) if exponent else 0)
    return sign, stripped.rstrip("0"), point


cdef bytes _number(scanner_t* s):
    cdef const uint8_t* start = s.at
    cdef int code = skip_number(s)
    if code != SCAN_OK:
        raise _broken(code)
    if s.at - start > 400:
        raise NotCanonical("a number is longer than 400 characters")
    text = start[: s.at - start].decode("ascii")
    if len(text) < 16 and text.isdigit():
        return text.encode("ascii")
    written = _decimal(text)
    canonical = format_number(float(text)) if written[1] else "0"
    if _decimal(canonical) != written:
        raise NotCanonical(
            f"the number {text[:40]} would be kept as {canonical}; write it as a string"
        )
    return canonical.encode("ascii")


cdef object _broken(int code):
    if code == SCAN_END:
        return NotCanonical("it ends too early")
    if code == SCAN_UTF8:
        return NotCanonical("it is not UTF-8")
    if code == SCAN_SURROGATE:
        return NotCanonical("a lone surrogate is no character")
    return NotCanonical("it is not JSON")


cdef bytes _string(scanner_t* s):
    """A string with its quotes in canonical form; the scanner's `at` is on the opening quote and
    moves behind the closing."""
    cdef const uint8_t* start = s.at
    cdef uint8_t* out
    cdef uint32_t point = 0
    cdef size_t used = 0
    cdef int code
    if s.at[0] != 0x22:
        raise _broken(fault(s))
    s.at += 1
    skip_plain(s)
    if s.at[0] == 0x22:
        s.at += 1
        return start[: s.at - start]
    s.at = start + 1
    out = <uint8_t*>malloc(_string_size(s) + 16)
    if out == NULL:
        raise MemoryError
    try:
        s.at = start + 1
        out[0] = 0x22
        used = 1
        while s.at[0] != 0x22:
            code = scan_char(s, &point)
            if code != SCAN_OK:
                raise _broken(code)
            used += _put_char(out + used, point)
        s.at += 1
        out[used] = 0x22
        return PyBytes_FromStringAndSize(<char*>out, <Py_ssize_t>(used + 1))
    finally:
        free(out)


cdef size_t _string_size(scanner_t* s) noexcept:
    """Bytes up to the closing quote (or the end): an escape never becomes longer than it was
    written."""
    cdef const uint8_t* p = s.at
    while p < s.end and p[0] != 0x22:
        p += 2 if p[0] == 0x5C else 1
    return <size_t>(p - s.at)


cdef size_t _put_char(uint8_t* out, uint32_t point) noexcept:
    cdef uint8_t short = 0
    if point == 0x22 or point == 0x5C:
        short = <uint8_t>point
    elif point == 8:
        short = 0x62
    elif point == 9:
        short = 0x74
    elif point == 10:
        short = 0x6E
    elif point == 12:
        short = 0x66
    elif point == 13:
        short = 0x72
    if short:
        out[0] = 0x5C
        out[1] = short
        return 2
    if point < 0x20:
        out[0] = 0x5C
        out[1] = 0x75
        out[2] = 0x30
        out[3] = 0x30
        out[4] = HEX[point >> 4]
        out[5] = HEX[point & 15]
        return 6
    return <size_t>put_utf8(out, point)


cdef bytes _value(scanner_t* s, int depth):
    cdef uint8_t c
    cdef const uint8_t* start
    cdef int code
    skip_space(s)
    c = s.at[0]
    if c == 0x22:
        return _string(s)
    if c == 0x7B:
        return _object(s, depth)
    if c == 0x5B:
        return _array(s, depth)
    if c == 0x2D or 0x30 <= c <= 0x39:
        return _number(s)
    start = s.at
    code = skip_literal(s)
    if code != SCAN_OK:
        raise _broken(code)
    return start[: s.at - start]


cdef bytes _array(scanner_t* s, int depth):
    cdef list items = []
    if depth == SCAN_DEPTH_MAX:
        raise NotCanonical(f"it is nested deeper than {SCAN_DEPTH_MAX}")
    s.at += 1
    skip_space(s)
    if s.at[0] == 0x5D:
        s.at += 1
        return b"[]"
    while True:
        items.append(_value(s, depth + 1))
        skip_space(s)
        if s.at[0] == 0x5D:
            s.at += 1
            return b"[" + b",".join(items) + b"]"
        if s.at[0] != 0x2C:
            raise _broken(fault(s))
        s.at += 1


cdef bytes _sort_key(bytes key):
    """Order by UTF-16 code units: that of the bytes of UTF-16BE. The quotes and escapes are taken
    off."""
    return _unescape(key).encode("utf-16-be")


cdef str _unescape(bytes key):
    cdef scanner_t s
    cdef uint32_t point = 0
    if b"\\" not in key:
        return key[1 : len(key) - 1].decode("utf-8")
    out = []
    scan_begin(&s, <const uint8_t*>PyBytes_AS_STRING(key), <size_t>PyBytes_GET_SIZE(key))
    s.at += 1
    while s.at[0] != 0x22:
        scan_char(&s, &point)
        out.append(chr(point))
    return "".join(out)


cdef bytes _object(scanner_t* s, int depth):
    cdef dict members = {}
    cdef bytes key
    cdef list keys
    if depth == SCAN_DEPTH_MAX:
        raise NotCanonical(f"it is nested deeper than {SCAN_DEPTH_MAX}")
    s.at += 1
    skip_space(s)
    if s.at[0] == 0x7D:
        s.at += 1
        return b"{}"
    while True:
        skip_space(s)
        key = _string(s)
        if key in members:
            raise NotCanonical(f"the key {key[:64].decode(errors='replace')} appears twice")
        skip_space(s)
        if s.at[0] != 0x3A:
            raise _broken(fault(s))
        s.at += 1
        members[key] = _value(s, depth + 1)
        skip_space(s)
        if s.at[0] == 0x7D:
            s.at += 1
            break
        if s.at[0] != 0x2C:
            raise _broken(fault(s))
        s.at += 1
    keys = list(members)
    if len(keys) > 1:
        keys.sort(key=_sort_key)
    return b"{" + b",".join([key + b":" + members[key] for key in keys]) + b"}"


def canonical(bytes text not None):
    """Return the RFC 8785 form of one JSON value in UTF-8; raise NotCanonical, which says what is
    wrong with it."""
    cdef scanner_t s
    scan_begin(&s, <const uint8_t*>PyBytes_AS_STRING(text), <size_t>PyBytes_GET_SIZE(text))
    out = _value(&s, 0)
    skip_space(&s)
    if s.at != s.end:
        raise NotCanonical("something follows the value")
    return out


def canonical_metadata(bytes text not None):
    """Return the canonical form of a metadata object, or b"" for {}, which is the same as none.

    Raises RequestRefused: invalid_metadata for what is no object or has no canonical form,
    metadata_too_large above
    4096 canonical bytes.
    """
    try:
        out = canonical(text)
    except NotCanonical as error:
        raise RequestRefused("invalid_metadata", str(error)) from None
    if not out.startswith(b"{"):
        raise RequestRefused("invalid_metadata", "must be an object")
    if len(out) > METADATA_BYTES_MAX:
        raise RequestRefused(
            "metadata_too_large",
            f"{len(out)} bytes in canonical form; at most {METADATA_BYTES_MAX}",
        )
    return b"" if out == b"{}" else out
