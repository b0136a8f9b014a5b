"""128-bit unsigned arithmetic: records hold {lo, hi}, sums are made in the compiler's own
128-bit type."""

from libc.stdint cimport uint64_t

from ledger._layout cimport u128_t

cdef extern from *:
    """
    typedef unsigned __int128 sanyuan_u128;
    #define SANYUAN_U128_MAX (~(sanyuan_u128)0)
    static inline sanyuan_u128 sanyuan_u128_make(unsigned long long lo, unsigned long long hi) {
        return ((sanyuan_u128)hi << 64) | lo;
    }
    static inline unsigned long long sanyuan_u128_lo(sanyuan_u128 v) {
        return (unsigned long long)v;
    }
    static inline unsigned long long sanyuan_u128_hi(sanyuan_u128 v) {
        return (unsigned long long)(v >> 64);
    }
    static inline unsigned long long sanyuan_multiply_fold(
        unsigned long long a, unsigned long long b
    ) {
        sanyuan_u128 p = (sanyuan_u128)a * b;
        return (unsigned long long)p ^ (unsigned long long)(p >> 64);
    }
    """
    ctypedef unsigned long long u128 "sanyuan_u128"
    const u128 U128_MAX "SANYUAN_U128_MAX"
    u128 u128_make "sanyuan_u128_make"(uint64_t lo, uint64_t hi) noexcept nogil
    uint64_t u128_lo "sanyuan_u128_lo"(u128 value) noexcept nogil
    uint64_t u128_hi "sanyuan_u128_hi"(u128 value) noexcept nogil
    uint64_t multiply_fold "sanyuan_multiply_fold"(uint64_t a, uint64_t b) noexcept nogil


cdef inline u128 load(u128_t value) noexcept nogil:
    return u128_make(value.lo, value.hi)


cdef inline u128_t store(u128 value) noexcept nogil:
    cdef u128_t out
    out.lo = u128_lo(value)
    out.hi = u128_hi(value)
    return out


cdef inline bint equal(u128_t a, u128_t b) noexcept nogil:
    return a.lo == b.lo and a.hi == b.hi


cdef inline bint is_zero(u128_t value) noexcept nogil:
    return (value.lo | value.hi) == 0


cdef inline bint is_max(u128_t value) noexcept nogil:
    return (value.lo & value.hi) == 0xFFFFFFFFFFFFFFFFULL
