"""The links between workers, as the supervisor makes and remembers them."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

from engine._core import ring_create
from engine.child import Child
from engine.partition_map import linked_pairs

Pair = tuple[int, int]


class Links:
    """Which pairs of workers need one, and which ends have taken the newest of each."""

    def __init__(self, workers: int, shards: int) -> None:
        self.pairs = linked_pairs(workers, shards)
        self._serial = 0
        # The serial of the newest link of a pair, and the ends that took it.
        self._newest: dict[Pair, tuple[int, set[int]]] = {}

    @property
    def complete(self) -> bool:
        """Both ends of every pair that has both workers have taken their link."""
        return all(len(ends) == 2 for _, ends in self._newest.values())

    def make(self, first: tuple[int, Child], second: tuple[int, Child]) -> None:
        """A new link between two workers; of one number: between a worker and its successor. Raises OSError."""
        self._serial += 1
        if first[0] != second[0]:
            self._newest[pair_of(first[0], second[0])] = (self._serial, set())
        connect(first, second, self._serial)

    def taken(self, worker: int, peer: int, serial: int) -> None:
        newest, ends = self._newest.get(pair_of(worker, peer), (0, set()))
        if serial == newest:
            ends.add(worker)

    def forget(self, worker: int) -> None:
        """The worker has ended, and its links with it."""
        for pair in [pair for pair in self._newest if worker in pair]:
            del self._newest[pair]

    def remember(self, taken: dict[int, dict[int, int]]) -> list[Pair]:
        """What adopted workers say: the newest serial that each took, by peer. Returns the pairs to be linked anew."""
        self._serial = max((serial for of in taken.values() for serial in of.values()), default=0)
        unlinked = []
        for first, second in self.pairs:
            if first not in taken or second not in taken:
                continue
            serials = taken[first].get(second, 0), taken[second].get(first, 0)
            if serials[0] and serials[0] == serials[1]:
                self._newest[first, second] = (serials[0], {first, second})
            else:
                unlinked.append((first, second))
        return unlinked


def pair_of(one: int, other: int) -> Pair:
    return min(one, other), max(one, other)


def connect(first: tuple[int, Child], second: tuple[int, Child], serial: int) -> None:
    """The ends of a link are the workers' alone: when one dies, the other sees it at once."""
    with ExitStack() as stack:
        alive = [stack.enter_context(end) for end in socket.socketpair()]
        to_first, to_second = ring_create(), ring_create()
        wake_first, wake_second = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
        for fd in (to_first, to_second, wake_first, wake_second):
            stack.callback(os.close, fd)
        fds = [alive[0].fileno(), to_first, to_second, wake_first, wake_second]
        first[1].send("link", fds, worker=second[0], serial=serial)
        fds = [alive[1].fileno(), to_second, to_first, wake_second, wake_first]
        second[1].send("link", fds, worker=first[0], serial=serial)
