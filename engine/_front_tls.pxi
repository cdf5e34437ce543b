# TLS of a connection, over OpenSSL: its handshake, what it reads and writes, and what certificates the front shows and
# asks for. OpenSSL reads and writes the socket itself, so that the kernel may do the encryption where it can.
#
# OpenSSL keeps its errors in a queue of the thread and looks there for what a call has done, so the queue is emptied
# before each call. Its writes raise SIGPIPE, which Python ignores.
#
# A peer that lets OpenSSL answer a record of its own, such as a key update, and takes nothing, or sends half of such a
# record, makes OpenSSL write before it reads on, or read before it writes. Then only that event is waited for: the
# other one is there all the time, and the loop would not rest.

cdef enum:
    HANDSHAKES_PER_TURN = 8              # each may cost a signature of a millisecond, and others wait meanwhile
    TLS_READS_MAX = 64                   # of one connection in one turn: records may be of one byte
    TLS_RECORDS_MAX = 32                 # that a peer may send without a byte for us, such as key updates
    TLS_INPUT_BYTES = 32768              # asked of the socket at once
    TLS_TICKET_S = 3600                  # so long a session may be resumed
    TLS_CHAIN_MAX = 4                    # authorities between a client's certificate and one that we know


# Who speaks TLS, but no ALPN, hears at once that it is missed: the chooser below would never be asked.
cdef int tls_hello(SSL* tls, int* alert, void* user) noexcept nogil:
    cdef const unsigned char* protocols
    cdef size_t size
    if SSL_client_hello_get0_ext(tls, TLSEXT_TYPE_application_layer_protocol_negotiation, &protocols, &size):
        return SSL_CLIENT_HELLO_SUCCESS
    alert[0] = SSL_AD_NO_APPLICATION_PROTOCOL
    return SSL_CLIENT_HELLO_ERROR


# Of the protocols that the client offers, h2 or none. OpenSSL has checked that the list is well formed.
cdef int tls_choose_h2(
    SSL* tls, const unsigned char** chosen, unsigned char* chosen_size, const unsigned char* offered,
    unsigned int size, void* user
) noexcept nogil:
    cdef unsigned int at = 0
    while at < size:
        if offered[at] == 2 and at + 2 < size and memcmp(offered + at + 1, b"h2", 2) == 0:
            chosen[0] = offered + at + 1
            chosen_size[0] = 2
            return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL


# OpenSSL answers and forgets records that carry nothing for us, one after the other for as long as they come, and the
# loop would stand still meanwhile. Who sends too many of them has sent its last.
cdef void tls_count_record(
    int sent, int version, int type, const void* data, size_t size, SSL* tls, void* user
) noexcept nogil:
    cdef Connection* c = <Connection*>user
    if c == NULL or sent or type != SSL3_RT_HEADER:
        return
    c.tls_records += 1
    if c.tls_records > <uint32_t>TLS_RECORDS_MAX:
        SSL_set_shutdown(tls, SSL_RECEIVED_SHUTDOWN)


# A key that needs a passphrase is no key: nobody is there to be asked.
cdef int tls_no_passphrase(char* into, int size, int is_writing, void* user) noexcept nogil:
    return -1


cdef int tls_complain(str what) except -1:
    cdef const char* reason = ERR_reason_error_string(ERR_peek_last_error())
    raise ValueError(f"{what}: {(<bytes>reason).decode()}" if reason != NULL else what)


# What new connections are to use. The caller's to free; running ones hold it by OpenSSL's own count.
cdef SSL_CTX* tls_context(bytes certificate, bytes key, bytes client_ca, bint client_required) except NULL:
    cdef SSL_CTX* context
    ERR_clear_error()
    context = SSL_CTX_new(TLS_server_method())
    if context == NULL:
        raise MemoryError("no memory for TLS")
    try:
        tls_configure(context)
        tls_take_all(context, certificate, tls_take_certificate, "certificate")
        tls_take_key(context, key)
        if client_ca is not None:
            tls_take_all(context, client_ca, tls_take_authority, "client_ca")
            SSL_CTX_set_verify(
                context, SSL_VERIFY_PEER | (SSL_VERIFY_FAIL_IF_NO_PEER_CERT if client_required else 0), NULL)
        elif client_required:
            raise ValueError("client_ca: needed to require certificates of clients")
    except BaseException:
        SSL_CTX_free(context)
        raise
    return context


cdef int tls_configure(SSL_CTX* context) except -1:
    SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA | SSL_OP_NO_RENEGOTIATION
                        | SSL_OP_NO_COMPRESSION | SSL_OP_ENABLE_KTLS)
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                     | SSL_MODE_RELEASE_BUFFERS)
    # Sessions are in the tickets that clients keep, under keys that this context makes and nobody else knows: none
    # outlives a change of certificates or authorities.
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF)
    SSL_CTX_set_timeout(context, TLS_TICKET_S)
    SSL_CTX_set_num_tickets(context, 1)
    SSL_CTX_set_read_ahead(context, 1)
    SSL_CTX_set_default_read_buffer_len(context, TLS_INPUT_BYTES)
    SSL_CTX_set_alpn_select_cb(context, tls_choose_h2, NULL)
    SSL_CTX_set_client_hello_cb(context, tls_hello, NULL)
    SSL_CTX_set_msg_callback(context, tls_count_record)
    SSL_CTX_set_verify_depth(context, TLS_CHAIN_MAX)
    # Of TLS 1.2, what HTTP/2 does not forbid (RFC 9113, appendix A).
    if not SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) \
            or not SSL_CTX_set_cipher_list(context, b"ECDHE+AESGCM:ECDHE+CHACHA20") \
            or not SSL_CTX_set_session_id_context(context, b"everopen", 8):
        tls_complain("TLS cannot be set up")
    return 0


# What becomes of each certificate of a file, the first of which has number 0. 0: OpenSSL does not take it.
ctypedef int (*certificate_taker)(SSL_CTX* context, X509* certificate, int number) noexcept nogil


# The first certificate is the server's own, the others lead from it to an authority.
cdef int tls_take_certificate(SSL_CTX* context, X509* certificate, int number) noexcept nogil:
    if number == 0:
        return SSL_CTX_use_certificate(context, certificate)
    return SSL_CTX_add1_chain_cert(context, certificate)


cdef int tls_take_authority(SSL_CTX* context, X509* certificate, int number) noexcept nogil:
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(context), certificate) \
        and SSL_CTX_add_client_CA(context, certificate)


cdef int tls_take_all(SSL_CTX* context, bytes pem, certificate_taker take, str name) except -1:
    cdef BIO* bio = tls_pem(pem)
    cdef X509* certificate = PEM_read_bio_X509(bio, NULL, tls_no_passphrase, NULL)
    cdef int count = 0, ok = 1
    while certificate != NULL and ok:
        ok = take(context, certificate, count)
        X509_free(certificate)
        count += 1
        certificate = PEM_read_bio_X509(bio, NULL, tls_no_passphrase, NULL) if ok else NULL
    BIO_free(bio)
    if not ok or not count:
        tls_complain(f"{name}: not usable" if count else f"{name}: no certificate in PEM")
    ERR_clear_error()
    return 0


cdef int tls_take_key(SSL_CTX* context, bytes pem) except -1:
    cdef BIO* bio = tls_pem(pem)
    cdef EVP_PKEY* key = PEM_read_bio_PrivateKey(bio, NULL, tls_no_passphrase, NULL)
    cdef int ok = 0
    BIO_free(bio)
    if key == NULL:
        tls_complain("key: no private key in PEM without a passphrase")
    ok = SSL_CTX_use_PrivateKey(context, key) and SSL_CTX_check_private_key(context)
    EVP_PKEY_free(key)
    if not ok:
        tls_complain("key: not that of the certificate")
    return 0


cdef BIO* tls_pem(bytes pem) except NULL:
    cdef BIO* bio = BIO_new_mem_buf(<const char*>pem, <int>len(pem))
    if bio == NULL:
        raise MemoryError("no memory for a file of PEM")
    return bio


def check_tls(bytes certificate not None, bytes key not None, bytes client_ca, bint client_required):
    """Whether NativeFront.tls() would take these. Raises ValueError: which of them is wrong, and how."""
    SSL_CTX_free(tls_context(certificate, key, client_ca, client_required))


# A connection that was accepted for TLS. 0: there is no memory for it.
cdef int tls_begin(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    pthread_mutex_lock(&f.lock)
    c.tls = SSL_new(f.tls)
    pthread_mutex_unlock(&f.lock)
    if c.tls == NULL or not SSL_set_fd(c.tls, c.fd):
        return 0
    SSL_set_msg_callback_arg(c.tls, c)
    SSL_set_accept_state(c.tls)
    c.handshaking = True
    return 1


# The next step of a handshake. The session has begun already, and has its greeting ready.
cdef void tls_handshake(Connection* c) noexcept nogil:
    cdef Front* f = c.front
    cdef int result, error
    if f.handshakes_left == 0:
        return                           # the socket stays readable
    f.handshakes_left -= 1
    c.tls_records = 0
    ERR_clear_error()
    result = SSL_do_handshake(c.tls)
    error = SSL_get_error(c.tls, result)
    tls_turn(c, &c.tls_full, result != 1 and error == SSL_ERROR_WANT_WRITE)
    if result == 1:
        c.handshaking = False
        c.received_ns = c.progress_ns = f.now_ns
        tally(f, TLS_HANDSHAKES, 1)
        tally(f, TLS_RESUMED, <uint64_t>SSL_session_reused(c.tls))
        tls_keep_certificate(c)
        mark_dirty(c)
        connection_read(c)               # what came behind the handshake is here already, and epoll is silent about it
    elif error != SSL_ERROR_WANT_READ and error != SSL_ERROR_WANT_WRITE:
        tls_handshake_failed(c)


# OpenSSL has said why, in an alert; a close at once could take it back.
cdef void tls_handshake_failed(Connection* c) noexcept nogil:
    c.handshaking = False
    c.tls_broken = True
    tally(c.front, TLS_HANDSHAKES_FAILED, 1)
    connection_linger(c)


# The certificate of the client, which OpenSSL has verified; also that of a resumed session, from its ticket.
cdef void tls_keep_certificate(Connection* c) noexcept nogil:
    cdef X509* shown = SSL_get0_peer_certificate(c.tls)
    cdef unsigned char* at
    cdef int size
    if shown == NULL or SSL_get_verify_result(c.tls) != X509_V_OK:
        return
    size = i2d_X509(shown, NULL)
    if size > 0:
        at = buffer_reserve(&c.certificate, <size_t>size)
        i2d_X509(shown, &at)
        c.certificate.size = <size_t>size


# Fills the front's input as far as there is something, and says what recv() would.
cdef ssize_t tls_read(Connection* c) noexcept nogil:
    cdef uint8_t* into = c.front.input
    cdef ssize_t used = 0
    cdef int size, reads, error
    if c.tls_broken:
        return 0
    if c.tls_starved:
        mark_dirty(c)                    # what it has read may be what it needed to write
    for reads in range(TLS_READS_MAX):
        c.tls_records = 0
        ERR_clear_error()
        size = SSL_read(c.tls, into + used, <int>(INPUT_BYTES - used))
        if size <= 0:
            error = SSL_get_error(c.tls, size)
            tls_turn(c, &c.tls_full, error == SSL_ERROR_WANT_WRITE)
            if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
                errno_is(EAGAIN)
                return used if used else -1
            c.tls_broken = True
            break
        used += size
        tls_turn(c, &c.tls_full, False)
        if used == INPUT_BYTES or not SSL_has_pending(c.tls):
            break
    if used and (c.tls_broken or SSL_has_pending(c.tls)):
        mark_unread(c)
    return used


# As send() does. What the socket did not take must come again: OpenSSL has a record of it ready.
cdef ssize_t tls_write(Connection* c, const uint8_t* data, size_t size) noexcept nogil:
    cdef size_t used = 0
    cdef int written, error = 0
    while used < size:
        ERR_clear_error()
        written = SSL_write(c.tls, data + used, <int>(size - used))
        if written <= 0:
            error = SSL_get_error(c.tls, written)
            if error == SSL_ERROR_WANT_WRITE or error == SSL_ERROR_WANT_READ:
                break
            c.tls_broken = True
            errno_is(EPIPE)
            return -1
        used += <size_t>written
    tls_turn(c, &c.tls_starved, used < size and error == SSL_ERROR_WANT_READ)
    return <ssize_t>used


cdef inline void tls_turn(Connection* c, bint* waits, bint value) noexcept nogil:
    if waits[0] != value:
        waits[0] = value
        connection_watch(c, EPOLL_CTL_MOD)


# There is more in OpenSSL's buffer, of which epoll knows nothing.
cdef inline void mark_unread(Connection* c) noexcept nogil:
    if not c.unread:
        c.unread = True
        c.next_unread = c.front.unread
        c.front.unread = c


# Says once that this was the last word.
cdef void tls_farewell(Connection* c) noexcept nogil:
    if c.tls != NULL and not (c.handshaking or c.tls_broken or c.farewell_said):
        c.farewell_said = True
        ERR_clear_error()
        SSL_shutdown(c.tls)


cdef void tls_end(Connection* c) noexcept nogil:
    if c.tls != NULL:
        tally(c.front, TLS_HANDSHAKES_FAILED, c.handshaking)
        tls_farewell(c)
        SSL_free(c.tls)
        c.tls = NULL
