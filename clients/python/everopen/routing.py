"""Which worker a call goes to: straight to the one that hosts the shop, where that is possible.

Any worker takes any call and passes it on, so all that this saves is a hop, and it must never cost a call. Until a
partition map is known, and whenever in doubt, calls go to the main address, which is the one that the client was made
with. A direct address is used only once it has shown, by the ids of its logs, that the same engine answers there:
through a tunnel, a proxy or a container the published address may lead nowhere, or to somebody else's engine. Where a
call finds it unavailable, the call is repeated at the main address at once, and the direct one is left alone for a
while.

Nothing here does I/O; watching.py does, for threads and for asyncio.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from google.protobuf.message import Message

from everopen.errors import DeadlineExceeded, EveropenError, Unavailable
from everopen.v1.cluster_pb2 import PartitionMap, ShardState, WorkerState

# How long an address is left alone after the first failure; each further one doubles it.
AVOID_S_MIN = 0.5
AVOID_S_MAX = 60.0
CHECK_S_MAX = 2.0
PARTITIONS_MAX = 65_536
SHOPS_CACHED_MAX = 65_536

# The main address, where an address is asked for.
MAIN = ""


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _crc32c_table()


@lru_cache(SHOPS_CACHED_MAX)
def crc32c(text: str) -> int:
    """Of the UTF-8 bytes (RFC 3720, B.4). Remembered, because a shop's id takes 2 to 15 us."""
    value = 0xFFFFFFFF
    for byte in text.encode():
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def host_and_port(address: str) -> tuple[str, str]:
    """Of HOST:PORT, also behind a scheme such as dns:///. An address of another form has no port."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    return (host, port) if colon and port.isdecimal() else (address, "")


def direct_address(addresses: Sequence[str], target: str) -> str:
    """The one of a worker's addresses that a client of `target` can most likely reach; MAIN if none is promising."""
    if target.startswith("unix:"):
        return next((address for address in addresses if address.startswith("unix:")), MAIN)
    target_host, target_port = host_and_port(target)
    likely = MAIN
    for address in addresses:
        host, port = host_and_port(address)
        if host in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
            # Bound everywhere: there where the main address leads, if that is known.
            host, address = target_host, f"{target_host}:{port}" if target_port else MAIN
        if port and address and host == target_host:
            return address
        if port and not likely:
            likely = address
    return likely


class Trust(Enum):
    UNCHECKED = auto()
    CHECKING = auto()
    CHECKED = auto()


@dataclass(slots=True, eq=False)
class Direct:
    """The direct address of one worker. Its channel is made when it is first checked."""

    address: str
    # The worker serves, and so do all its shards.
    serving: bool = True
    # By shard: what must be found there.
    log_ids: dict[int, bytes] = field(default_factory=dict)
    channel: Any = None
    stubs: dict[str, Any] = field(default_factory=dict)
    trust: Trust = Trust.UNCHECKED
    resumes_at_s: float = 0.0
    failures: int = 0
    # Calls that use the channel; it is closed once the map does not name it any more and they are over.
    users: int = 0
    named: bool = True


class Routes(ABC):
    """What the map says and how the direct addresses do. Not safe for threads by itself."""

    def __init__(self, target: str, now_s: Callable[[], float]) -> None:
        self._target = target
        self._now_s = now_s
        self._homes: list[str] = [MAIN]
        self._directs: dict[str, Direct] = {}
        # There is a watch, so what is known is what is.
        self._live = False
        self._version = 0
        # Something that `home` or `direct` said may not hold any more.
        self.on_change: Callable[[], None] = lambda: None

    @abstractmethod
    def _check(self, direct: Direct) -> None:
        """Asks for the map at the address, without waiting; `_checked` gets it. Makes the channel if there is none."""

    @abstractmethod
    def _close_channel(self, channel: Any) -> None: ...

    def names(self, address: str) -> bool:
        """Whether shops have their home there."""
        return address in self._directs if address else True

    def home(self, shop_id: str) -> str:
        """The direct address of the worker that hosts the shop, usable or not; MAIN where there is no choice."""
        return self._homes[crc32c(shop_id) % len(self._homes)]

    def home_of(self, request: Message) -> str:
        """MAIN if it concerns several workers: the server cuts it up better than we could."""
        if "requests" not in request.DESCRIPTOR.fields_by_name:
            return self.home(request.shop_id)  # type: ignore[attr-defined]
        homes = {self.home(item.shop_id) for item in request.requests}  # type: ignore[attr-defined]
        return homes.pop() if len(homes) == 1 else MAIN

    def direct(self, address: str) -> Direct | None:
        """What may be used now; None: the main address. An address that has to be checked first is, meanwhile."""
        direct = self._directs.get(address)
        if direct is None or not direct.serving or not self._live:
            return None
        if direct.trust is Trust.CHECKED:
            return direct
        if direct.trust is Trust.UNCHECKED and self._now_s() >= direct.resumes_at_s:
            direct.trust = Trust.CHECKING
            direct.users += 1
            self._check(direct)
        return None

    def take(self, address: str) -> Direct | None:
        """As direct(); what is taken must be released, and its channel is open until then."""
        direct = self.direct(address)
        if direct is not None:
            direct.users += 1
        return direct

    def release(self, direct: Direct) -> None:
        direct.users -= 1
        self._close_if_over(direct)

    def failed(self, direct: Direct, error: EveropenError) -> bool:
        """To be told of each error that a call got there. Returns whether the main address has its turn at once."""
        if isinstance(error, Unavailable | DeadlineExceeded):
            self._avoid(direct)
        return isinstance(error, Unavailable)

    def learn(self, known: PartitionMap) -> None:
        """A map from the main address. Within one watch an older one is passed over."""
        if self._live and known.version < self._version:
            return
        self._live, self._version = True, known.version
        before, self._directs = self._directs, {}
        self._homes = self._read(known, before)
        for direct in before.values():
            if direct.address not in self._directs:
                direct.named = False
                self._close_if_over(direct)
        self.on_change()

    def forget(self) -> None:
        """The watch broke: who is at the direct addresses is not known any more. Shops keep their homes meanwhile."""
        self._live = False
        for direct in self._directs.values():
            direct.trust = Trust.UNCHECKED
        self.on_change()

    def _read(self, known: PartitionMap, before: dict[str, Direct]) -> list[str]:
        """Homes by partition. A lone worker is at the main address; a map that makes no sense leads there too."""
        workers = {worker.worker: worker for worker in known.workers}
        if len(workers) < 2 or not 0 < known.partitions <= PARTITIONS_MAX:
            return [MAIN]
        homes = [MAIN] * known.partitions
        for shard in known.shards:
            worker = workers.get(shard.worker)
            address = direct_address(worker.addresses, self._target) if worker is not None else MAIN
            if worker is None or not address or not shard.first_partition <= shard.last_partition < known.partitions:
                continue
            if address not in self._directs:
                direct = before.get(address) or Direct(address)
                direct.serving = worker.state == WorkerState.WORKER_STATE_SERVING
                direct.log_ids = {}
                self._directs[address] = direct
            direct = self._directs[address]
            direct.serving &= shard.state == ShardState.SHARD_STATE_SERVING and bool(shard.log_id)
            direct.log_ids[shard.shard] = shard.log_id
            homes[shard.first_partition : shard.last_partition + 1] = [address] * (
                shard.last_partition - shard.first_partition + 1
            )
        return homes

    def _checked(self, direct: Direct, found: PartitionMap | None) -> None:
        """found: what was answered there, if anything was."""
        direct.users -= 1
        log_ids = {shard.shard: shard.log_id for shard in found.shards} if found is not None else {}
        if not direct.named:
            self._close_if_over(direct)
        elif not self._live:
            direct.trust = Trust.UNCHECKED
        elif direct.log_ids.items() <= log_ids.items():
            direct.trust = Trust.CHECKED
        else:
            self._avoid(direct)
        self.on_change()

    def _avoid(self, direct: Direct) -> None:
        now_s = self._now_s()
        if direct.trust is not Trust.UNCHECKED:
            # What went well for long starts anew.
            direct.failures = direct.failures + 1 if now_s < direct.resumes_at_s + AVOID_S_MAX else 1
            direct.resumes_at_s = now_s + min(AVOID_S_MAX, AVOID_S_MIN * 2.0 ** min(direct.failures - 1, 60))
            direct.trust = Trust.UNCHECKED
            self.on_change()

    def _close_if_over(self, direct: Direct) -> None:
        if not direct.named and direct.users == 0 and direct.channel is not None:
            channel, direct.channel = direct.channel, None
            self._close_channel(channel)
