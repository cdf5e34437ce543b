# A caller, as Python describes one: the answer itself is kept. Its shops are hashes over a seed that nobody outside
# knows, sorted.

cdef extern from *:
    XXH128_hash_t xxh3_128_seeded "XXH3_128bits_withSeed"(const void* data, size_t size, uint64_t seed) noexcept nogil

import base64 as _base64
import json as _json

cdef extern from *:
    """
    #include <arpa/inet.h>

    /* An address as the front keeps it, in text; `into` has room for INET6_ADDRSTRLEN. */
    static void front_address(const uint8_t* address, char* into) {
        static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
        int v4 = memcmp(address, mapped, sizeof mapped) == 0;
        inet_ntop(v4 ? AF_INET : AF_INET6, address + (v4 ? sizeof mapped : 0), into, INET6_ADDRSTRLEN);
    }
    """
    void front_address(const uint8_t* address, char* into) noexcept nogil

cdef enum:
    CALLER_NAME_BYTES_MAX = 128
    CALLER_TEXT_BYTES_MAX = 2048         # as JSON, towards the control server
    QUOTA_ORDERS_MAX = 1000000000        # keeps the arithmetic of a bucket within 64 bits

# An answer on its way to the loop, and what is kept of it. Behind it lie its shops, sorted, its name, and its text.
cdef struct Answered:
    Answered* next
    uint64_t token
    bint is_caller, all_shops
    uint32_t scopes, shop_count, name_size, text_size
    uint64_t expires_ms, orders_per_s, burst, bytes_in_flight, connections

cdef inline const Hash128* shops_of(const Answered* caller) noexcept nogil:
    return <const Hash128*>(caller + 1)


cdef inline const uint8_t* name_of(const Answered* caller) noexcept nogil:
    return <const uint8_t*>(shops_of(caller) + caller.shop_count)


cdef inline bint has_few_shops(const Stream* s) noexcept nogil:
    return s.credential != NULL and s.credential.caller != NULL and not s.credential.caller.all_shops


cdef inline Hash128 hash_of_shop(uint64_t seed, const uint8_t* data, size_t size) noexcept nogil:
    cdef XXH128_hash_t digest = xxh3_128_seeded(data, size, seed)
    cdef Hash128 hash
    hash.low, hash.high = digest.low64, digest.high64
    return hash


cdef bint owns_shop(const Stream* s, Span shop) noexcept nogil:
    cdef const Answered* caller = s.credential.caller
    cdef const Hash128* shops = shops_of(caller)
    cdef Hash128 wanted = hash_of_shop(s.connection.front.identity.seed, shop.data, shop.size)
    cdef uint32_t low = 0, high = caller.shop_count, middle
    while low < high:
        middle = (low + high) >> 1
        if shops[middle].high < wanted.high or (shops[middle].high == wanted.high and shops[middle].low < wanted.low):
            low = middle + 1
        else:
            high = middle
    return low < caller.shop_count and hash_equal(shops[low], wanted)


# As the control server is told, in base64: JSON, whose last field the front adds.
cdef void put_caller(Buffer* out, const Stream* s) noexcept nogil:
    cdef const Answered* caller = s.credential.caller if s.credential != NULL else NULL
    cdef const Peer* peer = s.connection.peer
    cdef uint8_t text[CALLER_TEXT_BYTES_MAX + 1024]
    cdef uint8_t* at = text
    cdef uint8_t* end
    if (caller == NULL or not caller.is_caller) and s.connection.front.identity.required:
        return                           # nobody: the control server refuses what says nothing
    if caller == NULL or not caller.is_caller:
        at = put_bytes(at, ANONYMOUS_TEXT, ANONYMOUS_TEXT_SIZE)
    else:
        at = put_bytes(at, name_of(caller) + caller.name_size, caller.text_size)
    at = put_chars(at, b',"peer":"')
    if peer == NULL:
        at = put_chars(at, b"unix")
    else:
        front_address(peer.address, <char*>at)
        at += strlen(<char*>at)
    at = put_chars(at, b'"}')
    end = put_base64(buffer_reserve(out, 2 * sizeof(text)), text, <size_t>(at - text))
    buffer_end(out, end)


cdef bytes relayed_text(str name, object scopes, object shops):
    """A caller as the control server is told, but for the end. Shops that have no room there are told as none."""
    wanted = {"name": name, "scopes": sorted(SCOPE_NAMES.keys() & scopes)}
    wanted["shops"] = None if shops is None else sorted(shops)
    text = _json.dumps(wanted, separators=(",", ":")).encode()
    if len(text) > CALLER_TEXT_BYTES_MAX:
        text = _json.dumps(wanted | {"shops": []}, separators=(",", ":")).encode()
    INVARIANT(len(text) <= CALLER_TEXT_BYTES_MAX, b"a caller without its shops has room")
    return text.removesuffix(b"}")


_anonymous_text = relayed_text("anonymous", frozenset(SCOPE_NAMES), None)
cdef const uint8_t* ANONYMOUS_TEXT = _anonymous_text
cdef size_t ANONYMOUS_TEXT_SIZE = len(_anonymous_text)


cdef Answered* answered_new(uint64_t token, size_t shop_count, size_t name_size, size_t text_size) except NULL:
    cdef Answered* answer = <Answered*>calloc(
        1, sizeof(Answered) + shop_count * sizeof(Hash128) + name_size + text_size
    )
    if answer == NULL:
        raise MemoryError("no memory for a caller")
    answer.token = token
    answer.shop_count = <uint32_t>shop_count
    answer.name_size = <uint32_t>name_size
    answer.text_size = <uint32_t>text_size
    return answer


cdef Answered* answered_of(uint64_t token, uint64_t seed, object caller) except NULL:
    """ValueError says what is wrong with the caller."""
    cdef Answered* answer
    cdef Hash128 hash
    cdef Hash128* shops
    cdef uint32_t i
    cdef bytes name, text, shop
    if caller is None:
        return answered_new(token, 0, 0, 0)
    name = caller.name.encode()
    numbers = [caller.expires_unix_ms, caller.orders_per_s, caller.burst, caller.bytes_in_flight, caller.connections]
    if not 0 < len(name) <= CALLER_NAME_BYTES_MAX or not all(0 <= number < 1 << 62 for number in numbers):
        raise ValueError("a caller has a name of 1 to 128 bytes, and numbers that are not negative")
    if max(caller.orders_per_s, caller.burst) > QUOTA_ORDERS_MAX:
        raise ValueError(f"orders_per_s and burst are at most {QUOTA_ORDERS_MAX:,}")
    text = relayed_text(caller.name, caller.scopes, caller.shops)
    hashes = []
    for shop in (each.encode() for each in caller.shops or ()):
        hash = hash_of_shop(seed, <const uint8_t*><const char*>shop, len(shop))
        hashes.append((hash.high, hash.low))
    hashes.sort()
    answer = answered_new(token, len(hashes), len(name), len(text))
    shops = <Hash128*>shops_of(answer)
    for i, (high, low) in enumerate(hashes):
        shops[i].high, shops[i].low = high, low
    memcpy(<uint8_t*>name_of(answer), <const char*>name, len(name))
    memcpy(<uint8_t*>name_of(answer) + len(name), <const char*>text, len(text))
    answer.is_caller = True
    answer.all_shops = caller.shops is None
    answer.scopes = sum(SCOPE_NAMES.get(scope, 0) for scope in frozenset(caller.scopes))
    answer.expires_ms, answer.orders_per_s, answer.burst, answer.bytes_in_flight, answer.connections = numbers
    if answer.burst == 0:
        answer.burst = answer.orders_per_s
    return answer
