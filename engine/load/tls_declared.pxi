# What the generator asks of OpenSSL 3.

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL
    ctypedef struct SSL_CTX
    ctypedef struct X509_VERIFY_PARAM
    SSL_CTX* SSL_CTX_new(const void* method) noexcept
    void SSL_CTX_free(SSL_CTX* context) noexcept
    const void* TLS_client_method() noexcept
    int SSL_CTX_load_verify_file(SSL_CTX* context, const char* path) noexcept
    void SSL_CTX_set_verify(SSL_CTX* context, int mode, void* callback) noexcept
    int SSL_CTX_set_alpn_protos(SSL_CTX* context, const unsigned char* protocols, unsigned int size) noexcept
    long SSL_CTX_set_mode(SSL_CTX* context, long mode) noexcept
    SSL* SSL_new(SSL_CTX* context) noexcept
    void SSL_free(SSL* tls) noexcept
    int SSL_set_fd(SSL* tls, int fd) noexcept
    void SSL_set_connect_state(SSL* tls) noexcept
    X509_VERIFY_PARAM* SSL_get0_param(SSL* tls) noexcept
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM* parameters, const char* address) noexcept
    int SSL_set1_host(SSL* tls, const char* name) noexcept
    int SSL_set_tlsext_host_name(SSL* tls, const char* name) noexcept
    int SSL_read(SSL* tls, void* into, int size) noexcept
    int SSL_write(SSL* tls, const void* data, int size) noexcept
    int SSL_pending(const SSL* tls) noexcept
    int SSL_get_error(const SSL* tls, int result) noexcept
    int SSL_VERIFY_PEER, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE
    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error() noexcept
