"""The archive as offline tools see it: whether it has what a state says, how it comes into a backup, and back again."""

from __future__ import annotations

from pathlib import Path

from engine import rebuild
from engine._core import PLACE_ORDER, Shard
from engine.archive_store import FILE, ArchiveReader, ArchiveStore
from engine.errors import ArchiveDamaged
from engine.progress import watched
from engine.rebuild import Extent
from engine.record import Record
from everopen.v1 import order_service_pb2 as orders
from everopen.v1 import outcome_pb2

ACCEPTED = (outcome_pb2.OUTCOME_PLACED, outcome_pb2.OUTCOME_BACKORDERED)


def prove(state: Shard, log: Extent) -> int:
    """The number of orders that have left memory, if the archive beside the log has exactly those.

    Raises ArchiveDamaged, and names the order if it can be told.

    An order has left memory if it is archived, and none of its id and sequence is in memory. Its newest version that
    was closed by then is the one that left: a later one would have been in memory in between, and have left it since.
    """
    counts = state.counts()
    evicted = counts["evicted_orders"]
    if not (log.shard / FILE).exists():
        if evicted:
            raise ArchiveDamaged(str(log.shard / FILE), f"is missing, and {evicted} orders have left memory")
        return 0
    total = found = 0
    with ArchiveReader(log.shard, log.log_id) as archive:
        archive.refuse_gap(counts["evicted_through"])
        for row in watched("proving the archive", archive.count(), archive.iterate(state.sequence)):
            try:
                digest = state.business_digest_of(row.item)
            except ValueError as error:
                raise ArchiveDamaged(str(archive.path), f"{row.place}: {error}") from None
            if state.order_sequence(row.shop_id, row.order_id) != row.order_sequence:
                total += int(digest, 16)
                found += 1
        # Until something has left memory, nothing says what the archive must have: a state from before the level that
        # retention begins with knows of no closing at all.
        if evicted and (found, total % 2**128) != (evicted, int(state.evicted_digest(), 16)):
            reason = f"{found} of the {evicted} orders that have left memory"
            if found == evicted:
                reason = "other orders than those that have left memory"
            raise ArchiveDamaged(str(archive.path), f"has {reason}{_first_missing(state, log, archive)}")
    return evicted


def _first_missing(state: Shard, log: Extent, archive: ArchiveReader) -> str:
    """In words, of what the log still tells: an order that was accepted is in memory or in the archive."""
    if log.first_sequence > state.sequence:
        return ""
    for sequence, data in rebuild.records(log, log.first_sequence, state.sequence):
        record = Record.parse(sequence, data)
        if record.kind == PLACE_ORDER and record.outcome in ACCEPTED:
            order = orders.PlaceOrderRequest.FromString(record.command)
            in_memory = state.order_sequence(order.shop_id, order.order_id) == sequence
            if not in_memory and not archive.has(order.shop_id, order.order_id, sequence):
                return f"; shop {order.shop_id}, order {order.order_id}, placed at sequence {sequence}, is missing"
    return ""


def copy(source: Path, copy: Path, log_id: bytes) -> None:
    """Into a backup, also of a running engine; after its log, so that all that had left memory by then is here."""
    if (source / FILE).exists():
        with ArchiveReader(source, log_id) as archive:
            archive.copy(copy)


def put_back(source: Path, directory: Path, log_id: bytes, state: Shard) -> None:
    """From a backup beside a restored log, which ends where `state` does. `log_id` is that of the log in the backup.

    Where nothing has left memory there is nothing to put back. It would even be wrong: sequences that were counted as
    closings when retention began may mean another version of an order in the history that follows now.
    """
    if state.counts()["evicted_orders"] == 0:
        return
    with ArchiveReader(source, log_id) as archive:
        archive.copy(directory)
    with ArchiveStore(directory, log_id) as store:
        store.remove_after(state.sequence, state.log_id)
