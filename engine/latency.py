"""Latency distributions, kept whole: percentiles of the tail are not averaged away."""

from __future__ import annotations

from hdrh.histogram import HdrHistogram

PERCENTILES = (50, 90, 99)


class Latencies:
    """Microseconds up to an hour, to three digits."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, 3_600_000_000, 3)

    def add(self, seconds: float) -> None:
        self._histogram.record_value(max(1, int(seconds * 1e6)))

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def ms(self, percentile: float) -> float:
        return float(self._histogram.get_value_at_percentile(percentile)) / 1000

    def __str__(self) -> str:
        """p50, p90, p99 and the greatest, in aligned columns."""
        if not self.count:
            return "none"
        points = [f"p{percentile} {self.ms(percentile):>9,.2f}" for percentile in PERCENTILES]
        return "  ".join([*points, f"max {self.ms(100):>9,.2f} ms"])
