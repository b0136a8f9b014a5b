/* BLAKE3 over many equal-sized messages at once, one message in each lane of a vector.
 *
 * A template: _blake3.h includes it once for each width, with
 *   B3_LANES            4, 8 or 16
 *   B3_TARGET           the target attribute of the functions, or nothing
 *   B3_BYTE_SHUFFLE     1 where a byte shuffle is cheaper than two shifts and an or
 * The vectors are GCC's generic ones, so the same text serves every processor.
 */

#define B3_JOIN_(a, b) a##b
#define B3_JOIN(a, b) B3_JOIN_(a, b)
#define B3_NAME(name) B3_JOIN(name##_, B3_LANES)
#define VEC B3_NAME(b3_vec)
#define BYTES B3_NAME(b3_bytes)
#define B3_INLINE static inline __attribute__((always_inline)) B3_TARGET

typedef uint32_t VEC __attribute__((vector_size(B3_LANES * 4)));
typedef uint8_t BYTES __attribute__((vector_size(B3_LANES * 4)));

#if B3_LANES == 4
#define B3_LOW 0, 4, 1, 5
#define B3_HIGH 2, 6, 3, 7
#define B3_ALL(x) {x, x, x, x}
#elif B3_LANES == 8
#define B3_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define B3_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define B3_ALL(x) {x, x, x, x, x, x, x, x}
#else
#define B3_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define B3_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define B3_ALL(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
#endif

#define B3_SHIFT(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#if B3_BYTE_SHUFFLE
#define B3_QUAD16(o) 2 + o, 3 + o, 0 + o, 1 + o, 6 + o, 7 + o, 4 + o, 5 + o, \
    10 + o, 11 + o, 8 + o, 9 + o, 14 + o, 15 + o, 12 + o, 13 + o
#define B3_QUAD8(o) 1 + o, 2 + o, 3 + o, 0 + o, 5 + o, 6 + o, 7 + o, 4 + o, \
    9 + o, 10 + o, 11 + o, 8 + o, 13 + o, 14 + o, 15 + o, 12 + o
#if B3_LANES == 4
#define B3_ORDER(quad) quad(0)
#else
#define B3_ORDER(quad) quad(0), quad(16)
#endif
#define B3_ROTATE16(x) ((VEC)B3_SHUFFLE1(BYTES, (BYTES)(x), B3_ORDER(B3_QUAD16)))
#define B3_ROTATE8(x) ((VEC)B3_SHUFFLE1(BYTES, (BYTES)(x), B3_ORDER(B3_QUAD8)))
#else
#define B3_ROTATE16(x) B3_SHIFT(x, 16)
#define B3_ROTATE8(x) B3_SHIFT(x, 8)
#endif

#define B3_G(a, b, c, d, x, y)          \
    a += b + (x); d ^= a; d = B3_ROTATE16(d); \
    c += d; b ^= c; b = B3_SHIFT(b, 12);      \
    a += b + (y); d ^= a; d = B3_ROTATE8(d);  \
    c += d; b ^= c; b = B3_SHIFT(b, 7);

#define B3_ROUND(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf) \
    B3_G(s0, s4, s8, sc, m[m0], m[m1]) B3_G(s1, s5, s9, sd, m[m2], m[m3])        \
    B3_G(s2, s6, sa, se, m[m4], m[m5]) B3_G(s3, s7, sb, sf, m[m6], m[m7])        \
    B3_G(s0, s5, sa, sf, m[m8], m[m9]) B3_G(s1, s6, sb, sc, m[ma], m[mb])        \
    B3_G(s2, s7, s8, sd, m[mc], m[md]) B3_G(s3, s4, s9, se, m[me], m[mf])

/* One compression in each lane. out receives 16 vectors when whole, else 8; it may be cv. */
B3_INLINE void B3_NAME(b3_rounds)(
    const VEC *cv, const VEC *m, VEC counter, uint32_t size, uint32_t flags, VEC *out, int whole)
{
    VEC s0 = cv[0], s1 = cv[1], s2 = cv[2], s3 = cv[3];
    VEC s4 = cv[4], s5 = cv[5], s6 = cv[6], s7 = cv[7];
    VEC s8 = B3_ALL(B3_IV0), s9 = B3_ALL(B3_IV1), sa = B3_ALL(B3_IV2), sb = B3_ALL(B3_IV3);
    VEC sc = counter, sd = B3_ALL(0), se = B3_ALL(size), sf = B3_ALL(flags);
    B3_SCHEDULE(B3_ROUND)
    if (whole) {
        out[8] = s8 ^ cv[0]; out[9] = s9 ^ cv[1]; out[10] = sa ^ cv[2]; out[11] = sb ^ cv[3];
        out[12] = sc ^ cv[4]; out[13] = sd ^ cv[5]; out[14] = se ^ cv[6]; out[15] = sf ^ cv[7];
    }
    out[0] = s0 ^ s8; out[1] = s1 ^ s9; out[2] = s2 ^ sa; out[3] = s3 ^ sb;
    out[4] = s4 ^ sc; out[5] = s5 ^ sd; out[6] = s6 ^ se; out[7] = s7 ^ sf;
}

/* Transpose a square of B3_LANES vectors: as many perfect shuffles as the index has bits. */
B3_INLINE void B3_NAME(b3_transpose)(VEC *rows)
{
    VEC next[B3_LANES];
#pragma GCC unroll 4
    for (int stage = 1; stage < B3_LANES; stage *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < B3_LANES / 2; i++) {
            next[2 * i] = B3_SHUFFLE2(VEC, rows[i], rows[i + B3_LANES / 2], B3_LOW);
            next[2 * i + 1] = B3_SHUFFLE2(VEC, rows[i], rows[i + B3_LANES / 2], B3_HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < B3_LANES; i++) rows[i] = next[i];
    }
}

/* The 16 message words of B3_LANES blocks, block i at rows + i * stride. */
B3_INLINE void B3_NAME(b3_load)(const uint8_t *rows, size_t stride, VEC *m)
{
    for (int part = 0; part < 16; part += B3_LANES) {
        for (int i = 0; i < B3_LANES; i++)
            memcpy(&m[part + i], rows + i * stride + part * 4, sizeof(VEC));
        B3_NAME(b3_transpose)(m + part);
    }
}

/* Write the first words (8 or 16) of each lane to out + lane * words * 4. */
B3_INLINE void B3_NAME(b3_store)(VEC *words, int count, uint8_t *out)
{
#if B3_LANES == 16
    VEC square[16];
    for (int i = 0; i < 16; i++) square[i] = words[i < count ? i : 0];
    B3_NAME(b3_transpose)(square);
    for (int i = 0; i < 16; i++) memcpy(out + i * count * 4, &square[i], count * 4);
#else
    for (int part = 0; part < count; part += B3_LANES) {
        B3_NAME(b3_transpose)(words + part);
        for (int i = 0; i < B3_LANES; i++)
            memcpy(out + i * count * 4 + part * 4, &words[part + i], sizeof(VEC));
    }
#endif
}

/* Hash exactly B3_LANES messages of blocks * 64 bytes (at most 1024), lane i under keys[i]. */
B3_TARGET static void B3_NAME(b3_hash)(
    const uint8_t *rows, size_t stride, int blocks, const uint32_t *const *keys, uint8_t *out)
{
    VEC cv[8], m[16];
    const VEC zero = B3_ALL(0);
    int same = 1;
    for (int i = 1; i < B3_LANES; i++) same &= keys[i] == keys[0];
    if (same) {
        for (int word = 0; word < 8; word++) cv[word] = zero + keys[0][word];
    } else {
        for (int word = 0; word < 8; word++)
            for (int i = 0; i < B3_LANES; i++) cv[word][i] = keys[i][word];
    }
    for (int block = 0; block < blocks; block++) {
        uint32_t flags = B3_KEYED | (block == 0 ? B3_START : 0)
            | (block == blocks - 1 ? B3_END | B3_ROOT : 0);
        B3_NAME(b3_load)(rows + block * 64, stride, m);
        B3_NAME(b3_rounds)(cv, m, zero, 64, flags, cv, 0);
    }
    B3_NAME(b3_store)(cv, 8, out);
}

/* Blocks first .. first + B3_LANES - 1 (below 2^32) of the keyed output of the empty message. */
B3_TARGET static void B3_NAME(b3_stream)(const uint32_t *key, uint32_t first, uint8_t *out)
{
    VEC cv[8], m[16], words[16], counter;
    const VEC zero = B3_ALL(0);
    for (int word = 0; word < 8; word++) cv[word] = zero + key[word];
    for (int word = 0; word < 16; word++) m[word] = zero;
    for (int i = 0; i < B3_LANES; i++) counter[i] = first + i;
    B3_NAME(b3_rounds)(
        cv, m, counter, 0, B3_KEYED | B3_START | B3_END | B3_ROOT, words, 1);
    B3_NAME(b3_store)(words, 16, out);
}

#undef B3_JOIN_
#undef B3_JOIN
#undef B3_NAME
#undef VEC
#undef BYTES
#undef B3_INLINE
#undef B3_LOW
#undef B3_HIGH
#undef B3_ALL
#undef B3_SHIFT
#undef B3_QUAD16
#undef B3_QUAD8
#undef B3_ORDER
#undef B3_ROTATE16
#undef B3_ROTATE8
#undef B3_G
#undef B3_ROUND
