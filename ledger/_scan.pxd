# Strict JSON scanning (RFC 8259) over the bytes of a Python bytes object: header-only, shared by
# _codec and _canonical.
#
# A Python bytes object ends with a NUL that is not counted. NUL is legal nowhere in JSON, so every
# loop stops there and
# only eight-byte loads compare with the end. Each function returns 0 or one of the SCAN_ codes,
# with `at` at the fault.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from *:
    """
    typedef unsigned __int128 sanyuan_u128;
    static const unsigned long long sanyuan_ten_power[8] = {1, 10, 100, 1000, 10000, 100000,
    1000000, 10000000};
    """
    # Cython takes this for 64 bits wide: cast the other operand of a division, or it casts this
    # one down.
    ctypedef unsigned long long u128 "sanyuan_u128"
    const uint64_t TEN_POWER "sanyuan_ten_power"[8]
    int __builtin_ctzll(unsigned long long) nogil

cdef enum:
    SCAN_OK = 0
    SCAN_SYNTAX = 1
    SCAN_END = 2
    SCAN_UTF8 = 3
    SCAN_SURROGATE = 4
    SCAN_DEPTH = 5
    SCAN_DEPTH_MAX = 64
    SCRATCH_SIZE = 512

cdef struct scanner_t:
    const uint8_t* begin
    const uint8_t* at
    const uint8_t* end
    uint8_t scratch[SCRATCH_SIZE]


cdef inline void scan_begin(scanner_t* s, const uint8_t* text, size_t size) noexcept nogil:
    s.begin = text
    s.at = text
    s.end = text + size


cdef inline void skip_space(scanner_t* s) noexcept nogil:
    if s.at[0] > 0x20:
        return
    while s.at[0] == 0x20 or s.at[0] == 0x0A or s.at[0] == 0x0D or s.at[0] == 0x09:
        s.at += 1


cdef inline int fault(scanner_t* s) noexcept nogil:
    """The code for an unexpected byte at `at`: the end of the text, or plain wrong."""
    return SCAN_END if s.at >= s.end else SCAN_SYNTAX


cdef inline int hex_digit(uint8_t c) noexcept nogil:
    if 0x30 <= c <= 0x39:
        return c - 0x30
    c |= 0x20
    if 0x61 <= c <= 0x66:
        return c - 0x57
    return -1


cdef inline int scan_hex4(scanner_t* s, uint32_t* unit) noexcept nogil:
    cdef int _index, digit
    unit[0] = 0
    for _index in range(4):
        digit = hex_digit(s.at[0])
        if digit < 0:
            return fault(s)
        unit[0] = unit[0] << 4 | <uint32_t>digit
        s.at += 1
    return SCAN_OK


cdef inline int scan_char(scanner_t* s, uint32_t* point) noexcept nogil:
    """One character of a string, escaped or not, as a code point; `at` moves behind it. Not for
    the closing quote."""
    cdef uint8_t c = s.at[0]
    cdef uint32_t low
    cdef int code, more, index
    if c < 0x20:
        return fault(s)
    if c == 0x5C:
        s.at += 1
        c = s.at[0]
        if c == 0x75:
            s.at += 1
            code = scan_hex4(s, point)
            if code != SCAN_OK:
                return code
            if 0xDC00 <= point[0] <= 0xDFFF:
                return SCAN_SURROGATE
            if 0xD800 <= point[0] <= 0xDBFF:
                if s.at[0] != 0x5C or s.at[1] != 0x75:
                    return SCAN_SURROGATE
                s.at += 2
                code = scan_hex4(s, &low)
                if code != SCAN_OK:
                    return code
                if not 0xDC00 <= low <= 0xDFFF:
                    return SCAN_SURROGATE
                point[0] = 0x10000 + ((point[0] - 0xD800) << 10) + (low - 0xDC00)
            return SCAN_OK
        if c == 0x22 or c == 0x5C or c == 0x2F:
            point[0] = c
        elif c == 0x62:
            point[0] = 8
        elif c == 0x66:
            point[0] = 12
        elif c == 0x6E:
            point[0] = 10
        elif c == 0x72:
            point[0] = 13
        elif c == 0x74:
            point[0] = 9
        else:
            return fault(s)
        s.at += 1
        return SCAN_OK
    if c < 0x80:
        point[0] = c
        s.at += 1
        return SCAN_OK
    if 0xC2 <= c <= 0xDF:
        more = 1
        point[0] = c & 0x1F
    elif 0xE0 <= c <= 0xEF:
        more = 2
        point[0] = c & 0x0F
    elif 0xF0 <= c <= 0xF4:
        more = 3
        point[0] = c & 0x07
    else:
        return SCAN_UTF8
    for index in range(more):
        if s.at[1 + index] & 0xC0 != 0x80:
            return SCAN_UTF8
        point[0] = point[0] << 6 | (s.at[1 + index] & 0x3F)
    if (more == 2 and (point[0] < 0x800 or 0xD800 <= point[0] <= 0xDFFF)) or (
        more == 3 and not 0x10000 <= point[0] <= 0x10FFFF
    ):
        return SCAN_UTF8
    s.at += more + 1
    return SCAN_OK


cdef inline int put_utf8(uint8_t* out, uint32_t point) noexcept nogil:
    """Write a code point, at most 4 bytes; the number of bytes."""
    if point < 0x80:
        out[0] = <uint8_t>point
        return 1
    if point < 0x800:
        out[0] = <uint8_t>(0xC0 | point >> 6)
        out[1] = <uint8_t>(0x80 | (point & 0x3F))
        return 2
    if point < 0x10000:
        out[0] = <uint8_t>(0xE0 | point >> 12)
        out[1] = <uint8_t>(0x80 | (point >> 6 & 0x3F))
        out[2] = <uint8_t>(0x80 | (point & 0x3F))
        return 3
    out[0] = <uint8_t>(0xF0 | point >> 18)
    out[1] = <uint8_t>(0x80 | (point >> 12 & 0x3F))
    out[2] = <uint8_t>(0x80 | (point >> 6 & 0x3F))
    out[3] = <uint8_t>(0x80 | (point & 0x3F))
    return 4


cdef inline void skip_plain(scanner_t* s) noexcept nogil:
    """Pass over the characters of a string that stand for themselves and are ASCII."""
    cdef uint8_t c = s.at[0]
    while 0x20 <= c < 0x80 and c != 0x22 and c != 0x5C:
        s.at += 1
        c = s.at[0]


cdef inline int scan_string(scanner_t* s, const uint8_t** text, size_t* size) noexcept nogil:
    """A string, `at` on its opening quote. The text is the body's own, or unescaped into the
    scratch, where what is
    beyond 504 bytes is checked and dropped: nothing that is looked for is that long."""
    cdef uint32_t point = 0
    cdef size_t used
    cdef int code
    if s.at[0] != 0x22:
        return fault(s)
    s.at += 1
    text[0] = s.at
    skip_plain(s)
    if s.at[0] == 0x22:
        size[0] = <size_t>(s.at - text[0])
        s.at += 1
        return SCAN_OK
    used = <size_t>(s.at - text[0])
    if used > SCRATCH_SIZE - 8:
        used = SCRATCH_SIZE - 8
    memcpy(s.scratch, text[0], used)
    text[0] = s.scratch
    while s.at[0] != 0x22:
        code = scan_char(s, &point)
        if code != SCAN_OK:
            return code
        if used <= SCRATCH_SIZE - 8:
            used += <size_t>put_utf8(s.scratch + used, point)
    s.at += 1
    size[0] = used
    return SCAN_OK


cdef inline int skip_number(scanner_t* s) noexcept nogil:
    """A number by the grammar of RFC 8259."""
    if s.at[0] == 0x2D:
        s.at += 1
    if s.at[0] == 0x30:
        s.at += 1
    elif 0x31 <= s.at[0] <= 0x39:
        while 0x30 <= s.at[0] <= 0x39:
            s.at += 1
    else:
        return fault(s)
    if s.at[0] == 0x2E:
        s.at += 1
        if not 0x30 <= s.at[0] <= 0x39:
            return fault(s)
        while 0x30 <= s.at[0] <= 0x39:
            s.at += 1
    if s.at[0] | 0x20 == 0x65:
        s.at += 1
        if s.at[0] == 0x2B or s.at[0] == 0x2D:
            s.at += 1
        if not 0x30 <= s.at[0] <= 0x39:
            return fault(s)
        while 0x30 <= s.at[0] <= 0x39:
            s.at += 1
    return SCAN_OK


cdef inline int skip_literal(scanner_t* s) noexcept nogil:
    """true, false or null."""
    cdef const char* word = "true"
    cdef int index = 0
    if s.at[0] == 0x66:
        word = "false"
    elif s.at[0] == 0x6E:
        word = "null"
    while word[index]:
        if s.at[0] != <uint8_t>word[index]:
            return fault(s)
        s.at += 1
        index += 1
    return SCAN_OK


cdef inline int skip_string(scanner_t* s) noexcept nogil:
    cdef uint32_t point = 0
    cdef int code
    s.at += 1
    skip_plain(s)
    while s.at[0] != 0x22:
        code = scan_char(s, &point)
        if code != SCAN_OK:
            return code
        skip_plain(s)
    s.at += 1
    return SCAN_OK


cdef inline int skip_value(scanner_t* s, int outer) noexcept nogil:
    """Any value inside of `outer` others, with everything in it checked: grammar, UTF-8,
    surrogates, depth. Keys that repeat are not seen."""
    cdef uint8_t closing[SCAN_DEPTH_MAX]
    cdef int depth = 0, code
    cdef uint8_t c
    cdef bint value_next = True
    while True:
        skip_space(s)
        c = s.at[0]
        if value_next:
            if c == 0x7B or c == 0x5B:
                if depth + outer == SCAN_DEPTH_MAX:
                    return SCAN_DEPTH
                closing[depth] = c + 2
                depth += 1
                s.at += 1
                skip_space(s)
                if s.at[0] == c + 2:
                    value_next = False
                    continue
                if c == 0x5B:
                    continue
            else:
                if c == 0x22:
                    code = skip_string(s)
                elif c == 0x2D or 0x30 <= c <= 0x39:
                    code = skip_number(s)
                else:
                    code = skip_literal(s)
                if code != SCAN_OK:
                    return code
                if depth == 0:
                    return SCAN_OK
                value_next = False
                continue
        elif c == closing[depth - 1]:
            s.at += 1
            depth -= 1
            if depth == 0:
                return SCAN_OK
            continue
        elif c == 0x2C:
            s.at += 1
            value_next = True
            if closing[depth - 1] == 0x5D:
                continue
            skip_space(s)
        else:
            return fault(s)
        # A key and its colon: after the opening of an object or after a comma in one.
        if s.at[0] != 0x22:
            return fault(s)
        code = skip_string(s)
        if code != SCAN_OK:
            return code
        skip_space(s)
        if s.at[0] != 0x3A:
            return fault(s)
        s.at += 1


cdef inline uint64_t load8(const uint8_t* text) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, text, 8)
    return word


cdef inline uint64_t not_digits(uint64_t word) noexcept nogil:
    """Zero when all eight bytes are ASCII digits; else the lowest byte that is not zero is the
    first that is none."""
    return ((word & 0xF0F0F0F0F0F0F0F0u) ^ 0x3030303030303030u) | (
        ((word + 0x0606060606060606u) & 0xF0F0F0F0F0F0F0F0u) ^ 0x3030303030303030u
    )


cdef inline uint64_t eight_digits_value(uint64_t word) noexcept nogil:
    """The number that eight ASCII digits write (a zero byte counts as 0): three multiplications,
    pairs first."""
    word = (word & 0x0F0F0F0F0F0F0F0Fu) * 2561 >> 8
    word = (word & 0x00FF00FF00FF00FFu) * 6553601 >> 16
    return (word & 0x0000FFFF0000FFFFu) * 42949672960001u >> 32


cdef inline bint scan_digits(scanner_t* s, u128* value, int* count) noexcept nogil:
    """All digits at `at` as a number, and how many there are; False when it passes 2^128-1 or has
    more than 39 digits."""
    cdef const uint8_t* start = s.at
    cdef uint64_t word, other, part
    cdef u128 total = 0
    cdef u128 largest = ~(<u128>0)
    cdef int more
    while True:
        if s.end - s.at >= 8:
            word = load8(s.at)
        else:
            # The last bytes of the body: what lies behind them is not ours to read.
            word = 0
            memcpy(&word, s.at, <size_t>(s.end - s.at))
        other = not_digits(word)
        if other == 0:
            if s.at - start == 32:
                return False
            total = total * 100000000u + eight_digits_value(word)
            s.at += 8
            continue
        more = __builtin_ctzll(other) >> 3
        if more:
            part = eight_digits_value(word << (64 - 8 * more))
            if s.at - start == 32 and more == 7 and total > (
                largest - <u128>part
            ) / <u128>10000000u:
                return False
            total = total * TEN_POWER[more] + part
            s.at += more
        value[0] = total
        count[0] = <int>(s.at - start)
        return True
