# Numbers, UUIDs and times as text, outside of JSON or inside of its strings: header-only, for
# _codec.

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from ledger._scan cimport SCAN_OK, hex_digit, u128

cdef enum:
    REFUSED_TYPE = 20
    REFUSED_RANGE = 21


cdef inline int parse_text_number(
    const uint8_t* text, size_t size, bint is_id, u128 limit, u128* value
) noexcept nogil:
    """A decimal string that is not plain digits in the body, or a UUID."""
    cdef size_t index
    cdef u128 total = 0
    cdef int digit
    if (
        is_id and size == 36 and text[8] == 0x2D and text[13] == 0x2D
        and text[18] == 0x2D and text[23] == 0x2D
    ):
        for index in range(36):
            if index == 8 or index == 13 or index == 18 or index == 23:
                continue
            digit = hex_digit(text[index])
            if digit < 0:
                return REFUSED_TYPE
            total = total << 4 | <u128>digit
        value[0] = total
        return SCAN_OK
    if size == 0 or (text[0] == 0x30 and size > 1):
        return REFUSED_TYPE
    for index in range(size):
        if not 0x30 <= text[index] <= 0x39:
            return REFUSED_TYPE
    for index in range(size):
        digit = text[index] - 0x30
        if total > (limit - <u128>digit) / 10:
            return REFUSED_RANGE
        total = total * 10 + <u128>digit
    value[0] = total
    return SCAN_OK


cdef inline int two_digits(const uint8_t* text) noexcept nogil:
    if 0x30 <= text[0] <= 0x39 and 0x30 <= text[1] <= 0x39:
        return (text[0] - 0x30) * 10 + (text[1] - 0x30)
    return -1


cdef inline int64_t days_from_date(int64_t year, int month, int day) noexcept nogil:
    """Days from 1970-01-01 of a date of the Gregorian calendar, years counted from March so that
    the leap day is last."""
    cdef int64_t y = year - 1 if month <= 2 else year
    cdef int64_t shifted = (month + 9) % 12
    return y * 365 + y / 4 - y / 100 + y / 400 + (shifted * 153 + 2) / 5 + day - 719469


cdef inline bint time_from_text(const uint8_t* text, size_t size, u128* value) noexcept nogil:
    """RFC 3339 in UTC, from 1970 to 2261, with at most nine digits after the second."""
    cdef int year, month, day, hour, minute, second, length
    cdef uint64_t nanoseconds = 0, scale = 100000000
    cdef size_t index = 19
    if size < 20 or text[4] != 0x2D or text[7] != 0x2D or text[10] | 0x20 != 0x74:
        return False
    if text[13] != 0x3A or text[16] != 0x3A:
        return False
    if two_digits(text) < 0 or two_digits(text + 2) < 0:
        return False
    year = two_digits(text) * 100 + two_digits(text + 2)
    month, day = two_digits(text + 5), two_digits(text + 8)
    hour, minute, second = two_digits(text + 11), two_digits(text + 14), two_digits(text + 17)
    if not 1970 <= year <= 2261 or not 1 <= month <= 12:
        return False
    length = 30 if month == 4 or month == 6 or month == 9 or month == 11 else 31
    if month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if not 1 <= day <= length or not 0 <= hour <= 23:
        return False
    if not 0 <= minute <= 59 or not 0 <= second <= 59:
        return False
    if text[index] == 0x2E:
        index += 1
        if index >= size or not 0x30 <= text[index] <= 0x39:
            return False
        while index < size and 0x30 <= text[index] <= 0x39:
            if scale == 0:
                return False
            nanoseconds += (text[index] - 0x30) * scale
            scale /= 10
            index += 1
    if size - index == 1:
        if text[index] | 0x20 != 0x7A:
            return False
    elif size - index != 6 or memcmp(text + index, b"+00:00", 6) != 0:
        return False
    value[0] = <u128>(
        <uint64_t>(
            days_from_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second
        ) * 1000000000 + nanoseconds
    )
    return True
