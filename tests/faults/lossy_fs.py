"""A file system in memory that loses power on command: what was not synced is gone afterwards, or half of it.

`python -m tests.faults.lossy_fs MOUNTPOINT` serves it, and takes commands on standard input:

    cut SEED    the next sync of something not yet durable fails, and every call after it: the power is gone

Once the test has unmounted it, and nobody has anything open, memory goes back to what is durable, and is mounted again.
With SEED 0 everything unsynced is lost. With another one each sector of 512 bytes, and each directory as a whole, may
have reached the disk or not. A file's content is durable once it was synced, with O_DIRECT or without; a
name, once its directory was. LossyDisk is the test's side.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
SECTOR = 512
PATIENCE_S = 30.0


@dataclass(slots=True, eq=False)
class File:
    mode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    # Sectors that differ, or may.
    dirty: set[int] = field(default_factory=set)

    def resize(self, size: int) -> None:
        self.dirty.update(range(min(size, len(self.data)) // SECTOR, max(size, len(self.data)) // SECTOR + 1))
        if size < len(self.data):
            del self.data[size:]
        else:
            self.data.extend(bytes(size - len(self.data)))

    def write(self, data: bytes, at: int) -> None:
        if at > len(self.data):
            self.resize(at)
        self.data[at : at + len(data)] = data
        self.dirty.update(range(at // SECTOR, (at + len(data) - 1) // SECTOR + 1))

    def sync(self) -> None:
        self._settle(self.dirty)
        self.dirty.clear()

    def lose(self, pick: Random | None) -> int:
        """What was dirty is lost, or each sector of it by chance. Returns the number of sectors that are."""
        lost = {sector for sector in self.dirty if pick is None or pick.random() < 0.5}
        grown = len(self.data) != len(self.durable)
        if not grown:
            self._settle(self.dirty - lost)
        self.data = bytearray(self.durable)
        self.dirty.clear()
        return len(lost)

    def _settle(self, sectors: set[int]) -> None:
        size = len(self.data)
        del self.durable[size:]
        self.durable.extend(bytes(size - len(self.durable)))
        for sector in sectors:
            span = slice(sector * SECTOR, min((sector + 1) * SECTOR, size))
            self.durable[span] = self.data[span]


@dataclass(slots=True, eq=False)
class Directory:
    mode: int
    entries: dict[str, File | Directory] = field(default_factory=dict)
    durable: dict[str, File | Directory] = field(default_factory=dict)

    def lose(self, pick: Random | None) -> int:
        if pick is None or pick.random() < 0.5:
            self.entries = dict(self.durable)
        self.durable = dict(self.entries)
        return sum(entry.lose(pick) for entry in self.entries.values())


class Disk:
    """The calls of mfusepy.Operations that a log needs. Everything happens on one thread, but `cut`."""

    use_ns = True

    def __init__(self) -> None:
        self.root = Directory(stat.S_IFDIR | 0o755)
        self.armed = self.off = False
        self.seed = 0
        # Files and directories, as the calls of each know.
        self._handles: dict[int, Any] = {}
        self._count = 0

    def cut(self, seed: int) -> None:
        self.seed = seed
        self.armed = True

    def lose(self) -> int:
        lost = self.root.lose(Random(self.seed) if self.seed else None)
        self.armed = self.off = False
        self._handles.clear()
        return lost

    # Names.

    def _at(self, path: str) -> File | Directory:
        node: File | Directory = self.root
        for name in path.split("/"):
            if name:
                if not isinstance(node, Directory) or name not in node.entries:
                    raise OSError(errno.ENOENT, "no such file")
                node = node.entries[name]
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        self._powered()
        head, _, name = path.rpartition("/")
        parent = self._at(head)
        if not isinstance(parent, Directory):
            raise OSError(errno.ENOTDIR, "not a directory")
        return parent, name

    def _node(self, path: str, handle: int | None) -> Any:
        return self._handles[handle] if handle in self._handles else self._at(path)

    def _powered(self) -> None:
        if self.off:
            raise OSError(errno.EIO, "no power")

    # What the kernel asks.

    def init(self, path: str) -> None:
        print("mounted", flush=True)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        node = self._node(path, fh)
        size = len(node.data) if isinstance(node, File) else 0
        whose = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        return {"st_mode": node.mode, "st_size": size, "st_blocks": -(-size // SECTOR), "st_nlink": 1, **whose}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *self._handles[fh].entries]

    def opendir(self, path: str) -> int:
        return self._open(self._at(path))

    def open(self, path: str, flags: int) -> int:
        return self._open(self._at(path))

    def create(self, path: str, mode: int, flags: int = 0) -> int:
        parent, name = self._parent(path)
        parent.entries[name] = file = File(stat.S_IFREG | mode & 0o7777)
        return self._open(file)

    def _open(self, node: File | Directory) -> int:
        self._powered()
        self._count += 1
        self._handles[self._count] = node
        return self._count

    def release(self, path: str, fh: int) -> int:
        self._handles.pop(fh, None)
        return 0

    releasedir = release

    def mkdir(self, path: str, mode: int) -> int:
        parent, name = self._parent(path)
        parent.entries[name] = Directory(stat.S_IFDIR | mode & 0o7777)
        return 0

    def unlink(self, path: str) -> int:
        parent, name = self._parent(path)
        del parent.entries[name]
        return 0

    rmdir = unlink

    def rename(self, old: str, new: str) -> int:
        (source, old_name), (target, new_name) = self._parent(old), self._parent(new)
        target.entries[new_name] = source.entries.pop(old_name)
        return 0

    def chmod(self, path: str, mode: int) -> int:
        node = self._at(path)
        node.mode = stat.S_IFMT(node.mode) | mode & 0o7777
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._powered()
        return bytes(self._node(path, fh).data[offset : offset + size])

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._powered()
        self._node(path, fh).write(data, offset)
        return len(data)

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        self._powered()
        self._node(path, fh).resize(length)
        return 0

    def fallocate(self, path: str, mode: int, offset: int, size: int, fh: int) -> int:
        self._powered()
        file = self._node(path, fh)
        if offset + size > len(file.data):
            file.resize(offset + size)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        file = self._node(path, fh)
        self.off |= self.armed and bool(file.dirty)
        self._powered()
        file.sync()
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._powered()
        node = self._handles[fh]
        node.durable = dict(node.entries)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_frsize": 4096, "f_blocks": 1 << 20, "f_bfree": 1 << 19, "f_bavail": 1 << 19}


def serve(mountpoint: str) -> None:
    import mfusepy

    disk = Disk()

    def listen() -> None:
        for line in sys.stdin:
            disk.cut(int(line.split()[1]))
            print("armed", flush=True)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        mfusepy.FUSE(disk, mountpoint, foreground=True, nothreads=True, hard_remove=True, default_permissions=True)
        print(f"lost {disk.lose()}", flush=True)


class LossyDisk:
    """The process that serves it, and the mountpoint."""

    def __init__(self, mountpoint: Path) -> None:
        self.path = mountpoint
        mountpoint.mkdir()
        command = [sys.executable, "-m", "tests.faults.lossy_fs", str(mountpoint)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self._hear("mounted")

    def cut(self, seed: int = 0) -> None:
        """From the next sync on nothing works."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"cut %d\n" % seed)
        self._hear("armed")

    def lose(self) -> int:
        """The power is gone, and comes again: how many sectors were lost. Nothing there may be open any more."""
        self._unmount()
        lost = int(self._hear("lost").split()[1])
        self._hear("mounted")
        return lost

    def _unmount(self) -> None:
        subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=True)

    def _hear(self, word: str) -> str:
        assert self._process.stdout is not None
        # It cannot be unmounted while anybody has anything open.
        assert select.select([self._process.stdout], [], [], PATIENCE_S)[0], f"no {word} in {PATIENCE_S:g} s"
        line = self._process.stdout.readline().decode()
        assert line.startswith(word), f"{line!r} in place of {word}"
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        # First, since an unmounted one would mount itself again.
        self._process.kill()
        self._process.communicate()
        self._unmount()


def missing() -> str:
    """Why no such file system can be mounted here; empty: it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "there is no /dev/fuse, or it may not be opened"
    try:
        import mfusepy  # noqa: F401

        subprocess.run(["fusermount3", "--version"], check=True, capture_output=True)
    except (ImportError, OSError) as error:
        return f"mfusepy needs libfuse3 and fusermount3: {error}"
    return ""


if __name__ == "__main__":
    serve(sys.argv[1])
