"""Exceptions of the engine. Rejections of a command are values: what is here stops a start or names a bug."""

from __future__ import annotations


class EveropenError(Exception):
    """Every exception that the engine raises on purpose."""


# On opening, reading and writing a log.


class JournalError(EveropenError):
    """Something about the log of a shard."""


class JournalDamaged(JournalError):
    """The log is not what was written. Nothing was repaired or skipped."""

    def __init__(self, file: str, offset: int, sequence: int, reason: str) -> None:
        """file: where it was seen; offset: bytes; sequence: of the first record that is in doubt (0: not known)."""
        super().__init__(
            f"{file}: offset {offset}, sequence {sequence}: {reason}; see what there is with: everopen journal verify"
        )
        self.file = file
        self.offset = offset
        self.sequence = sequence
        self.reason = reason


class JournalFormatError(JournalError):
    """The log is whole, but of a format that this program does not know."""

    def __init__(self, file: str, found: int, known: int) -> None:
        super().__init__(f"{file}: format version {found}; this program reads version {known}")
        self.file = file
        self.found = found
        self.known = known


class JournalLocked(JournalError):
    """Another process has the log open for writing."""

    def __init__(self, directory: str, pid: int | None) -> None:
        super().__init__(f"{directory}: in use by {'another process' if pid is None else f'process {pid}'}")
        self.directory = directory
        self.pid = pid


class JournalFull(JournalError):
    """Nothing was appended: too much is waiting for the disk. Try again."""


class JournalNoSpace(JournalError):
    """Nothing was appended: the next segment could not be preallocated."""


# On replaying records and reading snapshots.


class ReplayMismatch(EveropenError):
    """A record, replayed, does not give what it says: damage without a wrong checksum, or code that guesses."""

    def __init__(self, sequence: int, reason: str) -> None:
        """sequence: of the record that does not fit."""
        super().__init__(f"sequence {sequence}: {reason}")
        self.sequence = sequence
        self.reason = reason


class SnapshotDamaged(EveropenError):
    """A snapshot is not what was written."""

    def __init__(self, file: str, section: str, offset: int, reason: str) -> None:
        """section: which part of the snapshot, in words; offset: bytes from the beginning of the file."""
        super().__init__(f"{file}: section {section}, offset {offset}: {reason}")
        self.file = file
        self.section = section
        self.offset = offset
        self.reason = reason


# On the archive.


class ArchiveError(EveropenError):
    """Something about the archive of a shard."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class ArchiveDamaged(ArchiveError):
    """The archive is not what was written, or lacks orders that are nowhere else."""


class ArchiveUnavailable(ArchiveError):
    """There is no getting at the archive; later there may be."""


# On a data directory as a whole.


class DataDirectoryError(EveropenError):
    """A data directory cannot be used as asked: it is missing, not empty, of another shape, or lacks what is needed."""


class FilesBroken(EveropenError):
    """Certificates, or files that say who may call, cannot be used; which and why."""


# In simulations only.


class ProcessDied(EveropenError):
    """A simulated process ended itself; the words are its last."""
