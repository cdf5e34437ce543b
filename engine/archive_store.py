"""Closed orders that may leave memory: one SQLite file a shard, `archive.sqlite` in the shard's directory.

meta        name and value: format_version, log_id (of the log that the orders come from), archived_through, and
            through_crc, a CRC32C over log_id and archived_through: orders leave memory for that number
orders      by shop_id, order_id, order_sequence, closed_sequence: the order, as bytes that only the core reads, and a
            CRC32C over all of it

order_sequence, since an order id may be used again once its window is over; closed_sequence, since an order that came
back into memory is closed and archived once more. The earlier version stays, because a restore to a point between the
two needs it. A row is never changed: put again, it is the same order.

`archived_through` is the closing sequence up to which every order that was closed is here. It moves in the transaction
that brings the last of them, so it never promises what a crash could take back.

docs/adr/0011 has the measurements behind page size, cache and keys. A memory map is not used: it would turn a read
error of the disk into a signal.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import quote

from engine import datadir
from engine._core import crc32c, journal_segments
from engine.errors import ArchiveDamaged, ArchiveUnavailable

FILE = "archive.sqlite"
FORMAT_VERSION = 1
# How long to wait for another process that has the file locked: none of ours keeps it so for long.
BUSY_S = 5.0
CACHE_KIB = 64 * 1024
# A checkpoint syncs twice, so it waits for 32 MiB.
CHECKPOINT_PAGES = 8_192

_TABLES = (
    "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE orders(
        shop_id TEXT, order_id TEXT, order_sequence INTEGER, closed_sequence INTEGER,
        item BLOB NOT NULL, crc INTEGER NOT NULL,
        PRIMARY KEY(shop_id, order_id, order_sequence, closed_sequence)
    ) WITHOUT ROWID, STRICT""",
)
_META = "SELECT name, value FROM meta"
_PUT = """INSERT OR REPLACE INTO orders(closed_sequence, order_sequence, shop_id, order_id, item, crc)
    VALUES (?, ?, ?, ?, ?, ?)"""
_LAST_UP_TO = """SELECT closed_sequence, order_sequence, shop_id, order_id, item, crc FROM orders
    WHERE (shop_id, order_id) <= (?, ?)
    ORDER BY shop_id DESC, order_id DESC, order_sequence DESC, closed_sequence DESC LIMIT 1"""
_FIRST_BEHIND = """SELECT closed_sequence, order_sequence, shop_id, order_id, item, crc FROM orders
    WHERE (shop_id, order_id) > (?, ?)
    ORDER BY shop_id, order_id, order_sequence, closed_sequence LIMIT 1"""
_HAS = "SELECT 1 FROM orders WHERE (shop_id, order_id, order_sequence) = (?, ?, ?) LIMIT 1"
# With a bare column beside max(), SQLite takes the row that has the maximum.
_NEWEST_UNTIL = """SELECT max(closed_sequence), order_sequence, shop_id, order_id, item, crc FROM orders
    WHERE closed_sequence <= ? GROUP BY shop_id, order_id, order_sequence"""
# What says that the file is not what was written; the other codes are about getting at it.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISMATCH}


class Closed(NamedTuple):
    closed_sequence: int
    order_sequence: int
    shop_id: str
    order_id: str
    item: bytes

    @property
    def place(self) -> str:
        return f"shop {self.shop_id}, order {self.order_id}, closed at sequence {self.closed_sequence}"


# What a shard gives is a plain tuple.
Row = Closed | tuple[int, int, str, str, bytes]


def log_id_of(directory: Path) -> bytes:
    """Of the log in a shard's directory. Raises ArchiveUnavailable if there is none."""
    for header in journal_segments(str(directory)):
        return bytes(header["log_id"])
    raise ArchiveUnavailable(str(directory), "there is no log")


class _Store:
    """What readers and writers share. Any thread may call; SQLite lets one in at a time."""

    def __init__(self, directory: Path, log_id: bytes, mode: str) -> None:
        self.path = directory / FILE
        self._log_id = log_id
        if mode == "ro":
            self._identity()
        with self._in_words():
            address = f"file:{quote(str(self.path))}?mode={mode}"
            self._connection = sqlite3.connect(
                address, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._in_words():
                self._prepare()
            self._opened = self._identity()
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA cell_size_check = ON")
        self._refuse_unless_ours()

    @property
    def archived_through(self) -> int:
        with self._in_words():
            return self._through(dict(self._connection.execute(_META)))

    def refuse_gap(self, evicted_through: int) -> int:
        """Returns archived_through. Raises ArchiveDamaged if orders have left memory that were never archived here."""
        through = self.archived_through
        if through < evicted_through:
            raise ArchiveDamaged(
                str(self.path),
                f"has what was closed up to sequence {through}, but what was closed up to {evicted_through} was here,"
                " and has left memory or soon will: bring back the newest archive there is",
            )
        return through

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _refuse_unless_ours(self) -> None:
        meta = dict(self._connection.execute(_META))
        if meta.get("format_version") != FORMAT_VERSION:
            found = meta.get("format_version")
            raise ArchiveDamaged(str(self.path), f"format version {found}; this program knows {FORMAT_VERSION}")
        if meta.get("log_id") != self._log_id:
            raise ArchiveDamaged(str(self.path), f"belongs to another log than {self._log_id.hex()}")
        self._through(meta)

    def _identity(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise ArchiveUnavailable(str(self.path), "is missing") from None
        return found.st_dev, found.st_ino

    def _refuse_if_replaced(self) -> None:
        """What is written into a file that has lost its name is lost as well, and what it says need not hold."""
        if self._identity() != self._opened:
            raise ArchiveUnavailable(str(self.path), "another file has this name now")

    def _through(self, meta: dict[str, object]) -> int:
        value = meta.get("archived_through")
        if type(value) is not int or value < 0:
            raise ArchiveDamaged(str(self.path), f"archived_through is {value!r}")
        if meta.get("through_crc") != _through_crc(self._log_id, value):
            raise ArchiveDamaged(str(self.path), f"archived_through is {value}, and its checksum does not fit")
        return value

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except UnicodeDecodeError as error:
            raise ArchiveDamaged(str(self.path), str(error)) from None
        except sqlite3.Error as error:
            # A code is missing where Python could not read what SQLite gave it.
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            kind = ArchiveDamaged if code in _DAMAGE else ArchiveUnavailable
            raise kind(str(self.path), str(error)) from None


class ArchiveReader(_Store):
    """Reads beside a writer in another process. Raises ArchiveUnavailable if there is no file, or no getting at it."""

    def __init__(self, directory: Path, log_id: bytes) -> None:
        super().__init__(directory, log_id, "ro")

    def find(self, shop_id: str, order_id: str, evicted_through: int = 0) -> bytes | None:
        """The newest order of that id. Raises ArchiveDamaged if the store lacks orders that have left memory.

        evicted_through: the closing sequence up to which orders have left memory.
        """
        self._refuse_if_replaced()
        self.refuse_gap(evicted_through)
        key = shop_id, order_id
        # SQLite keeps no checksums, and a row whose key is damaged is not where it is looked for. But the search is led
        # astray by that very row, so it ends beside it: whoever proves the rows on both sides does not miss it.
        before, _ = (self._proved(statement, key) for statement in (_LAST_UP_TO, _FIRST_BEHIND))
        return before.item if before and (before.shop_id, before.order_id) == key else None

    def _proved(self, statement: str, key: tuple[str, str]) -> Closed | None:
        with self._in_words():
            row = self._connection.execute(statement, key).fetchone()
        return _checked(self.path, row) if row else None

    def has(self, shop_id: str, order_id: str, order_sequence: int) -> bool:
        """Whether any version of that order is here."""
        with self._in_words():
            key = shop_id, order_id, order_sequence
            return self._connection.execute(_HAS, key).fetchone() is not None

    def iterate(self, until: int) -> Iterator[Closed]:
        """The newest version of each order that was closed at or before `until`, by shop and order id."""
        with self._in_words():
            rows = self._connection.execute(_NEWEST_UNTIL, (until,))
            yield from (_checked(self.path, row) for row in rows)

    def count(self) -> int:
        with self._in_words():
            (number,) = self._connection.execute("SELECT count(*) FROM orders").fetchone()
            return int(number)

    def copy(self, directory: Path) -> None:
        """Copies one moment of the store, synced, as a file that stands alone."""
        target = sqlite3.connect(directory / FILE, isolation_level=None)
        try:
            with self._in_words():
                # In one go: a copy in steps begins anew whenever somebody writes.
                self._connection.backup(target)
                target.execute("PRAGMA synchronous = FULL")
                target.execute("PRAGMA journal_mode = DELETE")
        finally:
            target.close()
        with (directory / FILE).open("rb") as file:
            os.fsync(file.fileno())
        datadir.sync_directory(directory)


class ArchiveStore(_Store):
    """Open for writing; made if it is missing. What a call has returned from is synced.

    After an error it must be opened anew: only then is it known what is on the disk.
    """

    def __init__(self, directory: Path, log_id: bytes, cache_kib: int = CACHE_KIB) -> None:
        self._cache_kib = cache_kib
        super().__init__(directory, log_id, "rwc")

    def _prepare(self) -> None:
        execute = self._connection.execute
        for pragma in (
            "cell_size_check = ON",
            "journal_mode = WAL",
            "synchronous = FULL",
            f"cache_size = -{self._cache_kib}",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        ):
            execute(f"PRAGMA {pragma}")
        with self._transaction():
            # Nothing but an empty file: somebody died before this transaction was over.
            if execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
                for table in _TABLES:
                    execute(table)
                self._set(format_version=FORMAT_VERSION, log_id=self._log_id)
                self._promise(self._log_id, 0)
        self._refuse_unless_ours()
        # A commit whose sync failed may be in the write-ahead log as the kernel shows it, and not on the disk. What is
        # written once more, into the file itself, and synced there, is.
        busy, frames, done = execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy or frames != done:
            raise ArchiveUnavailable(str(self.path), "somebody reads it and lets no checkpoint through")
        datadir.sync_directory(self.path.parent)

    def put_many(self, rows: Iterable[Row], through: int = 0, evicted_through: int = 0) -> int:
        """Adds rows and returns archived_through.

        through: every order that was closed up to there is here with these rows; 0: more of them follow.
        Raises ArchiveDamaged if orders that have left memory up to `evicted_through` are not all here.
        """
        with self._in_words(), self._transaction():
            had = self.refuse_gap(evicted_through)
            # By id, so that neighbours meet on one page.
            ordered = sorted(rows, key=itemgetter(2, 3))
            self._connection.executemany(_PUT, [(*row, _crc(*row)) for row in ordered])
            if through > had:
                self._promise(self._log_id, through)
        self._refuse_if_replaced()
        return max(had, through)

    def remove_after(self, sequence: int, log_id: bytes) -> None:
        """What a log that was cut after `sequence`, and goes on as `log_id`, has not seen closed."""
        with self._in_words(), self._transaction():
            through = self.archived_through
            self._connection.execute("DELETE FROM orders WHERE closed_sequence > ?", (sequence,))
            self._set(log_id=log_id)
            self._promise(log_id, min(through, sequence))
        self._log_id = log_id

    def _promise(self, log_id: bytes, through: int) -> None:
        self._set(archived_through=through, through_crc=_through_crc(log_id, through))

    def _set(self, **values: int | bytes) -> None:
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _through_crc(log_id: bytes, through: int) -> int:
    return crc32c(log_id + b"%d" % through)


def _crc(closed_sequence: int, order_sequence: int, shop_id: str, order_id: str, item: bytes) -> int:
    return crc32c(item, crc32c(f"{closed_sequence} {order_sequence} {len(shop_id)} {shop_id}{order_id}".encode()))


def _checked(path: Path, row: tuple[int, int, str, str, bytes, int]) -> Closed:
    closed = Closed._make(row[:5])
    # What is damaged need not be of the right type either.
    if (
        type(closed.shop_id) is not str
        or type(closed.order_id) is not str
        or type(closed.item) is not bytes
        or _crc(*closed) != row[5]
    ):
        raise ArchiveDamaged(str(path), f"the row of {closed.place} is damaged")
    return closed
