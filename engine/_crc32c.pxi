# CRC32C (Castagnoli): the processor's instruction where there is one, chosen at run time because what ships is built
# without -march=native; otherwise eight tables. `seed` is the CRC of what came before, 0 for nothing.

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the log format is little-endian and its code relies on that"
    #endif

    static uint32_t eo_crc_table[8][256];

    static void eo_crc_fill_tables(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (0x82F63B78u & (0u - (crc & 1)));
            eo_crc_table[0][byte] = crc;
        }
        for (int table = 1; table < 8; table++)
            for (uint32_t byte = 0; byte < 256; byte++) {
                uint32_t crc = eo_crc_table[table - 1][byte];
                eo_crc_table[table][byte] = (crc >> 8) ^ eo_crc_table[0][crc & 0xFF];
            }
    }

    static uint32_t eo_crc_by_table(uint32_t crc, const uint8_t *data, size_t size) {
        while (size >= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            word ^= crc;
            crc = eo_crc_table[7][word & 0xFF] ^ eo_crc_table[6][(word >> 8) & 0xFF]
                ^ eo_crc_table[5][(word >> 16) & 0xFF] ^ eo_crc_table[4][(word >> 24) & 0xFF]
                ^ eo_crc_table[3][(word >> 32) & 0xFF] ^ eo_crc_table[2][(word >> 40) & 0xFF]
                ^ eo_crc_table[1][(word >> 48) & 0xFF] ^ eo_crc_table[0][word >> 56];
            data += 8; size -= 8;
        }
        while (size--) crc = (crc >> 8) ^ eo_crc_table[0][(crc ^ *data++) & 0xFF];
        return crc;
    }

    #if defined(__x86_64__)
    __attribute__((target("sse4.2")))
    static uint32_t eo_crc_by_instruction(uint32_t crc, const uint8_t *data, size_t size) {
        uint64_t wide = crc;
        while (size >= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            wide = __builtin_ia32_crc32di(wide, word);
            data += 8; size -= 8;
        }
        crc = (uint32_t)wide;
        while (size--) crc = __builtin_ia32_crc32qi(crc, *data++);
        return crc;
    }
    static int eo_crc_has_instruction(void) { __builtin_cpu_init(); return __builtin_cpu_supports("sse4.2"); }
    #elif defined(__aarch64__) && defined(__linux__)
    #include <sys/auxv.h>
    __attribute__((target("+crc")))
    static uint32_t eo_crc_by_instruction(uint32_t crc, const uint8_t *data, size_t size) {
        while (size >= 8) {
            uint64_t word;
            memcpy(&word, data, 8);
            crc = __builtin_aarch64_crc32cx(crc, word);
            data += 8; size -= 8;
        }
        while (size--) crc = __builtin_aarch64_crc32cb(crc, *data++);
        return crc;
    }
    static int eo_crc_has_instruction(void) { return (getauxval(AT_HWCAP) & (1 << 7)) != 0; }
    #else
    #define eo_crc_by_instruction eo_crc_by_table
    static int eo_crc_has_instruction(void) { return 0; }
    #endif

    static uint32_t (*eo_crc)(uint32_t, const uint8_t *, size_t) = eo_crc_by_table;

    /* Called once while the module is imported, before any thread can ask for a CRC. */
    static int eo_crc_choose(int allow_instruction) {
        int chosen = allow_instruction && eo_crc_has_instruction();
        eo_crc_fill_tables();
        eo_crc = chosen ? eo_crc_by_instruction : eo_crc_by_table;
        return chosen;
    }
    static inline uint32_t crc32c_of(const uint8_t *data, size_t size, uint32_t seed) {
        return ~eo_crc(~seed, data, size);
    }
    """
    int eo_crc_choose(int allow_instruction) noexcept nogil
    uint32_t eo_crc_by_table(uint32_t crc, const uint8_t* data, size_t size) noexcept nogil
    uint32_t crc32c_of(const uint8_t* data, size_t size, uint32_t seed) noexcept nogil

CRC32C_HAS_INSTRUCTION = bool(eo_crc_choose(1))


cdef uint32_t _crc32c_of_buffer(object data, uint32_t seed, bint by_table) except? 0:
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    if by_table:
        crc = ~eo_crc_by_table(~seed, <const uint8_t*>view.buf, <size_t>view.len)
    else:
        crc = crc32c_of(<const uint8_t*>view.buf, <size_t>view.len, seed)
    PyBuffer_Release(&view)
    return crc


def crc32c(data, uint32_t seed=0):
    """CRC32C of the bytes-like `data`, continued from `seed`: the CRC of what came before, 0 for nothing."""
    return _crc32c_of_buffer(data, seed, False)


def crc32c_by_table(data, uint32_t seed=0):
    """The fallback for processors without the instruction, under its own name so that both can be tested."""
    return _crc32c_of_buffer(data, seed, True)
