# The credential of a request, and the table of those that were seen: what stands for whom, until it expires, the keys
# change, or others are used more.

cdef extern from *:
    """
    /* Takes as long whatever the bytes are. */
    static int same_bytes(const uint8_t* a, const uint8_t* b, size_t size) {
        uint8_t differ = 0;
        for (size_t i = 0; i < size; i++) differ |= a[i] ^ b[i];
        return differ == 0;
    }
    """
    bint same_bytes(const uint8_t* a, const uint8_t* b, size_t size) noexcept nogil

cdef enum CredentialKind:
    CREDENTIAL_BEARER = 1
    CREDENTIAL_KEY = 2
    CREDENTIAL_CERTIFICATE = 3
    CREDENTIAL_BAD = 4                   # malformed, or a second one

cdef enum CredentialState:
    CREDENTIAL_NEW = 1                   # or forgotten
    CREDENTIAL_ASKED = 2
    CREDENTIAL_KNOWN = 3
    CREDENTIAL_REFUSED = 4

cdef enum:
    CREDENTIALS_MAX = 4096
    CREDENTIAL_BYTES_MAX = 8192          # of one; nobody's is longer, and the table is to be bounded by bytes too
    CREDENTIAL_BUCKETS = 8192

cdef struct Credential:
    Credential* next                     # in its bucket
    Credential* newer                    # by use
    Credential* older
    uint32_t refs                        # the table's, a question's, and one of each stream
    uint8_t kind, state
    bint listed                          # in the table
    uint32_t scopes
    uint64_t hash, epoch, token
    uint64_t until_ns                    # of REFUSED: CLOCK_MONOTONIC
    uint64_t expires_ms                  # of KNOWN: CLOCK_REALTIME; 0: never
    Buffer secret
    Stream* waiting
    Answered* caller                     # the answer itself, of KNOWN
    uint32_t payer                       # its slot of the quotas, plus one; 0: it has no bound
    Peer* asker                          # in whose share its question counts; NULL: in none


cdef bint is_credential(const uint8_t* name, size_t size) noexcept nogil:
    return text_is(name, size, b"authorization", 13) or text_is(name, size, b"x-api-key", 9)


# The scheme of `authorization` is not case sensitive (RFC 9110, section 11.1).
cdef bint has_scheme(const uint8_t* value, size_t size, const char* scheme, size_t scheme_size) noexcept nogil:
    cdef size_t i
    if size <= scheme_size or value[scheme_size] != c" ":
        return False
    for i in range(scheme_size):
        if value[i] | 0x20 != <uint8_t>scheme[i]:
            return False
    return True


# A second one makes it bad, of whichever kind: nobody is to guess which one counts.
cdef void take_credential(Connection* c, size_t name_size, const uint8_t* value, size_t size) noexcept nogil:
    cdef size_t scheme = 0
    cdef uint8_t kind = CREDENTIAL_KEY
    if name_size == 13 and has_scheme(value, size, b"bearer", 6):
        kind = CREDENTIAL_BEARER
        scheme = 7
    elif name_size == 13 and has_scheme(value, size, b"apikey", 6):
        scheme = 7
    elif name_size == 13:
        kind = CREDENTIAL_BAD
    while scheme < size and value[scheme] == c" ":
        scheme += 1
    c.credential.size = 0
    if scheme == size or size - scheme > <size_t>CREDENTIAL_BYTES_MAX or c.credential_kind != 0:
        c.credential_kind = CREDENTIAL_BAD
        return
    c.credential_kind = kind
    memcpy(buffer_reserve(&c.credential, size), value + scheme, size - scheme)
    c.credential.size = size - scheme


# ---- the table


cdef Credential* find_credential(Front* f, uint8_t kind, const uint8_t* data, size_t size) noexcept nogil:
    cdef uint64_t hash = xxh3_64(data, size, f.identity.seed + kind)
    cdef Credential* k = f.identity.buckets[hash % <uint64_t>CREDENTIAL_BUCKETS]
    while k != NULL and (k.hash != hash or k.kind != kind or k.secret.size != size
                         or not same_bytes(k.secret.data, data, size)):
        k = k.next
    if k != NULL:
        unlink_use(f, k)
        link_use(f, k)
        return k
    k = <Credential*>calloc(1, sizeof(Credential))
    INVARIANT(k != NULL, b"memory for a credential")
    k.kind = kind
    k.hash = hash
    k.state = CREDENTIAL_NEW
    memcpy(buffer_reserve(&k.secret, size), data, size)
    k.secret.size = size
    if f.identity.count_of == <uint64_t>CREDENTIALS_MAX:
        table_remove(f, f.identity.oldest)
    k.next = f.identity.buckets[hash % <uint64_t>CREDENTIAL_BUCKETS]
    f.identity.buckets[hash % <uint64_t>CREDENTIAL_BUCKETS] = k
    f.identity.count_of += 1
    k.refs = 1
    k.listed = True
    link_use(f, k)
    return k


cdef void link_use(Front* f, Credential* k) noexcept nogil:
    k.newer = NULL
    k.older = f.identity.newest
    if k.older != NULL:
        k.older.newer = k
    else:
        f.identity.oldest = k
    f.identity.newest = k


cdef void unlink_use(Front* f, Credential* k) noexcept nogil:
    if k.newer != NULL:
        k.newer.older = k.older
    else:
        f.identity.newest = k.older
    if k.older != NULL:
        k.older.newer = k.newer
    else:
        f.identity.oldest = k.newer


# The first to go: those who try out credentials do not drive out those who have one.
cdef void put_last(Front* f, Credential* k) noexcept nogil:
    if not k.listed or k == f.identity.oldest:
        return
    unlink_use(f, k)
    k.older = NULL
    k.newer = f.identity.oldest
    k.newer.older = k
    f.identity.oldest = k


# Streams that hold it go on with it.
cdef void table_remove(Front* f, Credential* k) noexcept nogil:
    cdef Credential** at = &f.identity.buckets[k.hash % <uint64_t>CREDENTIAL_BUCKETS]
    while at[0] != k:
        at = &at[0].next
    at[0] = k.next
    unlink_use(f, k)
    k.listed = False
    f.identity.count_of -= 1
    credential_release(k)


cdef void credential_release(Credential* k) noexcept nogil:
    k.refs -= 1
    if k.refs == 0:
        buffer_free(&k.secret)
        free(k.caller)
        free(k)
