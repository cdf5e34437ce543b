"""What the exit codes say, of the command line and of the processes behind it."""

from __future__ import annotations

from enum import IntEnum

from engine import errors


class Exit(IntEnum):
    """Of `everopen`; a child's code means the same. docs/operations.md lists them."""

    OK = 0
    WRONG = 1
    ARGUMENT = 2
    IN_USE = 3
    DAMAGED = 4
    UNUSABLE = 5
    # The core ends the process so when a write or sync of a log fails.
    SYNC_FAILED = 70

    @classmethod
    def of(cls, error: Exception) -> Exit:
        """For an error that a user can do something about."""
        match error:
            case errors.JournalLocked():
                return cls.IN_USE
            case (
                errors.JournalDamaged()
                | errors.SnapshotDamaged()
                | errors.ReplayMismatch()
                | errors.JournalFormatError()
                | errors.ArchiveDamaged()
            ):
                return cls.DAMAGED
            case _:
                return cls.UNUSABLE


def in_words(error: Exception) -> str:
    """For people, without a traceback. A log that must not be served says so first."""
    if isinstance(error, (errors.JournalDamaged, errors.SnapshotDamaged, errors.ReplayMismatch)):
        return f"DATA_LOSS: the log cannot be served: {error}"
    return str(error)
