"""What `everopen serve` was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.identity import Authenticator, IdentitySettings
from engine.limits import HEARTBEAT_MS_DEFAULT, SNAPSHOT_BYTES_DEFAULT, SNAPSHOT_S_DEFAULT
from engine.listen import Address, UnixAddress
from engine.tls import TlsFiles


@dataclass(frozen=True)
class Settings:
    data_dir: Path
    listen: tuple[Address | UnixAddress, ...]
    workers: int
    # None: as many as the data directory has.
    shards: int | None
    # Every setting of the native front.
    front: dict[str, int]
    # Who may call.
    identity: IdentitySettings
    segment_bytes: int | None = None
    # One-line orders of each shard whose memory is asked for at the start, so that the peak pays no page faults.
    expect_orders: int = 0
    # Of each shard.
    followers: int = 0
    snapshot_bytes: int = SNAPSHOT_BYTES_DEFAULT
    snapshot_s: int = SNAPSHOT_S_DEFAULT
    heartbeat_ms: int = HEARTBEAT_MS_DEFAULT
    # As the control process is told it: `metrics_listen`, `otlp_endpoint`.
    observing: dict[str, str] = field(default_factory=dict)
    # Of what the user asked for: only children that were started so are adopted.
    fingerprint: str = ""
    # The end of standard input means what SIGTERM does.
    until_stdin_ends: bool = False
    # Of every TCP address; None: all is plaintext.
    tls: TlsFiles | None = None

    def broken_files(self) -> list[str]:
        """What is wrong with certificates, and with what says who may call: nobody should begin with that."""
        return ([] if self.tls is None else self.tls.failures()) + Authenticator(self.identity).failures
