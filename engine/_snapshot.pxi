cdef object save_snapshot(State* s, str path):
    raise NotImplementedError

cdef object load_snapshot(str path):
    raise NotImplementedError
