/* Keyed BLAKE3: any size one message at a time, equal sizes many at a time.
 *
 * The kernel for many messages is one text (_blake3_lanes.h) compiled for 4, 8 and 16 lanes, that
 * for one message is compiled for two instruction sets (_blake3_row.h) and written once without
 * vectors; which one runs is decided by the processor at run time. Nothing here allocates or fails.
 */
#ifndef SANYUAN_BLAKE3_H
#define SANYUAN_BLAKE3_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records, hashes and stored blocks are little-endian; this machine is not"
#endif

#define B3_IV0 0x6A09E667u
#define B3_IV1 0xBB67AE85u
#define B3_IV2 0x3C6EF372u
#define B3_IV3 0xA54FF53Au
static const uint32_t b3_iv[8] = {B3_IV0, B3_IV1, B3_IV2, B3_IV3,
    0x510E527Fu, 0x9B05688Cu, 0x1F83D9ABu, 0x5BE0CD19u};

enum { B3_START = 1, B3_END = 2, B3_PARENT = 4, B3_ROOT = 8, B3_KEYED = 16,
    B3_CONTEXT = 32, B3_MATERIAL = 64 };

/* The message words of the seven rounds, in the order in which G takes them. */
#define B3_SCHEDULE(ROUND)                                          \
    ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)     \
    ROUND(2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)     \
    ROUND(3, 4, 10, 12, 13, 2, 7, 14, 6, 5, 9, 0, 11, 15, 8, 1)     \
    ROUND(10, 7, 12, 9, 14, 3, 13, 15, 4, 0, 11, 2, 5, 8, 1, 6)     \
    ROUND(12, 13, 9, 11, 15, 10, 14, 8, 7, 2, 5, 3, 0, 1, 6, 4)     \
    ROUND(9, 14, 11, 5, 8, 12, 15, 1, 13, 3, 0, 10, 2, 6, 4, 7)     \
    ROUND(11, 15, 5, 0, 1, 9, 8, 6, 14, 10, 2, 12, 3, 4, 7, 13)

#if defined(__clang__)
#define B3_SHUFFLE1(type, a, ...) __builtin_shufflevector(a, a, __VA_ARGS__)
#define B3_SHUFFLE2(type, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define B3_SHUFFLE1(type, a, ...) __builtin_shuffle(a, (type){__VA_ARGS__})
#define B3_SHUFFLE2(type, a, b, ...) __builtin_shuffle(a, b, (type){__VA_ARGS__})
#endif

#if defined(__x86_64__) || defined(__i386__)
#define B3_X86 1
#else
#define B3_X86 0
#endif

/* The widest kernel that this processor runs; 1 where there is none. */
static int b3_widest(void)
{
#if B3_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512bw"))
        return 16;
    if (__builtin_cpu_supports("avx2")) return 8;
    return __builtin_cpu_supports("sse4.1") ? 4 : 1;
#else
    return 4;
#endif
}

static int b3_width = 1;

/* Choose a width (1, 4, 8 or 16, at most b3_widest()). */
static void b3_choose(int width) { b3_width = width; }

/* ------------------------------------------------------------------ one message */

#define B3_SPIN(x, n) (((x) >> (n)) | ((x) << (32 - (n))))
#define B3_MIX(a, b, c, d, x, y)                                    \
    a += b + (x); d = B3_SPIN(d ^ a, 16); c += d; b = B3_SPIN(b ^ c, 12); \
    a += b + (y); d = B3_SPIN(d ^ a, 8); c += d; b = B3_SPIN(b ^ c, 7);
#define B3_MIX_ALL(m0, m1, m2, m3, m4, m5, m6, m7, m8, m9, ma, mb, mc, md, me, mf) \
    B3_MIX(s0, s4, s8, sc, m[m0], m[m1]) B3_MIX(s1, s5, s9, sd, m[m2], m[m3])      \
    B3_MIX(s2, s6, sa, se, m[m4], m[m5]) B3_MIX(s3, s7, sb, sf, m[m6], m[m7])      \
    B3_MIX(s0, s5, sa, sf, m[m8], m[m9]) B3_MIX(s1, s6, sb, sc, m[ma], m[mb])      \
    B3_MIX(s2, s7, s8, sd, m[mc], m[md]) B3_MIX(s3, s4, s9, se, m[me], m[mf])

/* The compression function: 16 words out, of which the first 8 are the next chaining value. */
static void b3_compress_plain(const uint32_t *cv, const uint8_t *block, uint64_t counter, uint32_t size,
    uint32_t flags, uint32_t *out)
{
    uint32_t m[16];
    memcpy(m, block, 64);
    uint32_t s0 = cv[0], s1 = cv[1], s2 = cv[2], s3 = cv[3];
    uint32_t s4 = cv[4], s5 = cv[5], s6 = cv[6], s7 = cv[7];
    uint32_t s8 = B3_IV0, s9 = B3_IV1, sa = B3_IV2, sb = B3_IV3;
    uint32_t sc = (uint32_t)counter, sd = (uint32_t)(counter >> 32), se = size, sf = flags;
    B3_SCHEDULE(B3_MIX_ALL)
    out[8] = s8 ^ cv[0]; out[9] = s9 ^ cv[1]; out[10] = sa ^ cv[2]; out[11] = sb ^ cv[3];
    out[12] = sc ^ cv[4]; out[13] = sd ^ cv[5]; out[14] = se ^ cv[6]; out[15] = sf ^ cv[7];
    out[0] = s0 ^ s8; out[1] = s1 ^ s9; out[2] = s2 ^ sa; out[3] = s3 ^ sb;
    out[4] = s4 ^ sc; out[5] = s5 ^ sd; out[6] = s6 ^ se; out[7] = s7 ^ sf;
}

#if B3_X86
typedef uint32_t b3_row __attribute__((vector_size(16)));
typedef uint8_t b3_row_bytes __attribute__((vector_size(16)));
typedef uint32_t b3_block __attribute__((vector_size(64)));

#define B3_ROW_NAME b3_compress_sse
#define B3_ROW_TARGET __attribute__((target("sse4.1")))
#define B3_ROW_WIDE 0
#include "_blake3_row.h"
#undef B3_ROW_NAME
#undef B3_ROW_TARGET
#undef B3_ROW_WIDE

#define B3_ROW_NAME b3_compress_avx512
#define B3_ROW_TARGET __attribute__((target("avx512f,avx512vl,avx512bw")))
#define B3_ROW_WIDE 1
#include "_blake3_row.h"
#undef B3_ROW_NAME
#undef B3_ROW_TARGET
#undef B3_ROW_WIDE
#endif

static inline void b3_compress(const uint32_t *cv, const uint8_t *block, uint64_t counter,
    uint32_t size, uint32_t flags, uint32_t *out)
{
#if B3_X86
    if (b3_width >= 16) {
        b3_compress_avx512(cv, block, counter, size, flags, out);
        return;
    }
    if (b3_width >= 4) {
        b3_compress_sse(cv, block, counter, size, flags, out);
        return;
    }
#endif
    b3_compress_plain(cv, block, counter, size, flags, out);
}

/* The last compression of a chunk or of a parent, not yet made: it may turn out to be the root. */
typedef struct {
    uint32_t cv[8];
    uint8_t block[64];
    uint64_t counter;
    uint32_t size;
    uint32_t flags;
} b3_node;

static void b3_tree(const uint32_t *key, const uint8_t *message, size_t size, uint64_t chunk,
    uint32_t flags, b3_node *node)
{
    uint32_t out[16];
    if (size <= 1024) {
        uint32_t start = B3_START;
        memcpy(node->cv, key, 32);
        for (; size > 64; size -= 64, message += 64, start = 0) {
            b3_compress(node->cv, message, chunk, 64, flags | start, out);
            memcpy(node->cv, out, 32);
        }
        memset(node->block, 0, 64);
        if (size) memcpy(node->block, message, size);
        node->counter = chunk;
        node->size = (uint32_t)size;
        node->flags = flags | start | B3_END;
        return;
    }
    size_t left = 1024;
    while (left * 2 < size) left *= 2;
    b3_node child;
    uint8_t pair[64];
    b3_tree(key, message, left, chunk, flags, &child);
    b3_compress(child.cv, child.block, child.counter, child.size, child.flags, out);
    memcpy(pair, out, 32);
    b3_tree(key, message + left, size - left, chunk + left / 1024, flags, &child);
    b3_compress(child.cv, child.block, child.counter, child.size, child.flags, out);
    memcpy(pair + 32, out, 32);
    memcpy(node->cv, key, 32);
    memcpy(node->block, pair, 64);
    node->counter = 0;
    node->size = 64;
    node->flags = flags | B3_PARENT;
}

/* Block index (64 bytes) of the output of one message. */
static void b3_any(const uint32_t *key, uint32_t flags, const uint8_t *message, size_t size,
    uint64_t index, uint8_t *out)
{
    b3_node node;
    uint32_t words[16];
    b3_tree(key, message, size, 0, flags, &node);
    b3_compress(node.cv, node.block, index, node.size, node.flags | B3_ROOT, words);
    memcpy(out, words, 64);
}

static void b3_derive(const uint8_t *context, size_t size, uint8_t *out)
{
    uint8_t whole[64];
    uint32_t key[8];
    b3_any(b3_iv, B3_CONTEXT, context, size, 0, whole);
    memcpy(key, whole, 32);
    b3_any(key, B3_MATERIAL, (const uint8_t *)"", 0, 0, whole);
    memcpy(out, whole, 32);
}

/* ------------------------------------------------------------------ many messages in lanes */

#define B3_LANES 4
#if B3_X86
#define B3_TARGET __attribute__((target("sse4.1")))
#define B3_BYTE_SHUFFLE 1
#else
#define B3_TARGET
#define B3_BYTE_SHUFFLE 0
#endif
#include "_blake3_lanes.h"
#undef B3_LANES
#undef B3_TARGET
#undef B3_BYTE_SHUFFLE

#if B3_X86
#define B3_LANES 8
#define B3_TARGET __attribute__((target("avx2")))
#define B3_BYTE_SHUFFLE 1
#include "_blake3_lanes.h"
#undef B3_LANES
#undef B3_TARGET
#undef B3_BYTE_SHUFFLE

#define B3_LANES 16
#define B3_TARGET __attribute__((target("avx512f,avx512vl,avx512bw")))
#define B3_BYTE_SHUFFLE 0
#include "_blake3_lanes.h"
#undef B3_LANES
#undef B3_TARGET
#undef B3_BYTE_SHUFFLE
#endif

/* Fewer messages than this go one by one: a vector's time is that of two or three single ones. */
#define B3_LANES_WORTH 3

#define B3_IN_LANES(WIDTH)                                                                     \
    while (count >= B3_LANES_WORTH) {                                                          \
        size_t taken = count < WIDTH ? count : WIDTH;                                          \
        if (taken < WIDTH && WIDTH > 4 && taken <= WIDTH / 2) break;                           \
        if (taken == WIDTH) {                                                                  \
            b3_hash_##WIDTH(messages, stride, blocks, keys, out);                              \
        } else {                                                                               \
            uint8_t rows[WIDTH * 192], digests[WIDTH * 32];                                    \
            const uint32_t *row_keys[WIDTH];                                                   \
            memset(rows, 0, sizeof rows);                                                      \
            for (size_t i = 0; i < taken; i++)                                                 \
                memcpy(rows + i * blocks * 64, messages + i * stride, (size_t)blocks * 64);    \
            for (size_t i = 0; i < WIDTH; i++) row_keys[i] = keys[i < taken ? i : 0];          \
            b3_hash_##WIDTH(rows, (size_t)blocks * 64, blocks, row_keys, digests);             \
            memcpy(out, digests, taken * 32);                                                  \
        }                                                                                      \
        count -= taken; messages += taken * stride; out += taken * 32;                         \
        if (step) keys += taken;                                                               \
    }

/* Hash count messages of blocks * 64 bytes (1 to 3 blocks), message i at messages + stride i and
 * under keys[i], or all under keys[0] when step is 0: keys then has 16 equal pointers. Digest i goes
 * to out + 32 i; out may be where the messages are. */
static void b3_many(const uint8_t *messages, size_t stride, size_t count, int blocks,
    const uint32_t *const *keys, int step, uint8_t *out)
{
#if B3_X86
    if (b3_width >= 16) { B3_IN_LANES(16) }
    if (b3_width >= 8) { B3_IN_LANES(8) }
#endif
    if (b3_width >= 4) { B3_IN_LANES(4) }
    for (; count; count--, messages += stride, out += 32) {
        uint32_t words[16];
        const uint32_t *cv = *keys;
        for (int block = 0; block < blocks; block++) {
            uint32_t flags = B3_KEYED | (block == 0 ? B3_START : 0)
                | (block == blocks - 1 ? B3_END | B3_ROOT : 0);
            uint32_t next[16];
            b3_compress(cv, messages + block * 64, 0, 64, flags, next);
            memcpy(words, next, 64);
            cv = words;
        }
        memcpy(out, words, 32);
        if (step) keys++;
    }
}

/* Blocks first .. first + count - 1 of the keyed output of the empty message, 64 bytes each;
 * out has room for whole vectors: count rounded up to 16 blocks. */
static void b3_salts(const uint32_t *key, uint32_t first, size_t count, uint8_t *out)
{
#if B3_X86
    if (b3_width >= 16)
        for (; count > 8; count -= count < 16 ? count : 16, first += 16, out += 16 * 64)
            b3_stream_16(key, first, out);
    if (b3_width >= 8)
        for (; count > 4; count -= count < 8 ? count : 8, first += 8, out += 8 * 64)
            b3_stream_8(key, first, out);
#endif
    if (b3_width >= 4)
        for (; count >= B3_LANES_WORTH; count -= count < 4 ? count : 4, first += 4, out += 4 * 64)
            b3_stream_4(key, first, out);
    for (; count; count--, first++, out += 64)
        b3_any(key, B3_KEYED, (const uint8_t *)"", 0, first, out);
}

#endif
