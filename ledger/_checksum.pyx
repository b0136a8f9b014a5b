"""CRC32C (Castagnoli), the checksum of stored bytes; its instruction is chosen at run time."""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    static inline uint64_t load64(const void *from) { uint64_t v; memcpy(&v, from, 8); return v; }

    /* Three stripes of a chunk are summed side by side, since the instruction takes three cycles
       but starts each cycle; skip_stripe moves a sum over one stripe of zeros. */
    #define CRC_STRIPE 1360
    static uint32_t crc_table[8][256];
    static uint32_t crc_stripe[4][256];

    static inline uint32_t skip_stripe(uint32_t crc) {
        return crc_stripe[0][crc & 255] ^ crc_stripe[1][crc >> 8 & 255]
             ^ crc_stripe[2][crc >> 16 & 255] ^ crc_stripe[3][crc >> 24];
    }
    static uint32_t crc_software(uint32_t crc, const uint8_t *p, size_t size) {
        for (; size >= 8; size -= 8, p += 8) {
            uint64_t v = load64(p) ^ crc;
            crc = crc_table[7][v & 255] ^ crc_table[6][v >> 8 & 255]
                ^ crc_table[5][v >> 16 & 255] ^ crc_table[4][v >> 24 & 255]
                ^ crc_table[3][v >> 32 & 255] ^ crc_table[2][v >> 40 & 255]
                ^ crc_table[1][v >> 48 & 255] ^ crc_table[0][v >> 56];
        }
        while (size--) crc = crc >> 8 ^ crc_table[0][(crc ^ *p++) & 255];
        return crc;
    }
    #if defined(__x86_64__)
    #include <nmmintrin.h>
    __attribute__((target("sse4.2")))
    static uint32_t crc_instruction(uint32_t crc, const uint8_t *p, size_t size) {
        uint64_t a = crc, b, c;
        for (; size >= 3 * CRC_STRIPE; size -= 3 * CRC_STRIPE, p += 3 * CRC_STRIPE) {
            b = c = 0;
            for (size_t i = 0; i < CRC_STRIPE; i += 8) {
                a = _mm_crc32_u64(a, load64(p + i));
                b = _mm_crc32_u64(b, load64(p + i + CRC_STRIPE));
                c = _mm_crc32_u64(c, load64(p + i + 2 * CRC_STRIPE));
            }
            a = skip_stripe(skip_stripe((uint32_t)a) ^ (uint32_t)b) ^ (uint32_t)c;
        }
        for (; size >= 8; size -= 8, p += 8) a = _mm_crc32_u64(a, load64(p));
        while (size--) a = _mm_crc32_u8((uint32_t)a, *p++);
        return (uint32_t)a;
    }
    static int crc_has_instruction(void) {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2");
    }
    #else
    #define crc_instruction crc_software
    static int crc_has_instruction(void) { return 0; }
    #endif

    static void crc_prepare(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
            crc_table[0][i] = crc;
        }
        for (uint32_t i = 0; i < 256; i++)
            for (int k = 1; k < 8; k++)
                crc_table[k][i] = crc_table[k - 1][i] >> 8
                                ^ crc_table[0][crc_table[k - 1][i] & 255];
        static const uint8_t zeros[CRC_STRIPE];
        for (uint32_t i = 0; i < 256; i++)
            for (int k = 0; k < 4; k++)
                crc_stripe[k][i] = crc_software(i << 8 * k, zeros, CRC_STRIPE);
    }
    """
    uint32_t crc_software(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil
    uint32_t crc_instruction(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil
    int crc_has_instruction() noexcept nogil
    void crc_prepare() noexcept nogil

cdef bint _instruction = crc_has_instruction()
crc_prepare()


cdef uint32_t crc32c_update(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil:
    """CRC32C of ``data`` after bytes whose CRC32C is ``crc`` (0 for none)."""
    if _instruction:
        return ~crc_instruction(~crc, data, size)
    return ~crc_software(~crc, data, size)


def crc32c(const uint8_t[::1] data, uint32_t value=0):
    """Return the CRC32C (Castagnoli) of ``data``, continued from ``value``."""
    return crc32c_update(value, &data[0] if data.shape[0] else NULL, data.shape[0])


def _crc32c_software(const uint8_t[::1] data):
    """Return the CRC32C of ``data`` by tables, as a processor without the instruction does."""
    return ~crc_software(<uint32_t> -1, &data[0] if data.shape[0] else NULL, data.shape[0]) & (
        <uint32_t> -1
    )
