# Memory for the sessions of libnghttp2, which take and give back some ten small pieces for each call, all on the loop's
# thread: lists of free pieces by size cost a third of what malloc does. What is larger goes to malloc.

cdef enum:
    PIECE_STEP_BYTES = 32
    PIECE_SIZES = 17                     # up to 512 bytes; size 0 stands for malloc's
    PIECE_HEAD_BYTES = 16                # before each piece, which so keeps malloc's alignment
    PIECES_KEPT_BYTES_MAX = 33554432     # free ones; more is given back

cdef struct Piece:
    uint64_t size                        # in steps; 0: malloc's
    Piece* next

cdef struct Pieces:
    Piece* free[PIECE_SIZES]
    size_t kept_bytes


cdef void* piece_take(size_t size, void* user) noexcept nogil:
    cdef Pieces* pieces = <Pieces*>user
    cdef size_t steps = (size + PIECE_STEP_BYTES - 1) // PIECE_STEP_BYTES
    cdef Piece* piece
    if steps == 0:
        steps = 1
    if steps < PIECE_SIZES and pieces.free[steps] != NULL:
        piece = pieces.free[steps]
        pieces.free[steps] = piece.next
        pieces.kept_bytes -= steps * PIECE_STEP_BYTES
        return <uint8_t*>piece + PIECE_HEAD_BYTES
    if steps >= PIECE_SIZES:
        piece = <Piece*>malloc(PIECE_HEAD_BYTES + size)
        steps = 0
    else:
        piece = <Piece*>malloc(PIECE_HEAD_BYTES + steps * PIECE_STEP_BYTES)
    if piece == NULL:
        return NULL
    piece.size = steps
    return <uint8_t*>piece + PIECE_HEAD_BYTES


cdef void piece_give(void* at, void* user) noexcept nogil:
    cdef Pieces* pieces = <Pieces*>user
    cdef Piece* piece
    if at == NULL:
        return
    piece = <Piece*>(<uint8_t*>at - PIECE_HEAD_BYTES)
    if piece.size == 0 or pieces.kept_bytes >= <size_t>PIECES_KEPT_BYTES_MAX:
        free(piece)
        return
    piece.next = pieces.free[piece.size]
    pieces.free[piece.size] = piece
    pieces.kept_bytes += piece.size * PIECE_STEP_BYTES


cdef void* piece_take_clear(size_t count_of, size_t size, void* user) noexcept nogil:
    cdef void* at = NULL
    if size == 0 or count_of <= UINT32_MAX // size:
        at = piece_take(count_of * size, user)
    if at != NULL:
        memset(at, 0, count_of * size)
    return at


cdef void* piece_resize(void* at, size_t size, void* user) noexcept nogil:
    cdef Piece* piece
    cdef void* larger
    if at == NULL:
        return piece_take(size, user)
    piece = <Piece*>(<uint8_t*>at - PIECE_HEAD_BYTES)
    if piece.size == 0:
        piece = <Piece*>realloc(piece, PIECE_HEAD_BYTES + size)
        return <uint8_t*>piece + PIECE_HEAD_BYTES if piece != NULL else NULL
    if size <= piece.size * PIECE_STEP_BYTES:
        return at
    larger = piece_take(size, user)
    if larger != NULL:
        memcpy(larger, at, piece.size * PIECE_STEP_BYTES)
        piece_give(at, user)
    return larger


cdef void pieces_free(Pieces* pieces) noexcept nogil:
    cdef Piece* piece
    cdef int i
    for i in range(PIECE_SIZES):
        while pieces.free[i] != NULL:
            piece = pieces.free[i]
            pieces.free[i] = piece.next
            free(piece)
    pieces.kept_bytes = 0
