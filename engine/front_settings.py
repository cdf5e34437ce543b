"""The settings of the native front: its bounds, rates and times, with the reason for each.

The order is that of `FrontSettings` in engine/_front_types.pxi. The relations are checked at import, so that a default
moved alone stops the program before it can serve. `everopen serve --front-setting NAME=VALUE` changes one, for tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from engine._core import LIMITS

KIB: Final = 1024
MIB: Final = 1024 * 1024
# A setting is a 64-bit word; what is multiplied by it stays within one.
VALUE_MAX: Final = 2**40
RATE_MAX: Final = 1_000_000

DEFAULTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        # Calls of one worker that are being answered at one time; a batch of a stream counts as a call.
        "calls_max": 65_536,
        # Bytes of their requests and answers: what the memory of a worker is bounded by.
        "bytes_max": 256 * MIB,
        # The part of one connection in these; beyond it the connection is not read, so that one cannot use up all.
        "connection_bytes_max": 16 * MIB,
        # Connections of one worker; the worker lowers it to what its file descriptors allow.
        "connections_max": 16_384,
        # Connections from one address, so that one machine that leaks them cannot keep out the others.
        "connections_per_peer_max": 4_096,
        # Streams that a peer may have open on a connection; clients queue what is beyond.
        "streams_per_connection_max": 1_024,
        # What is still allowed under overload: less would stop a connection rather than slow it.
        "streams_per_connection_min": 32,
        # Batches of one stream that are read and not answered. Two keep the disk busy; more only fill memory.
        "batches_per_stream_max": 4,
        # Commands of one connection in a turn, so that a connection with batches does not make the others wait.
        "commands_per_turn_max": 128,
        # Jobs that wait for one other worker; beyond that its shards are refused rather than queued for.
        "link_jobs_max": 16_384,
        # Jobs of one shard that were executed and are not durable yet: a disk that stands still is heard of.
        "shard_jobs_max": 65_536,
        # Names, values and 32 bytes a header, as HTTP/2 counts; what gRPC's own servers take is 8 to 16 KiB.
        "header_list_bytes_max": 16 * KIB,
        # Frames that carry no request, at once: a client may open all its streams and set a window for each.
        "control_frames_max": 2_000,
        # The same in the long run, besides those that answers earn.
        "control_frames_per_s": 500,
        # Streams that a peer may reset at once: all of them, when the caller of all gives up.
        "resets_max": 1_024,
        # The same in the long run; a flood of requests that are reset at once is far above it.
        "resets_per_s": 100,
        # CONTINUATION frames of one header block; the list's bound is reached with fewer.
        "continuations_max": 8,
        # Pings beyond the interval that are forgiven, as gRPC's own servers do it.
        "ping_strikes_max": 2,
        # Between two pings while nothing is sent. gRPC's clients may not be set to less than this.
        "ping_interval_ms": 10_000,
        # From the accept to the client's SETTINGS: some round trips of a bad network.
        "handshake_ms": 10_000,
        # A message or header block, once begun: 4 MiB at 140 KB/s.
        "message_ms": 30_000,
        # Without a byte from the peer: then it is asked whether it still is there.
        "keepalive_ms": 60_000,
        # For its answer; twice that for a peer that does not take what it asked for.
        "keepalive_timeout_ms": 20_000,
        # After that a connection is asked to come anew; 0: never.
        "connection_age_ms": 0,
        # For the calls of such a connection to end.
        "age_grace_ms": 30_000,
        # What is moved to and from the control server in a turn; native calls wait for no more than that.
        "relay_bytes_per_turn": 64 * KIB,
        # Of one relayed stream, in each direction.
        "relay_buffer_bytes": 256 * KIB,
        # Of all of them; beyond it one that gets more is given up: windows bound each stream, not how many there are.
        "relay_bytes_max": 256 * MIB,
        # To the control server, which is on the same machine: longer means that it is not there.
        "relay_connect_ms": 5_000,
        # A turn of the loop that takes longer on average means overload: peers are told to open fewer streams.
        "overloaded_turn_us": 2_000,
        # How much more loaded than the least loaded worker one may be and still accept.
        "accept_lead_ppm": 100_000,
        # How much busier than the others a worker must be to shed a connection. Well above what accepting tolerates.
        "shed_lead_ppm": 250_000,
        # Between two measures of the load.
        "balance_ms": 250,
        # For the successor, which a front that has handed its shards over waits for: far above what a handover takes.
        "handover_ms": 2_000,
        # Calls on orders that are looked up in the archive at one time; beyond that they are refused with a pushback.
        "archive_calls_max": 1_024,
        # Of a million calls whose callers do not say, so many are traced.
        "trace_ppm": 0,
        # Of so many calls one has its stages timed: a clock costs 25 ns, and a call takes six looks at it.
        "measured_every": 16,
        # Calls that wait until it is known who makes them, and credentials that are asked for at one time.
        "identity_calls_max": 1_024,
        # The part of one address in these, so that it takes more than one machine to keep out those who come anew.
        "identity_calls_per_peer_max": 512,
        # And of one connection in the calls: a client that begins with many at once, by one credential.
        "identity_calls_per_connection_max": 256,
        # Credentials of one connection that are asked for at one time: mostly one, and more for a gateway that begins.
        # To prove so many takes some tens of milliseconds.
        "identity_questions_per_connection_max": 128,
        # Calls of one connection that may be UNAUTHENTICATED at once: all its streams, when its credential ends.
        "bad_credentials_max": 1_024,
        # The same in the long run; a gateway carries a few, who tries out credentials has thousands.
        "bad_credentials_per_s": 100,
        # So long an order may be due to leave memory before new ones come no faster than old ones leave. Twice what the
        # archive may take to hear of it.
        "archive_lag_ms": 3_000,
        # They wait no longer than this for the next ones to leave: less than what a call may take in an upgrade.
        "archive_wait_ms": 200,
    }
)

# Of what zero is not the least value that makes sense.
NONE_MEANS_NEVER: Final = frozenset({"connection_age_ms", "trace_ppm"})


def defaults() -> dict[str, int]:
    return dict(DEFAULTS)


def parse_overrides(texts: Iterable[str]) -> dict[str, int]:
    """The settings with those of `texts`, each NAME=VALUE, in their place. ValueError says what is wrong with one."""
    settings = defaults()
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"{text!r} is not NAME=VALUE")
        if name not in settings:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(settings)}")
        if not (value.isascii() and value.isdecimal()) or int(value) > VALUE_MAX:
            raise ValueError(f"{name} takes a whole number from 0 to {VALUE_MAX}, not {value!r}")
        settings[name] = int(value)
    broken = broken_relations(settings)
    if broken:
        raise ValueError(f"these settings do not go together: {'; '.join(broken)}")
    return settings


def broken_relations(s: Mapping[str, int]) -> list[str]:
    """What the front relies on and `s` does not keep, in words."""
    relations = {
        "every setting but connection_age_ms and trace_ppm is at least 1": all(
            value >= 1 for name, value in s.items() if name not in NONE_MEANS_NEVER
        ),
        "a rate fits the arithmetic of a bucket": all(
            s[f"{what}_{bound}"] <= RATE_MAX
            for what in ("control_frames", "resets", "bad_credentials")
            for bound in ("max", "per_s")
        ),
        "a message fits a connection": LIMITS["MESSAGE_BYTES_MAX"] <= s["connection_bytes_max"],
        "a connection fits the worker": s["connection_bytes_max"] <= s["bytes_max"],
        "an address has no more connections than all": s["connections_per_peer_max"] <= s["connections_max"],
        "overload lowers the number of streams": s["streams_per_connection_min"] <= s["streams_per_connection_max"],
        "every stream of a connection can have a call": s["streams_per_connection_max"] <= s["calls_max"],
        "one stream can use its batches": (
            LIMITS["MESSAGE_BYTES_MAX"] * s["batches_per_stream_max"] <= s["connection_bytes_max"]
        ),
        "a batch is executed while the one before waits for its sync": s["batches_per_stream_max"] >= 2,
        "another worker cannot be asked more than may be in flight": s["link_jobs_max"] <= s["calls_max"],
        "a call that waits for the archive is in flight": s["archive_calls_max"] <= s["calls_max"],
        "a call that waits for its caller is in flight": s["identity_calls_max"] <= s["calls_max"],
        "all streams may be reset at once": s["streams_per_connection_max"] <= s["resets_max"],
        "all streams may set a window at once": s["streams_per_connection_max"] <= s["control_frames_max"],
        "a ping of ours is answered before the next": s["keepalive_timeout_ms"] <= s["keepalive_ms"],
        "a relayed stream can use its turn": s["relay_bytes_per_turn"] <= s["relay_buffer_bytes"],
        "a relayed stream can use its buffer": s["relay_buffer_bytes"] <= s["relay_bytes_max"],
        "no more calls are traced than there are": s["trace_ppm"] <= 1_000_000,
        "a shed connection is not accepted where it left": 2 * s["accept_lead_ppm"] <= s["shed_lead_ppm"],
    }
    return [relation for relation, holds in relations.items() if not holds]


if broken_relations(DEFAULTS):
    raise AssertionError(f"a default breaks a relation: {broken_relations(DEFAULTS)}")
