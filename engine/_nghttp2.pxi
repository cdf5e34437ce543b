# What is used of libnghttp2, which does HTTP/2 and HPACK. Its own documentation says what each of these promises.

from libc.stdint cimport uint8_t, int32_t, uint32_t, uint64_t

cdef extern from "<nghttp2/nghttp2.h>" nogil:
    ctypedef struct nghttp2_session:
        pass
    ctypedef struct nghttp2_option:
        pass
    ctypedef struct nghttp2_session_callbacks:
        pass
    ctypedef struct nghttp2_rcbuf:
        pass
    ctypedef struct nghttp2_vec:
        uint8_t* base
        size_t len
    ctypedef struct nghttp2_nv:
        uint8_t* name
        uint8_t* value
        size_t namelen
        size_t valuelen
        uint8_t flags
    ctypedef struct nghttp2_frame_hd:
        size_t length
        int32_t stream_id
        uint8_t type
        uint8_t flags
    ctypedef struct nghttp2_headers:
        nghttp2_frame_hd hd
        int cat
    ctypedef struct nghttp2_rst_stream:
        uint32_t error_code
    ctypedef struct nghttp2_goaway:
        int32_t last_stream_id
        uint32_t error_code
    ctypedef union nghttp2_frame:
        nghttp2_frame_hd hd
        nghttp2_headers headers
        nghttp2_rst_stream rst_stream
        nghttp2_goaway goaway
    ctypedef struct nghttp2_settings_entry:
        int32_t settings_id
        uint32_t value
    ctypedef union nghttp2_data_source:
        int fd
        void* ptr
    ctypedef ssize_t (*nghttp2_data_source_read_callback)(
        nghttp2_session* session, int32_t stream_id, uint8_t* into, size_t room, uint32_t* flags,
        nghttp2_data_source* source, void* user) noexcept nogil
    ctypedef struct nghttp2_data_provider:
        nghttp2_data_source source
        nghttp2_data_source_read_callback read_callback

    int NGHTTP2_DATA, NGHTTP2_HEADERS, NGHTTP2_PRIORITY, NGHTTP2_RST_STREAM, NGHTTP2_SETTINGS, NGHTTP2_PUSH_PROMISE
    int NGHTTP2_PING, NGHTTP2_GOAWAY, NGHTTP2_WINDOW_UPDATE, NGHTTP2_CONTINUATION
    int NGHTTP2_FLAG_NONE, NGHTTP2_FLAG_END_STREAM, NGHTTP2_FLAG_ACK
    int NGHTTP2_HCAT_REQUEST, NGHTTP2_HCAT_RESPONSE, NGHTTP2_HCAT_HEADERS
    int NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, NGHTTP2_SETTINGS_MAX_FRAME_SIZE
    int NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, NGHTTP2_SETTINGS_ENABLE_PUSH
    int NGHTTP2_NV_FLAG_NONE, NGHTTP2_NV_FLAG_NO_INDEX, NGHTTP2_NV_FLAG_NO_COPY_NAME, NGHTTP2_NV_FLAG_NO_COPY_VALUE
    int NGHTTP2_DATA_FLAG_EOF, NGHTTP2_DATA_FLAG_NO_END_STREAM
    int NGHTTP2_ERR_DEFERRED, NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE, NGHTTP2_ERR_CALLBACK_FAILURE
    int NGHTTP2_ERR_NOMEM, NGHTTP2_ERR_REFUSED_STREAM
    int NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR, NGHTTP2_INTERNAL_ERROR, NGHTTP2_REFUSED_STREAM, NGHTTP2_CANCEL
    int NGHTTP2_ENHANCE_YOUR_CALM, NGHTTP2_FLOW_CONTROL_ERROR

    int nghttp2_session_callbacks_new(nghttp2_session_callbacks** into) noexcept
    void nghttp2_session_callbacks_del(nghttp2_session_callbacks* callbacks) noexcept
    void nghttp2_session_callbacks_set_on_frame_recv_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_frame_send_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_begin_frame_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame_hd*, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, int, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_stream_close_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, int32_t, uint32_t, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_begin_headers_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, void*) noexcept nogil) noexcept
    void nghttp2_session_callbacks_set_on_header_callback(
        nghttp2_session_callbacks* callbacks,
        int (*callback)(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t,
                        uint8_t, void*) noexcept nogil) noexcept
    int nghttp2_option_new(nghttp2_option** into) noexcept
    void nghttp2_option_del(nghttp2_option* option) noexcept
    void nghttp2_option_set_no_auto_window_update(nghttp2_option* option, int value) noexcept
    void nghttp2_option_set_max_deflate_dynamic_table_size(nghttp2_option* option, size_t value) noexcept
    void nghttp2_option_set_no_closed_streams(nghttp2_option* option, int value) noexcept
    void nghttp2_option_set_peer_max_concurrent_streams(nghttp2_option* option, uint32_t value) noexcept
    void nghttp2_option_set_stream_reset_rate_limit(nghttp2_option* option, uint64_t burst, uint64_t per_s) noexcept
    void nghttp2_option_set_max_continuations(nghttp2_option* option, size_t value) noexcept
    ctypedef struct nghttp2_mem:
        void* mem_user_data
        void* (*malloc)(size_t, void*) noexcept nogil
        void (*free)(void*, void*) noexcept nogil
        void* (*calloc)(size_t, size_t, void*) noexcept nogil
        void* (*realloc)(void*, size_t, void*) noexcept nogil
    int nghttp2_session_server_new3(nghttp2_session** into, const nghttp2_session_callbacks* callbacks, void* user,
                                    const nghttp2_option* option, nghttp2_mem* memory) noexcept
    int nghttp2_session_client_new2(nghttp2_session** into, const nghttp2_session_callbacks* callbacks, void* user,
                                    const nghttp2_option* option) noexcept
    void nghttp2_session_del(nghttp2_session* session) noexcept
    ssize_t nghttp2_session_mem_recv(nghttp2_session* session, const uint8_t* data, size_t size) noexcept
    ssize_t nghttp2_session_mem_send(nghttp2_session* session, const uint8_t** data) noexcept
    int nghttp2_session_check_request_allowed(nghttp2_session* session) noexcept
    int nghttp2_session_want_read(nghttp2_session* session) noexcept
    int nghttp2_session_want_write(nghttp2_session* session) noexcept
    int nghttp2_session_consume_connection(nghttp2_session* session, size_t size) noexcept
    int nghttp2_session_consume_stream(nghttp2_session* session, int32_t stream_id, size_t size) noexcept
    int nghttp2_session_set_stream_user_data(nghttp2_session* session, int32_t stream_id, void* data) noexcept
    void* nghttp2_session_get_stream_user_data(nghttp2_session* session, int32_t stream_id) noexcept
    int32_t nghttp2_session_get_last_proc_stream_id(nghttp2_session* session) noexcept
    int nghttp2_session_set_local_window_size(nghttp2_session* session, uint8_t flags, int32_t stream_id,
                                              int32_t size) noexcept
    int nghttp2_session_resume_data(nghttp2_session* session, int32_t stream_id) noexcept
    int nghttp2_session_terminate_session(nghttp2_session* session, uint32_t error_code) noexcept
    int nghttp2_session_terminate_session2(nghttp2_session* session, int32_t last_stream_id,
                                           uint32_t error_code) noexcept
    int nghttp2_submit_shutdown_notice(nghttp2_session* session) noexcept
    int nghttp2_submit_goaway(nghttp2_session* session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
                              const uint8_t* data, size_t size) noexcept
    int nghttp2_submit_settings(nghttp2_session* session, uint8_t flags, const nghttp2_settings_entry* entries,
                                size_t count) noexcept
    int nghttp2_submit_ping(nghttp2_session* session, uint8_t flags, const uint8_t* data) noexcept
    int nghttp2_submit_rst_stream(nghttp2_session* session, uint8_t flags, int32_t stream_id,
                                  uint32_t error_code) noexcept
    int nghttp2_submit_response(nghttp2_session* session, int32_t stream_id, const nghttp2_nv* headers, size_t count,
                                const nghttp2_data_provider* data) noexcept
    int nghttp2_submit_headers(nghttp2_session* session, uint8_t flags, int32_t stream_id, const void* priority,
                               const nghttp2_nv* headers, size_t count, void* stream_user) noexcept
    int nghttp2_submit_data(nghttp2_session* session, uint8_t flags, int32_t stream_id,
                            const nghttp2_data_provider* data) noexcept
    int nghttp2_submit_trailer(nghttp2_session* session, int32_t stream_id, const nghttp2_nv* headers,
                               size_t count) noexcept
    int32_t nghttp2_submit_request(nghttp2_session* session, const void* priority, const nghttp2_nv* headers,
                                   size_t count, const nghttp2_data_provider* data, void* stream_user) noexcept
    const char* nghttp2_strerror(int code) noexcept
