# What is used of OpenSSL 3, which does TLS and X.509. Its own documentation says what each promises; those that its
# headers define as macros look like functions here.

cdef extern from "<openssl/ssl.h>" nogil:
    ctypedef struct SSL_METHOD:
        pass
    ctypedef struct SSL_CTX:
        pass
    ctypedef struct SSL:
        pass
    ctypedef struct X509_VERIFY_PARAM:
        pass
    const SSL_METHOD* TLS_server_method() noexcept
    const SSL_METHOD* TLS_client_method() noexcept
    SSL_CTX* SSL_CTX_new(const SSL_METHOD* method) noexcept
    void SSL_CTX_free(SSL_CTX* context) noexcept
    uint64_t SSL_CTX_set_options(SSL_CTX* context, uint64_t options) noexcept
    long SSL_CTX_set_mode(SSL_CTX* context, long modes) noexcept
    int SSL_CTX_set_min_proto_version(SSL_CTX* context, int version) noexcept
    int SSL_CTX_set_cipher_list(SSL_CTX* context, const char* ciphers) noexcept
    int SSL_CTX_set_session_id_context(SSL_CTX* context, const unsigned char* id, unsigned int size) noexcept
    long SSL_CTX_set_timeout(SSL_CTX* context, long seconds) noexcept
    long SSL_CTX_set_session_cache_mode(SSL_CTX* context, long mode) noexcept
    int SSL_CTX_set_num_tickets(SSL_CTX* context, size_t count) noexcept
    void SSL_CTX_set_read_ahead(SSL_CTX* context, int wanted) noexcept
    void SSL_CTX_set_default_read_buffer_len(SSL_CTX* context, size_t size) noexcept
    int SSL_CTX_use_certificate(SSL_CTX* context, X509* certificate) noexcept
    int SSL_CTX_add1_chain_cert(SSL_CTX* context, X509* certificate) noexcept
    int SSL_CTX_use_PrivateKey(SSL_CTX* context, EVP_PKEY* key) noexcept
    int SSL_CTX_check_private_key(const SSL_CTX* context) noexcept
    int SSL_CTX_add_client_CA(SSL_CTX* context, X509* authority) noexcept
    X509_STORE* SSL_CTX_get_cert_store(const SSL_CTX* context) noexcept
    void SSL_CTX_set_verify(SSL_CTX* context, int mode, void* callback) noexcept
    int SSL_CTX_load_verify_file(SSL_CTX* context, const char* path) noexcept
    int SSL_CTX_set_alpn_protos(SSL_CTX* context, const unsigned char* protocols, unsigned int size) noexcept
    void SSL_CTX_set_verify_depth(SSL_CTX* context, int depth) noexcept
    ctypedef int (*alpn_chooser)(SSL*, const unsigned char**, unsigned char*, const unsigned char*, unsigned int,
                                 void*) noexcept nogil
    void SSL_CTX_set_alpn_select_cb(SSL_CTX* context, alpn_chooser callback, void* user) noexcept
    ctypedef int (*hello_reader)(SSL*, int*, void*) noexcept nogil
    void SSL_CTX_set_client_hello_cb(SSL_CTX* context, hello_reader callback, void* user) noexcept
    int SSL_client_hello_get0_ext(SSL* tls, unsigned int type, const unsigned char** out, size_t* size) noexcept
    ctypedef void (*record_watcher)(int, int, int, const void*, size_t, SSL*, void*) noexcept nogil
    void SSL_CTX_set_msg_callback(SSL_CTX* context, record_watcher callback) noexcept
    void SSL_set_msg_callback_arg(SSL* tls, void* user) noexcept
    SSL* SSL_new(SSL_CTX* context) noexcept
    void SSL_free(SSL* tls) noexcept
    int SSL_set_fd(SSL* tls, int fd) noexcept
    void SSL_set_accept_state(SSL* tls) noexcept
    void SSL_set_connect_state(SSL* tls) noexcept
    X509_VERIFY_PARAM* SSL_get0_param(SSL* tls) noexcept
    int X509_VERIFY_PARAM_set1_ip_asc(X509_VERIFY_PARAM* parameters, const char* address) noexcept
    int SSL_set1_host(SSL* tls, const char* name) noexcept
    int SSL_set_tlsext_host_name(SSL* tls, const char* name) noexcept
    int SSL_do_handshake(SSL* tls) noexcept
    int SSL_read(SSL* tls, void* into, int size) noexcept
    int SSL_write(SSL* tls, const void* data, int size) noexcept
    int SSL_shutdown(SSL* tls) noexcept
    void SSL_set_shutdown(SSL* tls, int mode) noexcept
    int SSL_get_error(const SSL* tls, int result) noexcept
    int SSL_has_pending(const SSL* tls) noexcept
    int SSL_pending(const SSL* tls) noexcept
    int SSL_session_reused(const SSL* tls) noexcept
    X509* SSL_get0_peer_certificate(const SSL* tls) noexcept
    long SSL_get_verify_result(const SSL* tls) noexcept
    uint64_t SSL_OP_CIPHER_SERVER_PREFERENCE, SSL_OP_PRIORITIZE_CHACHA, SSL_OP_NO_RENEGOTIATION, SSL_OP_NO_COMPRESSION
    uint64_t SSL_OP_ENABLE_KTLS
    long SSL_MODE_ENABLE_PARTIAL_WRITE, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, SSL_MODE_RELEASE_BUFFERS
    long SSL_SESS_CACHE_OFF
    int TLS1_2_VERSION, SSL3_RT_HEADER
    int SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_FAIL_IF_NO_PEER_CERT
    int SSL_TLSEXT_ERR_OK, SSL_TLSEXT_ERR_ALERT_FATAL
    int SSL_CLIENT_HELLO_SUCCESS, SSL_CLIENT_HELLO_ERROR, SSL_AD_NO_APPLICATION_PROTOCOL
    unsigned int TLSEXT_TYPE_application_layer_protocol_negotiation
    int SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE, SSL_RECEIVED_SHUTDOWN

cdef extern from "<openssl/x509.h>" nogil:
    ctypedef struct X509:
        pass
    ctypedef struct X509_STORE:
        pass
    void X509_free(X509* certificate) noexcept
    int i2d_X509(const X509* certificate, unsigned char** out) noexcept
    int X509_STORE_add_cert(X509_STORE* store, X509* certificate) noexcept
    long X509_V_OK

cdef extern from "<openssl/evp.h>" nogil:
    ctypedef struct EVP_PKEY:
        pass
    void EVP_PKEY_free(EVP_PKEY* key) noexcept

cdef extern from "<openssl/bio.h>" nogil:
    ctypedef struct BIO:
        pass
    BIO* BIO_new_mem_buf(const void* data, int size) noexcept
    int BIO_free(BIO* bio) noexcept

cdef extern from "<openssl/pem.h>" nogil:
    ctypedef int (*passphrase_asker)(char*, int, int, void*) noexcept nogil
    X509* PEM_read_bio_X509(BIO* bio, X509** into, passphrase_asker ask, void* user) noexcept
    EVP_PKEY* PEM_read_bio_PrivateKey(BIO* bio, EVP_PKEY** into, passphrase_asker ask, void* user) noexcept

cdef extern from "<openssl/err.h>" nogil:
    void ERR_clear_error() noexcept
    unsigned long ERR_peek_last_error() noexcept
    const char* ERR_reason_error_string(unsigned long error) noexcept
