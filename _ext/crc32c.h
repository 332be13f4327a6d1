/* CRC-32C (Castagnoli): eight bytes at a time by tables, or by the processor's own instruction where it has one;
 * alone, or while the bytes are copied. */
#ifndef RUNTIME_CRC32C_H
#define RUNTIME_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t (*crc32c_fn)(uint32_t crc, const unsigned char *data, size_t size);
typedef uint32_t (*crc32c_copy_fn)(uint32_t crc, unsigned char *to, const unsigned char *from, size_t size);

static uint32_t crc32c_table[8][256];

static void crc32c_fill_tables(void) {
    for (int value = 0; value < 256; value++) {
        uint32_t crc = (uint32_t)value;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1u))); /* the polynomial, bits reversed */
        crc32c_table[0][value] = crc;
    }
    for (int value = 0; value < 256; value++)
        for (int step = 1; step < 8; step++) {
            uint32_t before = crc32c_table[step - 1][value];
            crc32c_table[step][value] = (before >> 8) ^ crc32c_table[0][before & 255];
        }
}

static uint32_t crc32c_by_tables(uint32_t crc, const unsigned char *data, size_t size) {
    crc = ~crc;
    while (size >= 8) {
        uint32_t low = crc ^ ((uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
                              (uint32_t)data[3] << 24);
        crc = crc32c_table[7][low & 255] ^ crc32c_table[6][(low >> 8) & 255] ^ crc32c_table[5][(low >> 16) & 255] ^
              crc32c_table[4][low >> 24] ^ crc32c_table[3][data[4]] ^ crc32c_table[2][data[5]] ^
              crc32c_table[1][data[6]] ^ crc32c_table[0][data[7]];
        data += 8;
        size -= 8;
    }
    while (size--) crc = (crc >> 8) ^ crc32c_table[0][(crc ^ *data++) & 255];
    return ~crc;
}

/* Copies what fits the first-level cache, then reads it again from there. */
static uint32_t crc32c_copy_by_tables(uint32_t crc, unsigned char *to, const unsigned char *from, size_t size) {
    while (size) {
        size_t part = size < 4096 ? size : 4096;
        memcpy(to, from, part);
        crc = crc32c_by_tables(crc, from, part);
        to += part;
        from += part;
        size -= part;
    }
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
/* The instruction takes three cycles and starts every cycle: three runs of bytes side by side use them all. What the
 * first two runs gave is then moved over the bytes behind them, by tables. */
#define CRC32C_LANE 4096u

static uint32_t crc32c_over_lane[4][256]; /* a checksum, moved over CRC32C_LANE zero bytes */

static uint32_t crc32c_apply(const uint32_t *matrix, uint32_t vector) {
    uint32_t sum = 0;
    for (; vector; vector >>= 1, matrix++)
        if (vector & 1) sum ^= *matrix;
    return sum;
}

static void crc32c_fill_lanes(void) {
    uint32_t matrix[32], square[32];
    for (int bit = 0; bit < 32; bit++) { /* over one zero byte */
        uint32_t value = 1u << bit;
        matrix[bit] = (value >> 8) ^ crc32c_table[0][value & 255];
    }
    for (unsigned bytes = 1; bytes < CRC32C_LANE; bytes *= 2) {
        for (int bit = 0; bit < 32; bit++) square[bit] = crc32c_apply(matrix, matrix[bit]);
        memcpy(matrix, square, sizeof matrix);
    }
    for (int byte = 0; byte < 4; byte++)
        for (uint32_t value = 0; value < 256; value++)
            crc32c_over_lane[byte][value] = crc32c_apply(matrix, value << (8 * byte));
}

static inline uint32_t crc32c_moved(uint32_t crc) {
    return crc32c_over_lane[0][crc & 255] ^ crc32c_over_lane[1][(crc >> 8) & 255] ^
           crc32c_over_lane[2][(crc >> 16) & 255] ^ crc32c_over_lane[3][crc >> 24];
}

typedef long long crc32c_pair __attribute__((vector_size(16)));

__attribute__((target("sse4.2"), always_inline)) static inline uint32_t crc32c_serial(uint32_t state,
                                                                                      const unsigned char *data,
                                                                                      size_t size) {
    uint64_t wide = state;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
        data += 8;
        size -= 8;
    }
    state = (uint32_t)wide;
    while (size--) state = __builtin_ia32_crc32qi(state, *data++);
    return state;
}

/* One function for both uses: `to` is NULL, and known to be when this is compiled, where nothing is copied; otherwise a
 * multiple of 16. What is written goes past the cache: the reader of a message reads it later, and the memory need not
 * be read before it is overwritten, which makes this faster than memcpy of bytes that are in no cache. */
__attribute__((target("sse4.2"), always_inline)) static inline uint32_t crc32c_lanes(
    uint32_t state, unsigned char *to, const unsigned char *from, size_t size) {
    uint64_t sums[3];
    size_t whole = size / (3 * CRC32C_LANE);
    for (size_t block = 0; block < whole; block++) {
        sums[0] = state;
        sums[1] = sums[2] = 0;
        for (size_t at = 0; at < CRC32C_LANE; at += 64) {
            if (to)
                for (size_t lane = 0; lane < 3; lane++)
                    for (size_t part = 0; part < 64; part += 16) {
                        crc32c_pair pair;
                        memcpy(&pair, from + lane * CRC32C_LANE + at + part, 16);
                        __builtin_ia32_movntdq((crc32c_pair *)(to + lane * CRC32C_LANE + at + part), pair);
                    }
            for (size_t part = 0; part < 64; part += 8)
                for (size_t lane = 0; lane < 3; lane++) {
                    uint64_t word;
                    memcpy(&word, from + lane * CRC32C_LANE + at + part, 8);
                    sums[lane] = __builtin_ia32_crc32di(sums[lane], word);
                }
        }
        state = crc32c_moved(crc32c_moved((uint32_t)sums[0]) ^ (uint32_t)sums[1]) ^ (uint32_t)sums[2];
        from += 3 * CRC32C_LANE;
        if (to) to += 3 * CRC32C_LANE;
    }
    if (to && whole) __builtin_ia32_sfence();
    size -= whole * 3 * CRC32C_LANE;
    if (to) memcpy(to, from, size);
    return crc32c_serial(state, from, size);
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data,
                                                                         size_t size) {
    return ~crc32c_lanes(~crc, NULL, data, size);
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_copy_by_instruction(uint32_t crc, unsigned char *to,
                                                                              const unsigned char *from, size_t size) {
    size_t head = (size_t)(-(uintptr_t)to & 15);
    if (head > size) head = size;
    memcpy(to, from, head);
    return ~crc32c_lanes(crc32c_serial(~crc, from, head), to + head, from + head, size - head);
}

static int crc32c_has_instruction(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2");
}

__attribute__((unused)) static crc32c_fn crc32c_choose(void) {
    crc32c_fill_tables();
    crc32c_fill_lanes();
    return crc32c_has_instruction() ? crc32c_by_instruction : crc32c_by_tables;
}

__attribute__((unused)) static crc32c_copy_fn crc32c_copy_choose(void) {
    crc32c_choose();
    return crc32c_has_instruction() ? crc32c_copy_by_instruction : crc32c_copy_by_tables;
}
#else
__attribute__((unused)) static crc32c_fn crc32c_choose(void) {
    crc32c_fill_tables();
    return crc32c_by_tables;
}

__attribute__((unused)) static crc32c_copy_fn crc32c_copy_choose(void) {
    crc32c_fill_tables();
    return crc32c_copy_by_tables;
}
#endif

#endif
