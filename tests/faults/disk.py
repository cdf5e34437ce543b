"""A disk that forgets, tears, fails and lies as real ones do, but from a seed. It has one directory.

What a file holds is kept twice: as processes see it (`cache`) and as it is after a loss of power (`platter`). A sync
makes them equal. A loss of power keeps any part of what was not synced, sector by sector, and any of the names that
were made, moved or removed since the directory was last synced, in any order.
"""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from tests.faults import damage

SECTOR = 512
UNIT = 4096
# How many operations after its process died a late write lands, at most.
LATE_OPERATIONS_MAX = 60


class Crash(Exception):
    """The process is gone, in the middle of an operation."""


class Fault(StrEnum):
    """What can be wished for; each happens once, at the next operation that it fits."""

    SHORT_WRITE = "short write"
    WRITE_ERROR = "write error"
    SYNC_ERROR = "sync error"
    MISDIRECTED_WRITE = "misdirected write"
    LOST_WRITE = "lost write"


def _zeros(data: bytes) -> bool:
    return data.count(0) == len(data)


@dataclass(eq=False)
class File:
    cache: bytearray = field(default_factory=bytearray)
    platter: bytearray = field(default_factory=bytearray)
    # Ranges of sectors that were written and not synced; those whose sync will lie.
    dirty: list[tuple[int, int]] = field(default_factory=list)
    lost: list[tuple[int, int]] = field(default_factory=list)
    # The cache holds what the platter does not, and takes it for clean.
    stale: bool = False

    def put(self, data: bytes, at: int) -> None:
        end = at + len(data)
        if end > len(self.cache):
            self.cache.extend(bytes(end - len(self.cache)))
        self.cache[at:end] = data
        if data:
            self.dirty.append((at // SECTOR, (end - 1) // SECTOR + 1))

    def keep(self, first: int, end: int) -> None:
        """The sectors reach the platter."""
        begin, end = first * SECTOR, min(end * SECTOR, len(self.cache))
        if end > len(self.platter):
            self.platter.extend(bytes(end - len(self.platter)))
        self.platter[begin:end] = self.cache[begin:end]

    def forget(self) -> None:
        """The cache drops what it takes for clean."""
        if self.stale:
            fresh = bytearray(self.platter.ljust(len(self.cache), b"\0"))
            for first, end in self.dirty:
                fresh[first * SECTOR : end * SECTOR] = self.cache[first * SECTOR : end * SECTOR]
            self.cache, self.stale = fresh, False


class Disk:
    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.names: dict[str, File] = {}
        self.synced_names: dict[str, File] = {}
        # Changes of names that are not synced: what is there from then on (None: nothing) under each.
        self.changes: list[dict[str, File | None]] = []
        self.open_files: dict[int, File] = {}
        self.next_fd = 3
        self.full = False
        # A device that lies about one write is not taken for one that loses `durable` as well.
        self.keeps_durable = False
        self.wishes: list[Fault] = []
        self.crash_after = 0
        self.crash_is_power = False
        # What an ended process had under way to segments. A process has not ended while the kernel works for it, so
        # that it comes at all is more than is to be feared; it comes after the next leader has looked at the log.
        self.late: list[tuple[int, File, int, bytes]] = []
        self.late_held = False
        self.operations = 0
        self.seen: Counter[str] = Counter()
        self.published: list[bytes] = []

    # What a driver asks for.

    def crash_in(self, operations: int, power: bool) -> None:
        """Ends the process in the middle of an operation to come."""
        self.crash_after, self.crash_is_power = operations, power

    def wish(self, fault: Fault) -> None:
        self.wishes.append(fault)

    def power_lost(self) -> None:
        self.wishes.clear()
        self.late.clear()
        self.full = False
        held: list[dict[str, File | None]] = [{**self.names}, *self.changes]
        files = {id(file): file for names in held for file in names.values() if file}
        keep = self._keep_some()
        durable = self.names.get("durable")
        for file in files.values():
            if file is not durable:
                self._lose_unsynced(file, keep)
        self._lose_names(keep)
        if durable is not None:
            self._lose_published(durable)

    def damaged(self, kind: str) -> bool:
        """Something that was durable changes behind everybody's back; False if there is nothing to change."""
        done = damage.KINDS[kind](self)
        self.seen[kind] += done
        return done

    def content(self, name: str) -> bytes:
        return bytes(self.names[name].cache)

    # The engine's table of functions. Errors are OSError.

    def open(self, name: str, flags: int) -> int:
        self._step()
        file = self.names.get(name)
        if file is None:
            if not flags & os.O_CREAT:
                raise OSError(errno.ENOENT, name)
            file = File()
            self._change({name: file})
        elif flags & os.O_EXCL:
            raise OSError(errno.EEXIST, name)
        self.next_fd += 1
        self.open_files[self.next_fd] = file
        return self.next_fd

    def close(self, fd: int) -> None:
        self.open_files.pop(fd, None)

    def size(self, fd: int) -> int:
        return len(self.open_files[fd].cache)

    def read(self, fd: int, size: int, at: int) -> bytes:
        self._step()
        return bytes(self.open_files[fd].cache[at : at + size])

    def write(self, fd: int, data: bytes, at: int) -> int:
        file = self.open_files[fd]
        if self._step():
            self._crash_in_write(file, data, at)
        if self.full and at + len(data) > len(file.cache):
            self.seen["no space"] += 1
            raise OSError(errno.ENOSPC, "write")
        if len(data) > SECTOR and self._granted(Fault.SHORT_WRITE):
            data = data[: self.random.randrange(1, (len(data) - 1) // SECTOR + 1) * SECTOR]
        elif (not _zeros(data) or self.random.random() < 0.1) and self._granted(Fault.WRITE_ERROR):
            self._write_pieces(file, data, at)
            raise OSError(errno.EIO, "write")
        elif not _zeros(data) and self._granted(Fault.MISDIRECTED_WRITE):
            self._write_elsewhere(data)
            return len(data)
        file.put(data, at)
        if not _zeros(data) and self._granted(Fault.LOST_WRITE):
            file.lost.append(file.dirty[-1])
        return len(data)

    def sync(self, fd: int) -> None:
        file = self.open_files[fd]
        self._sample_published()
        if self._step():
            self._sync_partly(file, self._keep_some())
            self._crash()
        if file.dirty and self._granted(Fault.SYNC_ERROR):
            self._sync_partly(file, self._keep_some())
            file.dirty.clear()
            file.stale = True
            raise OSError(errno.EIO, "sync")
        self._sync(file)

    def allocate(self, fd: int, size: int) -> None:
        file = self.open_files[fd]
        if self._step():
            self._crash()
        if self.full and size > len(file.cache):
            self.seen["no space"] += 1
            raise OSError(errno.ENOSPC, "allocate")
        file.cache.extend(bytes(max(0, size - len(file.cache))))

    def forget(self, fd: int) -> None:
        self.open_files[fd].forget()

    def rename(self, source: str, target: str, replace: bool) -> None:
        self._step_at_a_name()
        if source not in self.names:
            raise OSError(errno.ENOENT, source)
        if target in self.names and not replace:
            raise OSError(errno.EEXIST, target)
        self._change({source: None, target: self.names[source]})
        self._crash_if_due()

    def remove(self, name: str) -> None:
        self._step_at_a_name()
        if name not in self.names:
            raise OSError(errno.ENOENT, name)
        self._change({name: None})
        self._crash_if_due()

    def sync_names(self) -> None:
        if self._step():
            if self.random.random() < 0.5:
                self._sync_names()
            self._crash()
        if self.changes and self._granted(Fault.SYNC_ERROR):
            raise OSError(errno.EIO, "sync of the directory")
        self._sync_names()

    def list(self) -> list[str]:
        self._step()
        return sorted(self.names)

    def map(self, name: str, size: int) -> bytearray:
        """Memory that stays what it is until the power is lost."""
        if self._step():
            self._crash()
        file = self.names.get(name)
        if file is None:
            file = File()
            self._change({name: file})
        if len(file.cache) != size:
            if self.full:
                raise OSError(errno.ENOSPC, "map")
            file.cache = file.cache.ljust(size, b"\0")[:size]
        return file.cache

    # How operations are counted, and crash.

    def _step(self) -> bool:
        """Counts an operation. True: the process ends within this one, and the caller says how."""
        self.operations += 1
        if self.late and not self.late_held:
            self._land_late()
        if self.crash_after:
            self.crash_after -= 1
            if self.crash_after == 0:
                return True
        return False

    def _step_at_a_name(self) -> None:
        if self._step():
            if self.random.random() < 0.5:
                self._crash()
            self.crash_after = -1

    def _crash_if_due(self) -> None:
        if self.crash_after == -1:
            self._crash()

    def _crash(self) -> None:
        self.crash_after = 0
        raise Crash

    def _crash_in_write(self, file: File, data: bytes, at: int) -> None:
        """With the power go any sectors. A process that is killed leaves its writes off between two pages."""
        if self.crash_is_power:
            self._write_pieces(file, data, at)
            self._crash()
        done = min(len(data), self.random.randint(0, len(data) // UNIT + 1) * UNIT)
        file.put(data[:done], at)
        if done < len(data) and self.random.random() < 0.5 and self._is_segment(file):
            lands = self.operations + self.random.randrange(1, LATE_OPERATIONS_MAX)
            places = range(done, len(data), SECTOR)
            self.late += [(lands, file, at + place, data[place : place + SECTOR]) for place in places]
            self.late_held = True
        self._crash()

    def _is_segment(self, file: File) -> bool:
        return any(found is file and name.endswith(".log") for name, found in self.names.items())

    def _write_pieces(self, file: File, data: bytes, at: int) -> None:
        """Some of the sectors."""
        sectors = -(-len(data) // SECTOR)
        kept = self._keep_some()(0, sectors)
        for index in kept:
            file.put(data[index * SECTOR : (index + 1) * SECTOR], at + index * SECTOR)
        self.seen["torn write"] += 0 < len(kept) < sectors

    def _land_late(self) -> None:
        due = [write for write in self.late if write[0] <= self.operations]
        self.late = [write for write in self.late if write[0] > self.operations]
        for _, file, at, data in due:
            file.put(data, at)
        self.seen["late write"] += len(due)

    def _granted(self, fault: Fault) -> bool:
        if fault not in self.wishes:
            return False
        self.wishes.remove(fault)
        self.seen[fault] += 1
        return True

    def _write_elsewhere(self, data: bytes) -> None:
        """To a place of another file or of the same; never `durable`, which is only an aid."""
        files = [file for name, file in sorted(self.names.items()) if len(file.cache) >= UNIT and name != "durable"]
        file = self.random.choice(files)
        file.put(data, self.random.randrange(len(file.cache) // SECTOR) * SECTOR)

    # What becomes durable.

    def _keep_some(self) -> damage.Keep:
        """A way to choose from a range of sectors: all, none, the first, the last, or any."""
        way = self.random.randrange(6)
        share = self.random.random()

        def keep(first: int, end: int) -> list[int]:
            middle = self.random.randint(first, end)
            if way == 0:
                return []
            if way == 1:
                return list(range(first, end))
            if way == 2:
                return list(range(first, middle))
            if way == 3:
                return list(range(middle, end))
            return [sector for sector in range(first, end) if self.random.random() < share]

        return keep

    def _sync_partly(self, file: File, keep: damage.Keep) -> None:
        for first, end in file.dirty:
            for sector in keep(first, end):
                file.keep(sector, sector + 1)

    def _sync(self, file: File) -> None:
        for dirty in file.dirty:
            if dirty not in file.lost:
                file.keep(*dirty)
        file.stale = file.stale or bool(file.lost)
        file.platter.extend(bytes(max(0, len(file.cache) - len(file.platter))))
        file.dirty.clear()
        file.lost.clear()

    def _lose_unsynced(self, file: File, keep: damage.Keep) -> None:
        for first, end in file.dirty:
            kept = keep(first, end)
            for sector in kept:
                file.keep(sector, sector + 1)
            if len(kept) < end - first:
                self.seen["torn write" if kept else "write lost with the power"] += 1
        if len(file.platter) < len(file.cache) and self.random.random() < 0.5:
            file.platter.extend(bytes(len(file.cache) - len(file.platter)))
        file.dirty.clear()
        file.lost.clear()
        file.stale = False
        file.cache = bytearray(file.platter)

    # Names.

    def _change(self, change: dict[str, File | None]) -> None:
        self.changes.append(change)
        self._apply(self.names, change)

    @staticmethod
    def _apply(names: dict[str, File], change: dict[str, File | None]) -> None:
        for name, file in change.items():
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file

    def _sync_names(self) -> None:
        self.synced_names = dict(self.names)
        self.changes.clear()

    def _lose_names(self, keep: damage.Keep) -> None:
        kept = keep(0, len(self.changes))
        self.seen["name lost with the power"] += len(self.changes) - len(kept)
        for index in self.random.sample(kept, len(kept)) if self.random.random() < 0.3 else kept:
            self._apply(self.synced_names, self.changes[index])
        self.names = dict(self.synced_names)
        self.changes.clear()

    # `durable`, which is mapped, and written behind the disk's back.

    def _sample_published(self) -> None:
        if "durable" in self.names:
            self.published = [*self.published[-3:], bytes(self.names["durable"].cache)]

    def _lose_published(self, file: File) -> None:
        """Each half of it is one of the last versions, or was never written; or its name is gone."""
        if self.keeps_durable:
            self.names["durable"] = self.synced_names["durable"] = file
            return
        size = len(file.cache)
        versions = [*self.published, bytes(size), bytes(file.cache)]
        halves = [self.random.choice(versions)[at : at + size // 2] for at in (0, size // 2)]
        # New memory: who has mapped the old one is gone.
        file.cache = bytearray(b"".join(halves))

    def files(self) -> Iterator[tuple[str, File]]:
        """What damage may come to: what is synced under its name, and long enough."""
        for name, file in sorted(self.synced_names.items()):
            if name.endswith((".log", ".snap")) and self.names.get(name) is file and len(file.platter) >= SECTOR:
                yield name, file
