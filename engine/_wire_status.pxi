# Fault -> google.rpc.Status with the details that a program can act on: ErrorInfo always, BadRequest for
# INVALID_ARGUMENT, ResourceInfo for NOT_FOUND and ALREADY_EXISTS where the fault names a resource.

cdef extern from *:
    """
    #include <string.h>

    enum { STATUS_BYTES = 1024 };   /* all but the fault's own texts: about 250 bytes */
    """
    const int STATUS_BYTES
    size_t strlen(const char* text) noexcept nogil


cdef inline Span span_of_text(const char* text) noexcept nogil:
    return span_of(<const uint8_t*>text, strlen(text)) if text != NULL else span_empty()


cdef inline uint8_t* put_chars(uint8_t* at, const char* text) noexcept nogil:
    cdef Span span = span_of_text(text)
    return put_bytes(at, span.data, span.size)


cdef inline uint8_t* put_span(uint8_t* at, Span span) noexcept nogil:
    return put_bytes(at, span.data, span.size)


cdef uint8_t* put_decimal(uint8_t* at, uint32_t value) noexcept nogil:
    cdef uint32_t unit = 1
    while value // unit >= 10:
        unit *= 10
    while unit > 0:
        at[0] = <uint8_t>(0x30 + value // unit % 10)
        at += 1
        unit //= 10
    return at


# field, field[index] or field[index].subfield; nothing for the message as a whole.
cdef uint8_t* put_path(uint8_t* at, const Fault* fault) noexcept nogil:
    at = put_chars(at, fault.field)
    if fault.field != NULL and fault.index >= 0:
        at[0] = 0x5B  # [
        at = put_decimal(at + 1, <uint32_t>fault.index)
        at[0] = 0x5D  # ]
        at += 1
        if fault.subfield != NULL:
            at[0] = 0x2E  # .
            at = put_chars(at + 1, fault.subfield)
    return at


# shops/S, or shops/S/KIND/ID.
cdef uint8_t* put_resource_name(uint8_t* at, const Fault* fault) noexcept nogil:
    at = put_span(put_chars(at, b"shops/"), fault.shop_id)
    if fault.resource == RESOURCE_LOCATION:
        at = put_chars(at, b"/locations/")
    elif fault.resource == RESOURCE_SKU:
        at = put_chars(at, b"/skus/")
    elif fault.resource == RESOURCE_ORDER:
        at = put_chars(at, b"/orders/")
    else:
        return at
    return put_span(at, fault.id)


cdef const char* resource_type(int resource) noexcept nogil:
    if resource == RESOURCE_SHOP:
        return b"everopen.v1.Shop"
    if resource == RESOURCE_LOCATION:
        return b"everopen.v1.Location"
    if resource == RESOURCE_SKU:
        return b"everopen.v1.Sku"
    return b"everopen.v1.Order"


cdef uint8_t* put_error_info(uint8_t* at, const Fault* fault) noexcept nogil:
    at = put_text(at, 1, span_of_text(fault.reason))
    return put_text(at, 2, span_of_text(b"everopen.v1"))


cdef uint8_t* put_bad_request(uint8_t* at, const Fault* fault) noexcept nogil:
    cdef uint8_t* violation = begin_message(at, 1)
    cdef uint8_t* path
    at = violation
    if fault.field != NULL:
        path = begin_message(at, 1)
        at = end_message(path, put_path(path, fault))
    at = put_text(at, 2, span_of_text(fault.description))
    return end_message(violation, at)


cdef uint8_t* put_resource_info(uint8_t* at, const Fault* fault) noexcept nogil:
    cdef uint8_t* name
    at = put_text(at, 1, span_of_text(resource_type(fault.resource)))
    name = begin_message(at, 2)
    at = end_message(name, put_resource_name(name, fault))
    return put_text(at, 4, span_of_text(fault.description))


ctypedef uint8_t* (*DetailWriter)(uint8_t* at, const Fault* fault) noexcept nogil


# One of `repeated google.protobuf.Any details = 3`.
cdef uint8_t* put_detail(uint8_t* at, const char* type_url, DetailWriter write, const Fault* fault) noexcept nogil:
    cdef uint8_t* detail = begin_message(at, 3)
    cdef uint8_t* value
    value = begin_message(put_text(detail, 1, span_of_text(type_url)), 2)
    at = end_message(value, write(value, fault))
    return end_message(detail, at)


# For people: the path, if there is one, and the sentence.
cdef uint8_t* put_message(uint8_t* at, const Fault* fault) noexcept nogil:
    cdef uint8_t* text
    if fault.field == NULL and fault.description == NULL:
        return at
    text = begin_message(at, 2)
    at = put_path(text, fault)
    if fault.field != NULL:
        at[0] = 0x20  # a blank
        at += 1
    return end_message(text, put_chars(at, fault.description))


cdef void encode_status(Buffer* out, const Fault* fault) noexcept nogil:
    cdef size_t texts = (
        3 * strlen_or_0(fault.description) + strlen_or_0(fault.reason)
        + 2 * (strlen_or_0(fault.field) + strlen_or_0(fault.subfield)) + <size_t>fault.shop_id.size + fault.id.size
    )
    cdef uint8_t* at = buffer_reserve(out, STATUS_BYTES + texts)
    at = put_number(at, 1, <uint64_t>fault.code)
    at = put_message(at, fault)
    at = put_detail(at, b"type.googleapis.com/google.rpc.ErrorInfo", put_error_info, fault)
    if fault.code == CODE_INVALID_ARGUMENT:
        at = put_detail(at, b"type.googleapis.com/google.rpc.BadRequest", put_bad_request, fault)
    elif (fault.code == CODE_NOT_FOUND or fault.code == CODE_ALREADY_EXISTS) and fault.resource != 0:
        at = put_detail(at, b"type.googleapis.com/google.rpc.ResourceInfo", put_resource_info, fault)
    buffer_end(out, at)


cdef inline size_t strlen_or_0(const char* text) noexcept nogil:
    return strlen(text) if text != NULL else 0
