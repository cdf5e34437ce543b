"""The native load generator."""

from typing import Any

class Generator:
    """A load. Sockets come from the caller, who runs it in slices and so stays able to stop it."""

    def __init__(
        self,
        *,
        connections: int,
        streams: int,
        batch: int,
        window: int,
        is_stream: bool,
        is_poisson: bool,
        spin: bool,
        rate: int,
        deadline_ms: int,
        goodput_ms: int,
        expect: str,
        expected: int,
        headers_first: bytes,
        headers_next: bytes,
        headers_plain: bytes,
        request: bytes,
        digits_at: dict[str, int],
        places: bytes,
        names: int,
        seed: int,
    ) -> None: ...
    def wanted(self) -> list[int]: ...
    def attach(self, index: int, fd: int) -> None: ...
    def start(self, seconds: float, warmup_s: float, drain_s: float) -> None: ...
    def run(self, milliseconds: int) -> bool: ...
    def finish(self) -> None: ...
    @property
    def ready(self) -> int: ...
    @property
    def handshakes(self) -> int: ...
    @property
    def acknowledged_in_time(self) -> int: ...
    def counts(self, measured: bool) -> dict[str, Any]: ...
    def latencies(self) -> tuple[list[tuple[int, int]], int]: ...
