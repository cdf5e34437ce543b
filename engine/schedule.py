"""When a snapshot of a shard is due: after so many bytes of log or so many seconds, if anything was logged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from engine import datadir
from engine._core import journal_durable, journal_segments


class Schedule:
    """Positions are bytes of log, counted from anywhere; times are seconds of a clock that does not go back."""

    def __init__(self, bytes_max: int, seconds_max: float, position: int, sequence: int, now_s: float) -> None:
        """position, sequence, now_s: of the newest snapshot, or where there is none, of the log's begin."""
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._position = position
        self._sequence = sequence
        self._taken_s = now_s

    def due(self, position: int, sequence: int, now_s: float) -> bool:
        if sequence <= self._sequence:
            return False
        return position - self._position >= self._bytes_max or now_s - self._taken_s >= self._seconds_max

    def tried(self, position: int, now_s: float) -> None:
        """A snapshot was begun. Also one that fails: the next try is when the next one is due."""
        self._position = position
        self._taken_s = now_s

    def taken(self, sequence: int) -> None:
        self._sequence = sequence


class Replays:
    """Which shards that nobody follows are due, as the supervisor sees it."""

    def __init__(self, directories: Sequence[Path], bytes_max: int, seconds_max: float, now_s: float) -> None:
        self._directories = directories
        self._segment_bytes = [segment_bytes_of(directory) for directory in directories]
        self._schedules = [schedule_of(directory, bytes_max, seconds_max, now_s) for directory in directories]

    def begin(self, shards: Sequence[int], now_s: float) -> bool:
        """Whether one of them is due; then all of them are taken now."""
        positions = {shard: position_of(self._directories[shard], self._segment_bytes[shard]) for shard in shards}
        if not any(
            self._schedules[shard].due(position, sequence_of(self._directories[shard]), now_s)
            for shard, position in positions.items()
        ):
            return False
        for shard, position in positions.items():
            self._schedules[shard].tried(position, now_s)
        return True

    def taken(self, shard: int, sequence: int) -> None:
        self._schedules[shard].taken(sequence)


def sequence_of(directory: Path) -> int:
    """What is durable."""
    durable = journal_durable(str(directory))
    return 0 if durable is None else int(durable["sequence"])


def position_of(directory: Path, segment_bytes: int) -> int:
    """Where the leader is."""
    durable = journal_durable(str(directory))
    return 0 if durable is None else durable["segment"] * segment_bytes + durable["offset"]


def segment_bytes_of(directory: Path) -> int:
    """Of the newest segment."""
    return int(max((header["segment"], header["segment_bytes"]) for header in journal_segments(str(directory)))[1])


def schedule_of(directory: Path, bytes_max: int, seconds_max: float, now_s: float) -> Schedule:
    """As the files say, so that a process that is started again does not put off what is due."""
    segment_bytes = segment_bytes_of(directory)
    taken = datadir.snapshots(directory)
    sequence = taken[-1][0] if taken else 0
    age_s = max(0.0, time.time() - taken[-1][1].stat().st_mtime) if taken else 0.0
    segments = journal_segments(str(directory))
    behind = [header["segment"] for header in segments if header["first_sequence"] <= sequence]
    # Within the segment it may be anywhere: counted from its end, so that two processes do not take it twice.
    position = (max(behind) + 1) * segment_bytes if behind else segments[0]["segment"] * segment_bytes
    return Schedule(
        bytes_max, seconds_max, min(position, position_of(directory, segment_bytes)), sequence, now_s - age_s
    )
