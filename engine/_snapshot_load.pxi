# A snapshot file as a whole: header, sections, digests, and the exceptions that name what is wrong.

import mmap as _mmap


cdef object load_snapshot(str path, bytes log_id):
    with open(path, "rb") as file:
        try:
            mapped = _mmap.mmap(file.fileno(), 0, access=_mmap.ACCESS_READ)
        except ValueError:
            raise SnapshotDamaged(path, "header", 0, "the file is empty") from None
    try:
        mapped.madvise(_mmap.MADV_WILLNEED)
        return loaded_snapshot(path, mapped, log_id)
    finally:
        mapped.close()


cdef object loaded_snapshot(str path, const uint8_t[::1] view, bytes log_id):
    cdef SnapshotReader* r = <SnapshotReader*>calloc(1, sizeof(SnapshotReader))
    try:
        return _load(r, path, view, log_id)
    finally:
        free(r.listings)
        free(r)


cdef Shard _load(SnapshotReader* r, str path, const uint8_t[::1] view, bytes log_id):
    cdef SnapshotHeader header
    cdef uint64_t loaded = 0
    cdef SnapshotRetention retention
    cdef size_t offset
    cdef Shard shard
    cdef int previous = -1
    if <size_t>view.shape[0] < sizeof(header):
        raise SnapshotDamaged(path, "header", 0, "the file is shorter than its header")
    memcpy(&header, &view[0], sizeof(header))
    if header.magic != SNAPSHOT_MAGIC or header.crc != crc32c_of(<uint8_t*>&header, sizeof(header) - 4, 0):
        raise SnapshotDamaged(path, "header", 0, "magic or CRC is wrong")
    if not 1 <= header.format_version <= SNAPSHOT_VERSION:
        raise JournalFormatError(path, header.format_version, SNAPSHOT_VERSION)
    if header.level > LEVEL_NOW:
        raise SnapshotDamaged(path, "header", 0, f"level {header.level} is newer than this program knows ({LEVEL_NOW})")
    shard = Shard.empty(header.log_id[:LOG_ID_BYTES] if log_id is None else log_id)
    r.s = shard.state
    offset = _load_retention(path, view, &header, &retention)
    _begin_state(r.s, &header, &retention)
    ahead = threading.Thread(target=_touch_ahead, args=(shard, <size_t>&loaded), name="everopen-memory", daemon=True)
    ahead.start()
    try:
        for _ in range(header.sections):
            offset = _load_section(r, path, view, offset, &previous)
    finally:
        eo_store64(&loaded, 1)
        ahead.join()
    if offset != <size_t>view.shape[0]:
        raise SnapshotDamaged(path, "end", offset, "bytes after the last section")
    with nogil:
        read_lists(r)
    _compare_digests(r, path, view, &header)
    return shard


# Nothing is loaded on this thread: it takes the page faults of the other one.
def _touch_ahead(Shard shard, size_t loaded):
    with nogil:
        stay_ahead(shard.state, <const uint64_t*>loaded)


# Returns where the first section begins.
cdef size_t _load_retention(
    str path, const uint8_t[::1] view, const SnapshotHeader* header, SnapshotRetention* retention
) except 0:
    memset(retention, 0, sizeof(SnapshotRetention))
    if (header.format_version == 1) != (header.level < 2):
        raise SnapshotDamaged(path, "header", 0, f"level {header.level} is not one of this format version")
    if header.format_version == 1:
        return sizeof(SnapshotHeader)
    if <size_t>view.shape[0] < sizeof(SnapshotHeader) + sizeof(SnapshotRetention):
        raise SnapshotDamaged(path, "retention", sizeof(SnapshotHeader), "the file ends inside of it")
    memcpy(retention, &view[0] + sizeof(SnapshotHeader), sizeof(SnapshotRetention))
    if retention.crc != crc32c_of(<uint8_t*>retention, sizeof(SnapshotRetention) - 4, header.crc):
        raise SnapshotDamaged(path, "retention", sizeof(SnapshotHeader), "the CRC is wrong")
    return sizeof(SnapshotHeader) + sizeof(SnapshotRetention)


cdef void _begin_state(State* s, const SnapshotHeader* header, const SnapshotRetention* retention) noexcept nogil:
    s.level = header.level
    s.sequence = header.sequence
    s.time_ms = header.time_ms
    s.now_ms = header.time_ms
    s.window_ms = header.window_ms
    s.remembered_max = header.remembered_max
    memcpy(s.evicted, retention.evicted, 16)
    memcpy(s.business, retention.evicted, 16)  # the sections bring what is in memory
    s.evicted_orders = retention.evicted_orders
    s.evicted_through = retention.evicted_through


# Returns where the next section begins. `previous`: the partition of the section before, -1 if there is none.
cdef size_t _load_section(
    SnapshotReader* r, str path, const uint8_t[::1] view, size_t offset, int* previous
) except 0:
    cdef SectionHeader section
    cdef size_t left = <size_t>view.shape[0] - offset
    cdef const uint8_t* payload
    if left < sizeof(section):
        raise SnapshotDamaged(path, "next", offset, "the file ends before all of its sections")
    memcpy(&section, &view[offset], sizeof(section))
    if (section.crc != crc32c_of(<uint8_t*>&section, sizeof(section) - 4, 0)
            or section.partition >= <uint32_t>PARTITIONS):
        raise SnapshotDamaged(path, "next", offset, "the section's header is damaged")
    name = f"partition {section.partition}"
    if <int>section.partition <= previous[0]:
        raise SnapshotDamaged(path, name, offset, f"it comes after partition {previous[0]}: moved, or there twice")
    previous[0] = <int>section.partition
    if section.size > left - sizeof(section):
        raise SnapshotDamaged(path, name, offset, "the file ends inside of the section")
    payload = &view[0] + offset + sizeof(section)
    if crc32c_of(payload, section.size, 0) != section.payload_crc:
        raise SnapshotDamaged(path, name, offset, "the CRC of the section is wrong")
    with nogil:
        read_section(r, &section, payload)
    if r.failure != NULL:
        raise SnapshotDamaged(path, name, r.at - &view[0], r.failure.decode())
    return offset + sizeof(section) + section.size


cdef int _compare_digests(SnapshotReader* r, str path, const uint8_t[::1] view, const SnapshotHeader* header) except 0:
    cdef SectionHeader section
    cdef size_t offset = sizeof(SnapshotHeader) + (sizeof(SnapshotRetention) if header.format_version > 1 else 0)
    for _ in range(header.sections):
        memcpy(&section, &view[offset], sizeof(section))
        if memcmp(section.business, r.sums[section.partition], 16) or memcmp(
                section.whole, r.sums[section.partition] + 2, 16):
            raise SnapshotDamaged(path, f"partition {section.partition}", offset, "the digests of the section differ")
        offset += sizeof(section) + section.size
    if memcmp(header.business, r.s.business, 16) or memcmp(header.whole, r.s.whole, 16):
        raise SnapshotDamaged(path, "header", 0, "the digests of the shard differ")
    return 1
