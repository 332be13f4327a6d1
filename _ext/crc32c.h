/* CRC-32C (Castagnoli): eight bytes at a time by tables, or by the processor's own instruction where it has one. */
#ifndef RUNTIME_CRC32C_H
#define RUNTIME_CRC32C_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t (*crc32c_fn)(uint32_t crc, const unsigned char *data, size_t size);

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

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("sse4.2"))) static uint32_t crc32c_by_instruction(uint32_t crc, const unsigned char *data,
                                                                         size_t size) {
    uint64_t wide = (uint32_t)~crc;
    while (size >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        wide = __builtin_ia32_crc32di(wide, word);
        data += 8;
        size -= 8;
    }
    crc = (uint32_t)wide;
    while (size--) crc = __builtin_ia32_crc32qi(crc, *data++);
    return ~crc;
}

static crc32c_fn crc32c_choose(void) {
    crc32c_fill_tables();
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") ? crc32c_by_instruction : crc32c_by_tables;
}
#else
static crc32c_fn crc32c_choose(void) {
    crc32c_fill_tables();
    return crc32c_by_tables;
}
#endif

#endif
