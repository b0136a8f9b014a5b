/* One BLAKE3 compression with the four rows of its state in four vectors: for chains, where each
 * message needs the digest before it and lanes do not help.
 *
 * A template: _blake3.h includes it once for each instruction set, with
 *   B3_ROW_NAME     the name of the function
 *   B3_ROW_TARGET   its target attribute
 *   B3_ROW_WIDE     1 where one instruction permutes 16 words and another rotates four
 */

#if B3_ROW_WIDE
#define B3_ROW_WORDS(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf)           \
    const b3_block picked = B3_SHUFFLE1(b3_block, whole,                                       \
        m0, m2, m4, m6, m1, m3, m5, m7, me, m8, ma, mc, mf, m9, mb, md);                       \
    memcpy(&x, &picked, 16);                                                                   \
    memcpy(&y, (const uint8_t *)&picked + 16, 16);                                             \
    memcpy(&z, (const uint8_t *)&picked + 32, 16);                                             \
    memcpy(&w, (const uint8_t *)&picked + 48, 16);
#define B3_ROW_ROTATE16(v) B3_ROW_SHIFT(v, 16)
#define B3_ROW_ROTATE8(v) B3_ROW_SHIFT(v, 8)
#else
#define B3_ROW_WORDS(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf)           \
    x = (b3_row){m[m0], m[m2], m[m4], m[m6]};                                                  \
    y = (b3_row){m[m1], m[m3], m[m5], m[m7]};                                                  \
    z = (b3_row){m[me], m[m8], m[ma], m[mc]};                                                  \
    w = (b3_row){m[mf], m[m9], m[mb], m[md]};
#define B3_ROW_ROTATE16(v) ((b3_row)B3_SHUFFLE1(b3_row_bytes, (b3_row_bytes)(v),               \
    2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13))
#define B3_ROW_ROTATE8(v) ((b3_row)B3_SHUFFLE1(b3_row_bytes, (b3_row_bytes)(v),                \
    1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12))
#endif
#define B3_ROW_SHIFT(v, n) (((v) >> (n)) | ((v) << (32 - (n))))

#define B3_ROW_MIX(x, y)                                                                       \
    a = (a + (x)) + b; d ^= a; d = B3_ROW_ROTATE16(d); c += d; b ^= c; b = B3_ROW_SHIFT(b, 12); \
    a = (a + (y)) + b; d ^= a; d = B3_ROW_ROTATE8(d); c += d; b ^= c; b = B3_ROW_SHIFT(b, 7);

/* The columns, then the diagonals: all rows but b are turned so that a diagonal lies in one lane. */
#define B3_ROW_ROUND(...)                                                                      \
    {                                                                                          \
        b3_row x, y, z, w;                                                                     \
        B3_ROW_WORDS(__VA_ARGS__)                                                              \
        B3_ROW_MIX(x, y)                                                                       \
        a = B3_SHUFFLE1(b3_row, a, 3, 0, 1, 2);                                                \
        c = B3_SHUFFLE1(b3_row, c, 1, 2, 3, 0);                                                \
        d = B3_SHUFFLE1(b3_row, d, 2, 3, 0, 1);                                                \
        B3_ROW_MIX(z, w)                                                                       \
        a = B3_SHUFFLE1(b3_row, a, 1, 2, 3, 0);                                                \
        c = B3_SHUFFLE1(b3_row, c, 3, 0, 1, 2);                                                \
        d = B3_SHUFFLE1(b3_row, d, 2, 3, 0, 1);                                                \
    }

B3_ROW_TARGET static void B3_ROW_NAME(const uint32_t *cv, const uint8_t *block,
    uint64_t counter, uint32_t size, uint32_t flags, uint32_t *out)
{
    b3_row a, b, c = {B3_IV0, B3_IV1, B3_IV2, B3_IV3}, cv_low, cv_high;
    b3_row d = {(uint32_t)counter, (uint32_t)(counter >> 32), size, flags};
#if B3_ROW_WIDE
    b3_block whole;
    memcpy(&whole, block, 64);
#else
    uint32_t m[16];
    memcpy(m, block, 64);
#endif
    memcpy(&cv_low, cv, 16);
    memcpy(&cv_high, cv + 4, 16);
    a = cv_low;
    b = cv_high;
    B3_SCHEDULE(B3_ROW_ROUND)
    a ^= c;
    b ^= d;
    c ^= cv_low;
    d ^= cv_high;
    memcpy(out, &a, 16);
    memcpy(out + 4, &b, 16);
    memcpy(out + 8, &c, 16);
    memcpy(out + 12, &d, 16);
}

#undef B3_ROW_WORDS
#undef B3_ROW_ROTATE16
#undef B3_ROW_ROTATE8
#undef B3_ROW_SHIFT
#undef B3_ROW_MIX
#undef B3_ROW_ROUND
