# TLS of a connection (OpenSSL 3): the peer must have a certificate of the given CA for the name that was asked for, and
# speak HTTP/2. The handshake happens in the first reads and writes.

# NULL: the file holds no certificates.
cdef SSL_CTX* client_context(const char* ca_path) noexcept nogil:
    cdef SSL_CTX* context = SSL_CTX_new(TLS_client_method())
    if context == NULL or SSL_CTX_load_verify_file(context, ca_path) != 1 \
            or SSL_CTX_set_alpn_protos(context, <const unsigned char*>b"\x02h2", 3) != 0:
        SSL_CTX_free(context)
        return NULL
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL)
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER)
    return context


cdef SSL* client_begin(SSL_CTX* context, int fd, const char* host) noexcept nogil:
    cdef SSL* tls = SSL_new(context)
    if tls == NULL or SSL_set_fd(tls, fd) != 1:
        SSL_free(tls)
        return NULL
    # A name that is no address is one that the certificate has to have.
    if X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls), host) != 1:
        SSL_set1_host(tls, host)
        SSL_set_tlsext_host_name(tls, host)
    SSL_set_connect_state(tls)
    return tls


# As recv(): -1 and EAGAIN where nothing is there, 0 at the end.
cdef ssize_t receive(Connection* c, void* into, size_t room) noexcept nogil:
    cdef int got
    if c.tls == NULL:
        return recv(c.fd, into, room, MSG_DONTWAIT)
    ERR_clear_error()
    got = SSL_read(c.tls, into, <int>room)
    return got if got > 0 else tls_result(c, got)


# As send().
cdef ssize_t transmit(Connection* c, const void* data, size_t size) noexcept nogil:
    cdef int done
    if c.tls == NULL:
        return send(c.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
    ERR_clear_error()
    done = SSL_write(c.tls, data, <int>min(size, <size_t>0x7fffffff))
    return done if done > 0 else tls_result(c, done)


cdef ssize_t tls_result(Connection* c, int result) noexcept nogil:
    global errno
    cdef int error = SSL_get_error(c.tls, result)
    if error == SSL_ERROR_WANT_READ or error == SSL_ERROR_WANT_WRITE:
        errno = EAGAIN
        return -1
    errno = ECONNRESET
    return 0 if result == 0 else -1
