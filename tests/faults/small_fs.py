"""A file system that is really full: a small tmpfs in a mount namespace of its own, which needs no root."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

# It stays in the namespace, and through its root others find the file system.
HOLDER = """
mount -t tmpfs -o size=$2 none "$1" && echo mounted || exit 1
while read -r size; do mount -o "remount,size=$size" none "$1" && echo mounted; done
"""


class SmallDisk:
    """`path` is for any process of the same user, for as long as this is open."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir()
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", HOLDER, "sh", folder, str(size_bytes)]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.path = Path(f"/proc/{self._holder.pid}/root") / folder.relative_to("/")
        self._hear()

    def resize(self, size_bytes: int) -> None:
        assert self._holder.stdin is not None
        self._holder.stdin.write(f"{size_bytes}\n")
        self._holder.stdin.flush()
        self._hear()

    def _hear(self) -> None:
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self._holder.communicate("")


def missing() -> str:
    """Why there can be none here; empty: it can."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"no unshare: {error}"
    return f"no mount in a namespace: {done.stderr.strip()}" if done.returncode else ""
