"""Who accepts and who sheds, on a model of the workers; see engine/_front_load.pxi."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from engine.front_settings import DEFAULTS

balance_probe: Any = pytest.importorskip("tests.probes.balance_probe")
pytestmark = pytest.mark.native

PPM = 1_000_000
TURN_MEASURES = 2
ACCEPT_LEAD = DEFAULTS["accept_lead_ppm"]
SHED_LEAD = DEFAULTS["shed_lead_ppm"]


def takes(workers: list[tuple[int, int, bool]], worker: int) -> bool:
    return bool(balance_probe.takes(workers, worker, ACCEPT_LEAD))


def at_most_of(
    shedder: Any, workers: list[tuple[int, int, bool]], worker: int = 0, leaving_ppm: int = 0, turn: int = 0
) -> int:
    return int(shedder.at_most(workers, worker, leaving_ppm, ACCEPT_LEAD, SHED_LEAD, turn))


@dataclass
class Connection:
    busy_ppm: int
    streams: bool = False
    moves: list[int] = field(default_factory=list)


@dataclass
class Worker:
    connections: list[Connection] = field(default_factory=list)
    shedder: Any = field(default_factory=lambda: balance_probe.Shedder())
    busy_ppm: int = 0
    live: bool = True

    def work(self) -> int:
        return sum(connection.busy_ppm for connection in self.connections)


class System:
    """Workers with connections that each make their worker a bit busy; a measure is one call of `measure`."""

    def __init__(self, workers: int, seed: int, noise_ppm: int = 0) -> None:
        self.rng = random.Random(seed)
        self.workers = [Worker() for _ in range(workers)]
        self.noise_ppm = noise_ppm
        self.moved: list[int] = []
        self.time = 0

    def figures(self) -> list[tuple[int, int, bool]]:
        return [(worker.busy_ppm, len(worker.connections), worker.live) for worker in self.workers]

    def accept(self, connection: Connection) -> int:
        """Whoever wakes first asks whether it may; at least one may."""
        figures = self.figures()
        willing = [i for i in range(len(self.workers)) if self.workers[i].live and takes(figures, i)]
        assert willing
        chosen = self.rng.choice(willing)
        self.workers[chosen].connections.append(connection)
        return chosen

    def publish(self) -> None:
        for worker in self.workers:
            noise = self.rng.randint(-self.noise_ppm, self.noise_ppm)
            worker.busy_ppm = (worker.busy_ppm + max(0, min(PPM, worker.work() + noise))) // 2

    def measure(self) -> None:
        """All publish what they did; then each decides, and who is shed is accepted before the next publishes."""
        self.time += 1
        self.publish()
        for i in self.rng.sample(range(len(self.workers)), len(self.workers)):
            worker = self.workers[i]
            at_most = at_most_of(worker.shedder, self.figures(), i, turn=self.time // TURN_MEASURES)
            total = worker.work()
            if not at_most or not total:
                continue
            commands_max = total * at_most // worker.busy_ppm
            offered = [(connection.busy_ppm, connection.streams) for connection in worker.connections]
            index = worker.shedder.choose(commands_max, offered)
            if index is not None:
                connection = worker.connections.pop(index)
                assert connection.busy_ppm <= commands_max
                self.moved.append(self.time)
                connection.moves.append(self.accept(connection))

    def spread_ppm(self) -> int:
        work = [worker.work() for worker in self.workers]
        return max(work) - min(work)


def test_accept_one_worker_always_takes() -> None:
    assert takes([(PPM, 1_000, True)], 0)


def test_accept_equal_workers_all_take() -> None:
    workers = [(300_000, 7, True)] * 5
    assert all(takes(workers, i) for i in range(5))


def test_accept_is_left_to_the_worker_without_connections() -> None:
    workers = [(0, 1, True), (0, 0, True)]
    assert [takes(workers, i) for i in range(2)] == [False, True]


def test_accept_is_left_to_the_less_busy_worker() -> None:
    workers = [(900_000, 10, True), (200_000, 10, True), (250_000, 10, True)]
    assert [takes(workers, i) for i in range(3)] == [False, True, True]


def test_accept_idle_connections_do_not_count_like_busy_ones() -> None:
    workers = [(950_000, 1, True), (10_000, 20, True)]
    assert [takes(workers, i) for i in range(2)] == [False, True]


def test_accept_worker_that_does_not_live_keeps_nobody_from_it() -> None:
    workers = [(900_000, 100, True), (0, 0, False), (850_000, 90, True)]
    assert [takes(workers, i) for i in (0, 2)] == [True, True]
    assert takes([(PPM, 50, True), (0, 0, False)], 0)


@pytest.mark.parametrize("seed", range(30))
def test_accept_least_loaded_worker_always_takes(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        count = rng.randint(1, 8)
        workers = [(rng.randint(0, PPM), rng.choice([0, 1, rng.randint(0, 10**4)]), True) for _ in range(count)]
        least = min(range(count), key=lambda i: int(balance_probe.load(workers, i)))
        assert takes(workers, least)
        assert balance_probe.takes(workers, least, 0)


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_accept_burst_of_connections_is_spread(workers: int) -> None:
    """They come between two measures, so their number is all that is known."""
    system = System(workers, seed=workers)
    for _ in range(workers * 10):
        system.accept(Connection(10_000))
    counts = [len(worker.connections) for worker in system.workers]
    assert max(counts) - min(counts) <= ACCEPT_LEAD * sum(counts) // PPM + 1


def test_shed_waits_until_the_load_has_lasted_and_then_rests() -> None:
    shedder = balance_probe.Shedder()
    workers = [(PPM, 8, True), (0, 0, True)]
    eight = [(100, False)] * 8

    def measure() -> bool:
        at_most = at_most_of(shedder, workers)
        return bool(at_most) and shedder.choose(800 * at_most // PPM, eight) is not None

    assert [measure() for _ in range(13)] == [i in (2, 7, 12) for i in range(13)]


def test_shed_nothing_after_one_calm_measure() -> None:
    shedder = balance_probe.Shedder()
    hot, calm = [(PPM, 8, True), (0, 0, True)], [(100_000, 8, True), (0, 0, True)]
    assert [bool(at_most_of(shedder, figures)) for figures in (hot, hot, calm, hot, hot, hot)] == [
        *[False] * 5,
        True,
    ]


@pytest.mark.parametrize(
    ("workers", "leaving_ppm"),
    [
        ([(PPM, 8, True)], 0),  # nobody else
        ([(PPM, 8, True), (0, 0, False)], 0),  # nobody else lives
        ([(PPM, 8, True), (800_000, 1, True)], 0),  # the other is as busy
        ([(400_000, 8, True), (200_000, 1, True)], 0),
        ([(PPM, 8, True), (0, 0, True)], 800_000),  # what was asked to leave will leave
        ([(700_000, 8, True), (690_000, 0, True), (0, 500, True)], 0),  # its connection would come to the busy one
    ],
)
def test_shed_nothing(workers: list[tuple[int, int, bool]], leaving_ppm: int) -> None:
    shedder = balance_probe.Shedder()
    if workers[-1][1] == 500:
        assert balance_probe.load(workers, 1) > balance_probe.load(workers, 2)
        workers = [*workers[:2], (680_000, 500, True)]
    assert not any(at_most_of(shedder, workers, leaving_ppm=leaving_ppm) for _ in range(20))


@pytest.mark.parametrize(
    ("connections", "chosen"),
    [
        ([], None),
        ([(400, False)], None),  # the last one stays
        ([(400, False), (0, False)], None),  # an idle one is no second
        ([(600, False), (700, False)], None),  # too much for the other
        ([(600, False), (300, False), (500, False), (200, False)], 2),  # the largest that is not
        ([(400, True), (300, False)], 1),  # rather one whose streams end soon
        ([(400, True), (100, False)], 0),  # unless that makes no difference
        ([(400, True), (300, True)], 0),
    ],
)
def test_shed_chooses(connections: list[tuple[int, bool]], chosen: int | None) -> None:
    assert balance_probe.Shedder().choose(500, connections) == chosen


@pytest.mark.parametrize("workers", [2, 3, 4, 8])
def test_shed_eight_busy_connections_on_one_worker_spread_out(workers: int) -> None:
    system = System(workers, seed=workers)
    system.workers[0].connections = [Connection(125_000, streams=i % 2 == 0) for i in range(8)]
    for _ in range(100):
        system.measure()
    assert max(worker.work() for worker in system.workers) <= PPM // workers + SHED_LEAD
    assert sum(bool(worker.connections) for worker in system.workers) >= min(workers, 4)
    assert len(system.moved) <= 8
    assert system.moved[-1] <= 50


@pytest.mark.parametrize("seed", range(60))
def test_shed_random_loads_come_to_rest_and_nothing_goes_to_and_fro(seed: int) -> None:
    rng = random.Random(seed)
    workers = rng.randint(2, 8)
    system = System(workers, seed, noise_ppm=rng.choice([0, 20_000]))
    shape = rng.choice(["equal", "skewed", "many idle"])
    connections = []
    for _ in range(rng.randint(2, 60)):
        part = {"equal": 1.0, "skewed": rng.paretovariate(1.2), "many idle": rng.choice([0.0, 0.0, 0.0, 1.0])}[shape]
        connections.append((part, rng.random() < 0.3))
    # All work together: up to what all workers can do.
    total = sum(part for part, _ in connections) or 1
    work_ppm = rng.randint(PPM // 10, workers * PPM * 9 // 10)
    crowded = rng.sample(range(workers), rng.randint(1, workers))
    everyone = [Connection(int(part / total * work_ppm), streams) for part, streams in connections]
    for connection in everyone:
        system.workers[rng.choice(crowded)].connections.append(connection)
    before = system.spread_ppm()
    for _ in range(600):
        system.measure()
    # Noise about the bound may still move one now and then, each time for the better.
    assert not system.moved or system.moved[-1] <= 400 or system.noise_ppm, "it comes to rest"
    assert len(system.moved) <= len(everyone), "few moves in all"
    assert max(len(connection.moves) for connection in everyone) <= 2, "nobody is sent to and fro"
    assert system.spread_ppm() <= max(before, 2 * SHED_LEAD)
    assert sum(len(worker.connections) for worker in system.workers) == len(everyone)


@pytest.mark.parametrize("seed", range(30))
def test_shed_loads_that_can_be_divided_come_close(seed: int) -> None:
    rng = random.Random(seed)
    workers = rng.randint(2, 8)
    system = System(workers, seed, noise_ppm=10_000)
    room_ppm = workers * PPM * 7 // 10
    while room_ppm > 0:
        connection = Connection(rng.randint(10_000, 60_000), rng.random() < 0.3)
        system.workers[min(int(rng.expovariate(1)), workers - 1)].connections.append(connection)
        room_ppm -= connection.busy_ppm
    for _ in range(1_500):
        system.measure()
    work = [worker.work() for worker in system.workers]
    assert max(work) <= sum(work) // workers + SHED_LEAD + ACCEPT_LEAD
    connections = [connection for worker in system.workers for connection in worker.connections]
    assert max(len(connection.moves) for connection in connections) <= 2
