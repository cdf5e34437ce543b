"""Every bound, in one place: those of the core by name, those of the server, and how they must relate.

The relations are checked at import, so a bound that is moved alone stops the program before it can serve.
"""

from __future__ import annotations

from typing import Final

from engine._core import LIMITS

__all__ = ["LIMITS"]

# How long calls in flight may take to end after SIGTERM.
DRAIN_S_MAX: Final = 30
# And then to sync and seal the logs. A worker that has not ended after both is killed.
CLOSE_S_MAX: Final = 20
# A child that died is started again after this long; each time twice as long, unless it lived for a while.
RESTART_S_MIN: Final = 0.05
RESTART_S_MAX: Final = 5.0
RESTART_RESET_S: Final = 10.0
# Processes of an engine that was killed get this long to end before the next one gives up.
PREDECESSOR_S_MAX: Final = 10.0
# An orphan looks for the next supervisor this often; one that has not said hello by then is replaced.
ORPHAN_RETRY_S: Final = 0.05
HELLO_S_MAX: Final = 0.5
# Unless it runs, and gets no processor.
HELLO_BUSY_S_MAX: Final = 3.0
# A follower that has said nothing for so long is frozen. Longer than a leader may be: nobody waits for it.
FOLLOWER_SILENT_S_MAX: Final = 10.0
BEAT_S: Final = 1.0
# One that has said nothing for so long is not relied on to take over.
FOLLOWER_QUIET_S_MAX: Final = 3.0
# A follower that is told to lead listens by then, or is killed; as does a worker that has just been started.
PROMOTION_S_MAX: Final = 5.0
LISTEN_S_MAX: Final = 30.0
# Whether workers show a heartbeat is looked at this often.
WATCH_S: Final = 0.1
HEARTBEAT_MS_DEFAULT: Final = 1_000
# A child that was terminated is taken for the only one only after this long.
LEAVING_S: Final = 0.1
# A worker that is to give its shards away, and does not, is killed.
HAND_OVER_S_MAX: Final = 10.0
# In an upgrade a new process gets this long to start; a follower, which has a log to read, and a successor that one.
UPGRADE_START_S_MAX: Final = 30.0
SUCCESSOR_S_MAX: Final = 600.0
FOLLOWERS_MAX: Final = 1
SNAPSHOT_BYTES_DEFAULT: Final = 1024**3
SNAPSHOT_S_DEFAULT: Final = 900
# Whether somebody has to be started for a snapshot is looked at this often.
REPLAY_LOOK_S: Final = 1.0
# What the child that writes a snapshot takes of the disk at most, so that the log's own writes find it free.
SNAPSHOT_BYTES_PER_S: Final = 64 * 1024**2
# Connects that wait for a worker to accept them; the kernel may allow less.
LISTEN_BACKLOG: Final = 4_096
LISTEN_ADDRESSES_MAX: Final = 16
# Of fronts to a control server. A worker has one, and another one while it is replaced.
CONTROL_CONNECTIONS_MAX: Final = 256
# One message between the supervisor and a child, and the descriptors that may ride along (the kernel's SCM_MAX_FD).
CHANNEL_MESSAGE_BYTES_MAX: Final = 160 * 1024
CHANNEL_FDS_MAX: Final = 253

# One batch for the archive, and how long a follower waits until it is synced.
ARCHIVE_FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
ARCHIVE_ROWS_MAX: Final = 16_384
ARCHIVE_S_MAX: Final = 30.0
# Pages that the archive keeps in memory, of all shards together.
ARCHIVE_CACHE_KIB_MAX: Final = 256 * 1024

# Who calls. Credentials are bounded before anything of them is decoded.
TOKEN_BYTES_MAX: Final = 8 * 1024
TOKEN_LEEWAY_S: Final = 30
# Keys that have no name are tried one after the other.
TOKEN_KEYS_MAX: Final = 64
TOKEN_KEYS_UNNAMED_MAX: Final = 4
CALLER_NAME_BYTES_MAX: Final = 128
SHOPS_OF_CALLER_MAX: Final = 1_024
# Of orders, so that the arithmetic of the native buckets stays within 64 bits; of all else.
ORDERS_QUOTA_MAX: Final = 10**9
QUOTA_MAX: Final = 2**40
IDENTITY_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
IDENTITY_LOOK_S: Final = 1.0
RELAY_SECRET_BYTES: Final = 32
# Lines of the audit trail for calls that were refused.
AUDIT_REFUSED_PER_S: Final = 10
AUDIT_REFUSED_BURST: Final = 100
# Before the next file is begun; and how long a line waits for those of other processes.
AUDIT_FILE_BYTES_MAX: Final = 64 * 1024**2
AUDIT_LOCK_S_MAX: Final = 10.0

LOG_ID_BYTES: Final = 16
DATA_FORMAT_VERSION: Final = 1


def _demand(holds: bool, relation: str) -> None:
    if not holds:
        raise AssertionError(f"a bound breaks a relation: {relation}")


_demand(LIMITS["RECORD_COMMAND_BYTES_MAX"] <= LIMITS["MESSAGE_BYTES_MAX"], "a command fits a message")
_demand(LIMITS["LINES_MAX"] <= LIMITS["ALLOCATIONS_MAX"], "every line of an order can be allocated")
_demand(LIMITS["LINES_MAX"] < 256, "line_index fits a byte")
_demand(LIMITS["ALLOCATIONS_MAX"] <= LIMITS["STEPS_MAX"], "one order's work fits the steps of a tick")
_demand(LIMITS["EVICT_STEPS_MAX"] <= LIMITS["STEPS_MAX"], "nobody waits longer for an Evict than for a tick")
_demand(
    # Ids and regions with their length, lines, allocations at acceptance and later, commands, and what comes once.
    LIMITS["LINES_MAX"] * (LIMITS["ID_BYTES_MAX"] + 33)
    + LIMITS["ALLOCATIONS_MAX"] * (2 * (LIMITS["ID_BYTES_MAX"] + 6) + 8)
    + LIMITS["ORDER_COMMANDS_MAX"] * (LIMITS["ID_BYTES_MAX"] + 27)
    + 3 * LIMITS["ID_BYTES_MAX"]
    + LIMITS["REGION_BYTES_MAX"]
    + 128
    <= LIMITS["ARCHIVED_ORDER_BYTES_MAX"],
    "the greatest order fits what the archive keeps",
)
_demand(
    LIMITS["ARCHIVED_ORDER_BYTES_MAX"] + 16 * LIMITS["RECORD_COMMAND_BYTES_MAX"] < LIMITS["RECORD_BYTES_MAX"],
    "a Restore and its effects fit a record",
)
_demand(LIMITS["BACKORDER_LOOKAHEAD_MAX"] * LIMITS["LINES_MAX"] <= LIMITS["STEPS_MAX"], "a match sees all it may see")
_demand(LIMITS["PRICE_MINOR_MAX"] <= LIMITS["AMOUNT_MINOR_MAX"], "one unit can be paid for")
_demand(LIMITS["AMOUNT_MINOR_MAX"] * LIMITS["LINES_MAX"] < 2**63, "the amounts of an order add up in 64 bits")
_demand(LIMITS["QUANTITY_MAX"] * LIMITS["LINES_MAX"] < 2**63, "the units of an order add up in 64 bits")
_demand(LIMITS["QUANTITY_MAX"] < 2**32, "a quantity fits its field")
_demand(LIMITS["QUANTITY_MAX"] <= LIMITS["STOCK_MAX"], "a line can be served from stock")
_demand(LIMITS["STOCK_MAX"] * LIMITS["LOCATIONS_PER_SHOP_MAX"] < 2**63, "the stock of a SKU adds up in 64 bits")
_demand(LIMITS["TIME_MS_MAX"] < 2**48, "a time fits 48 bits")
_demand(LIMITS["RESERVE_TTL_MS_DEFAULT"] <= LIMITS["RESERVE_TTL_MS_MAX"], "the default reserve TTL is a legal one")
_demand(LIMITS["BUYER_WINDOW_MS_DEFAULT"] <= LIMITS["BUYER_WINDOW_MS_MAX"], "the default buyer window is a legal one")
_demand(LIMITS["SHARDS_MAX"] < 256, "the shard of an item fits a byte")
_demand(LIMITS["SHARDS_MAX"] <= LIMITS["PARTITIONS"], "every shard can have a partition")
_demand(LIMITS["RING_BYTES"] & (LIMITS["RING_BYTES"] - 1) == 0, "positions in a ring are masked")
_demand(LIMITS["RECORD_COMMAND_BYTES_MAX"] < LIMITS["RING_BYTES"] // 4 - 64, "a command fits one fragment of a ring")
_demand(LIMITS["MESSAGE_BYTES_MAX"] < LIMITS["RING_MESSAGE_BYTES_MAX"], "a message fits a link, its head included")
_demand(2 * LISTEN_ADDRESSES_MAX + 2 <= CHANNEL_FDS_MAX, "what a worker begins with fits a message")
_demand(2 * LIMITS["RECORD_BYTES_MAX"] <= ARCHIVE_FRAME_BYTES_MAX // 2, "an order, and as much again, fits a batch")
_demand(4 * LIMITS["WORKERS_MAX"] <= CONTROL_CONNECTIONS_MAX, "every front may come twice, and be replaced meanwhile")
_demand(RESTART_S_MIN < RESTART_S_MAX < RESTART_RESET_S, "a child that dies at once each time waits ever longer")
_demand(3 * ORPHAN_RETRY_S < HELLO_S_MAX, "an orphan tries more than once before it is given up")
_demand(2 * BEAT_S < FOLLOWER_QUIET_S_MAX < FOLLOWER_SILENT_S_MAX, "one missed beat makes nobody quiet")
_demand(3 * BEAT_S < FOLLOWER_SILENT_S_MAX, "a follower that misses a beat is not frozen")
_demand(3 * WATCH_S * 1_000 < HEARTBEAT_MS_DEFAULT, "a worker's heartbeat is seen more than once before it is given up")
