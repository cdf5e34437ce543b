"""One run of engine and follower on a simulated disk, held to what was promised: acknowledged is kept, and once.

The naive model goes through every command whose record is certain, in the order of the log; so what an engine holds
after each recovery can be compared as a whole, and each answer with the model's.
"""

from __future__ import annotations

import errno
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine._core import SimulatedEngine, SimulatedFollower, simulate_without
from engine.errors import JournalDamaged, JournalFormatError, ProcessDied, ReplayMismatch, SnapshotDamaged
from everopen.v1 import log_pb2
from tests.faults import steps as does
from tests.faults.disk import Crash, Disk, Fault
from tests.faults.steps import MS, Step
from tests.machines import LOG_ID, Result, ask_model, read_fault
from tests.reference import Model
from tests.reference_fields import EVICT, REQUESTS, RESPONSES, RESTORE, TICK
from tests.reference_state import Order

# With the short one orders leave memory, and come back with the next command on them.
WINDOWS_MS = (3_600_000, 3_600_000, 10_000)
ENTRIES_MAX = 10_000
SEGMENT_BYTES = (40_960, 65_536, 131_072)
OPENINGS_MAX = 12
RETRIES = 3
# A clock that is wrong by more is slewed, by one part in so many.
CLOCK_STEP_MS = 1_000
CLOCK_SLEW_SHARE = 20
REFUSALS = (JournalDamaged, JournalFormatError, SnapshotDamaged, ReplayMismatch)
LIES = (Fault.MISDIRECTED_WRITE, Fault.LOST_WRITE)


class Wrong(Exception):
    """A promise was broken."""


class Refused(Exception):
    """Damage was noticed: nothing is served from it, and the run is over."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command or read that was executed; its answer leaves once `needed` is durable."""

    needed: int
    method: int
    request: bytes
    now_ms: int
    boot_ms: int
    life: int
    clock_allowance_ms: int
    result: Result


class World:
    def __init__(self, seed: int) -> None:
        self.disk = Disk()
        self.random = random.Random(seed)
        self.segment_bytes = self.random.choice(SEGMENT_BYTES)
        self.window_ms = self.random.choice(WINDOWS_MS)
        self.model = Model(LOG_ID, self.window_ms, ENTRIES_MAX)
        self.engine: SimulatedEngine | None = None
        self.follower: SimulatedFollower | None = None
        self.asked: deque[Asked] = deque()
        # What was acknowledged: outcome, sequence and logged time by the request.
        self.acknowledged: dict[tuple[int, bytes], tuple[int, int, int]] = {}
        self.promised = 0
        self.epoch = 0
        self.time_ms = 0
        self.life = 0
        self.clock_began: tuple[int, int, int] | None = None
        self.wall_ns = 0
        self.clock_allowance_ms = 0
        self.holds: dict[Order, Asked] = {}
        self.real_ns = self.boot_ns = 0
        self.lied = False
        self.seen: Counter[str] = Counter()
        self.actions: dict[str, Callable[[Step], None]] = {
            does.COMMAND: lambda step: self._ask(step.method, step.request),
            does.TICK: lambda step: self._tick(),
            does.COMMIT: lambda step: self._commit(),
            does.TAKE: lambda step: self._leader().take(),
            does.SEAL: lambda step: self._leader().seal(),
            does.PREPARE: lambda step: self._leader().prepare(),
            does.FOLLOW: self._follow,
            does.SPARE: lambda step: self._with_follower(lambda follower: follower.prepare()),
            does.SNAPSHOT: lambda step: self._with_follower(self._snapshot),
            does.DROP: lambda step: self._with_follower(self._drop),
            does.CRASH: lambda step: self._crash(power=False),
            does.POWER: lambda step: self._crash(power=True),
            does.CRASH_IN: lambda step: self.disk.crash_in(step.number, power=False),
            does.POWER_IN: lambda step: self.disk.crash_in(step.number, power=True),
            does.TAKEOVER: self._take_over,
            does.WISH: self._wish,
            does.FULL: lambda step: setattr(self.disk, "full", True),
            does.FREE: lambda step: setattr(self.disk, "full", False),
            does.DAMAGE: self._damage,
            does.EVICT: lambda step: self._evict(),
        }

    def run(self, steps: list[Step]) -> None:
        """Raises Wrong."""
        try:
            for step in steps:
                self._begin(step)
                self._guarded(partial(self.actions[step.action], step))
            self._finish()
        except Refused:
            self.seen["refused"] += 1

    def _begin(self, step: Step) -> None:
        self.disk.random.seed(step.seed)
        self.random.seed(step.seed + 1)
        self.real_ns, self.boot_ns = step.real_ns, step.boot_ns
        wall_ns = self.real_ns - self.boot_ns
        moved_ms = abs(wall_ns - (self.wall_ns or wall_ns)) // MS
        # A large step is slewed until it is a small one, which is believed.
        self.clock_allowance_ms += min(moved_ms, CLOCK_STEP_MS) * (2 if moved_ms > CLOCK_STEP_MS else 1)
        self.wall_ns = wall_ns

    def _guarded(self, action: Callable[[], None]) -> None:
        """The leader's doing; it may end in it."""
        try:
            action()
        except (Crash, ProcessDied) as end:
            self._process_ended(end)

    def _finish(self) -> None:
        """All is committed, then lost with the power but for what is durable, and every answer asked for again."""
        self.disk.full = False
        self._guarded(self._commit)
        self._guarded(lambda: self._crash(power=True))
        self._leader()
        for method, request in list(self.acknowledged):
            self._ask(method, request)

    # The leader

    def _leader(self) -> SimulatedEngine:
        for _ in range(OPENINGS_MAX):
            if self.engine is not None:
                return self.engine
            self._guarded(self._open)
        raise Wrong(f"no opening in {OPENINGS_MAX} succeeded")

    def _open(self) -> None:
        taking_over, self.follower = self.follower, None
        if taking_over is not None and self.random.random() < 0.3:
            taking_over = None
        try:
            if taking_over is not None:
                engine = taking_over.promote(self.window_ms, ENTRIES_MAX)
            else:
                engine = SimulatedEngine(
                    self.disk,
                    LOG_ID,
                    segment_bytes=self.segment_bytes,
                    idempotency_window_ms=self.window_ms,
                    idempotency_entries_max=ENTRIES_MAX,
                )
        except REFUSALS as refusal:
            self._refused(refusal)
            raise Refused from refusal
        except OSError as error:
            # As an operator would: there is room again.
            self.disk.full = self.disk.full and error.errno != errno.ENOSPC
            self.seen["opening failed"] += 1
            return
        self._passed_over(engine.passed_over if taking_over is None else {})
        self.seen["takeover" if taking_over is not None else "start"] += 1
        self.engine = engine
        self.life += 1
        self.clock_began = None
        self._compare_recovered(engine)

    def _compare_recovered(self, engine: SimulatedEngine) -> None:
        last = engine.sequence
        if engine.epoch <= self.epoch:
            raise Wrong(f"epoch {engine.epoch} was begun after epoch {self.epoch}")
        self.epoch = engine.epoch
        if last < self.promised:
            raise Wrong(f"sequence {self.promised} was durable, and the log ends at {last}")
        self._settle(last)
        self.seen["lost unacknowledged"] += len(self.asked)
        self.asked.clear()
        self.promised = max(self.promised, engine.durable)
        self._compare(engine, "after the recovery")
        self.disk.late_held = False
        again = list(self.acknowledged)
        for method, request in self.random.sample(again, min(RETRIES, len(again))):
            self._ask(method, request)

    def _compare(self, machine: SimulatedEngine | SimulatedFollower, when: str) -> None:
        fault = machine.check()
        if fault:
            raise Wrong(f"{when}: {fault}")
        if machine.sequence != self.model.sequence:
            raise Wrong(f"{when}: sequence {machine.sequence}, and the model is at {self.model.sequence}")
        if machine.state_digest() != self.model.state_digest():
            raise Wrong(f"{when}: the state at sequence {machine.sequence} is not the model's")

    def _process_ended(self, end: Exception) -> None:
        """What was published may have been answered."""
        power = isinstance(end, Crash) and self.disk.crash_is_power
        self.seen["process died" if isinstance(end, ProcessDied) else "power lost" if power else "crash"] += 1
        engine, self.engine = self.engine, None
        if engine is not None:
            self._acknowledge(engine.durable)
            engine.end()
        if power:
            self._end_follower()
            self.disk.power_lost()

    def _crash(self, power: bool) -> None:
        self.disk.crash_is_power = power
        raise Crash

    def _take_over(self, step: Step) -> None:
        self._follow(step)
        self._crash(power=False)

    # Commands

    def _ask(self, method: int, request: bytes) -> None:
        """As the host does it: an order that is not in memory comes back before the command on it."""
        self._leader()
        order_id = getattr(REQUESTS[method].FromString(request), "order_id", "") if self.model.archive else ""
        item = next((item for item, order in self.model.archive.items() if order.id == order_id), None)
        if item is not None:
            restore = log_pb2.Restore(shop_id=does.SHOP, item=item).SerializeToString()
            # Once: the model learns of it when it is durable.
            if not any(asked.request == restore for asked in self.asked):
                self._execute(RESTORE, restore)
                self.seen["restore"] += 1
        self._execute(method, request)

    def _evict(self) -> None:
        """What is certain is in the archive. Committed at once, so that what has left memory is always known."""
        self._commit()
        self._execute(EVICT, log_pb2.Evict(closed_sequence=self.model.sequence).SerializeToString())
        self._commit()
        self.seen["evicted"] += bool(self.model.archive)

    def _execute(self, method: int, request: bytes) -> None:
        engine = self._leader()
        code, answer, needed = engine.execute(method, request, self.real_ns, self.boot_ns)
        if code:
            result = Result(code, *read_fault(answer), None, 0)
        else:
            response = RESPONSES[method].FromString(answer) if method in RESPONSES else None
            result = Result(0, "", "", response, needed)
        if result.reason == "LOG_FULL":
            self.seen["log full"] += 1
            return
        self._asked(engine, method, request, needed, result)

    def _tick(self) -> None:
        engine = self._leader()
        before = engine.sequence
        engine.tick(self.real_ns, self.boot_ns)
        if engine.sequence > before:
            self._asked(engine, TICK, b"", engine.sequence, Result(0, "", "", None, engine.sequence))

    def _asked(self, engine: SimulatedEngine, method: int, request: bytes, needed: int, result: Result) -> None:
        boot_ms = self.boot_ns // MS
        self._check_clock(engine.now_ms, boot_ms)
        self.asked.append(
            Asked(needed, method, request, engine.now_ms, boot_ms, self.life, self.clock_allowance_ms, result)
        )
        self._acknowledge(engine.durable)

    def _commit(self) -> None:
        engine = self._leader()
        engine.commit()
        self._acknowledge(engine.durable)

    def _check_clock(self, now_ms: int, boot_ms: int) -> None:
        """Within one process the logged clock follows the time since boot, whatever the wall says."""
        if self.clock_began is None:
            self.clock_began = now_ms, boot_ms, self.clock_allowance_ms
        now_before, boot_before, allowance_before = self.clock_began
        passed = boot_ms - boot_before
        wrong = abs(now_ms - now_before - passed)
        if wrong > passed // CLOCK_SLEW_SHARE + self.clock_allowance_ms - allowance_before + 2:
            raise Wrong(f"the clock is off by {wrong} ms after {passed} ms")

    # What is certain

    def _acknowledge(self, durable: int) -> None:
        """The answers up to there may leave."""
        self.promised = max(self.promised, durable)
        while self.asked and self.asked[0].needed <= durable:
            asked = self.asked.popleft()
            self._apply(asked)
            self._check_answer(asked)

    def _settle(self, last: int) -> None:
        """Commands that were not answered, and that the log holds all the same."""
        while self.asked and self.asked[0].needed <= last:
            asked = self.asked.popleft()
            self._apply(asked)
            self.seen["kept unacknowledged"] += 1

    def _apply(self, asked: Asked) -> None:
        held = list(self.model.held) if asked.method == TICK else []
        expected = ask_model(self.model, asked.method, asked.request, asked.now_ms)
        if not asked.result.code and expected.sequence not in (0, asked.result.sequence):
            raise Wrong(f"sequence {asked.result.sequence} was answered, and the model says {expected.sequence}")
        if asked.result[:4] != expected[:4]:
            raise Wrong(f"the engine answered\n{asked.result}\nand the model\n{expected}")
        if self.model.time_ms < self.time_ms:
            raise Wrong(f"the logged time falls from {self.time_ms} to {self.model.time_ms}")
        self.time_ms = self.model.time_ms
        for order in held:
            if order not in self.model.held:
                self._check_hold(order, asked)
        for order in reversed(self.model.held):
            if order in self.holds:
                break
            self.holds[order] = asked

    def _check_hold(self, order: Order, ended: Asked) -> None:
        began = self.holds.pop(order)
        self.seen["hold ended"] += 1
        if began.life != ended.life:
            return
        lived_ms = ended.boot_ms - began.boot_ms
        allowance_ms = ended.clock_allowance_ms - began.clock_allowance_ms + 2
        if lived_ms * (CLOCK_SLEW_SHARE + 1) // CLOCK_SLEW_SHARE + allowance_ms < order.hold_ttl_ms:
            raise Wrong(f"order {order.id} lost its hold of {order.hold_ttl_ms} ms after {lived_ms} ms")

    def _check_answer(self, asked: Asked) -> None:
        """An id that was acknowledged is answered alike for ever after."""
        response: Any = asked.result.response
        if response is None or "duplicate" not in response.DESCRIPTOR.fields_by_name:
            return
        self.seen["acknowledged"] += 1
        key = asked.method, asked.request
        outcome, sequence, time_ms = self.acknowledged.setdefault(
            key, (response.outcome, response.sequence, self.model.time_ms)
        )
        if (outcome, sequence) == (response.outcome, response.sequence):
            self.seen["answered again"] += response.duplicate
            return
        if self.model.time_ms - time_ms < self.window_ms:
            raise Wrong(
                f"outcome {outcome} and sequence {sequence} were acknowledged, and now "
                f"outcome {response.outcome} and sequence {response.sequence} for the same id"
            )
        self.acknowledged[key] = response.outcome, response.sequence, self.model.time_ms

    # The follower

    def _with_follower(self, action: Callable[[SimulatedFollower], None]) -> None:
        """The follower's doing; it may end in it, and a loss of power ends the leader with it."""
        engine = self._leader()
        try:
            if self.follower is None:
                self.follower = SimulatedFollower(self.disk, LOG_ID, segment_bytes=self.segment_bytes)
                self._passed_over(self.follower.passed_over)
                self.seen["follower"] += 1
            action(self.follower)
        except REFUSALS as refusal:
            self._refused(refusal)
            self.seen["follower refused"] += 1
            self._end_follower()
        except OSError:
            self._end_follower()
        except (Crash, ProcessDied) as end:
            self._end_follower()
            self.seen["follower crashed"] += 1
            if isinstance(end, Crash) and self.disk.crash_is_power:
                raise
        if self.follower is not None and self.follower.sequence > engine.durable:
            raise Wrong(f"the follower is at {self.follower.sequence}, and durable is {engine.durable}")

    def _end_follower(self) -> None:
        if self.follower is not None:
            self.follower.end()
        self.follower = None

    def _follow(self, step: Step) -> None:
        def follow(follower: SimulatedFollower) -> None:
            follower.follow(step.number or 1_000_000)
            if follower.sequence == self.model.sequence:
                self.seen["follower compared"] += 1
                self._compare_follower(follower)

        self._with_follower(follow)

    def _drop(self, follower: SimulatedFollower) -> None:
        self.seen["segment dropped"] += follower.drop_segments()

    def _compare_follower(self, follower: SimulatedFollower) -> None:
        try:
            self._compare(follower, "the follower")
        except Wrong:
            if not self.lied:
                raise
            # It says so itself at the next mark, or the next block that it reads, and has served nobody.
            self.seen["follower diverged"] += 1
            self._end_follower()

    def _snapshot(self, follower: SimulatedFollower) -> None:
        follower.snapshot()
        self.seen["snapshot"] += 1

    # Faults

    def _wish(self, step: Step) -> None:
        self._lies(step.fault in LIES)
        self.disk.wish(Fault(step.fault))

    def _damage(self, step: Step) -> None:
        self._leader()
        self._lies(self.disk.damaged(step.fault))

    def _lies(self, lies: bool) -> None:
        """From here on the disk may be found out; `durable` is not lost with it, as that would hide it."""
        self.lied = self.lied or lies
        self.disk.keeps_durable = self.lied

    def _passed_over(self, damages: dict[str, str]) -> None:
        """Snapshots for which an older one was taken."""
        if damages and not self.lied:
            raise Wrong(f"a snapshot is called damaged, and the disk is honest: {damages}")
        self.seen["older snapshot"] += len(damages)

    def _refused(self, refusal: Exception) -> None:
        if not self.lied:
            raise Wrong(f"refused, and the disk is honest: {type(refusal).__name__}: {refusal}") from refusal


def run(seed: int, steps: list[Step], mutant: str = "") -> tuple[str, Counter[str]]:
    """What went wrong (empty: nothing), and how often what was met."""
    world = World(seed)
    wrong = ""
    simulate_without(mutant)
    try:
        world.run(steps)
    except Wrong as broken:
        wrong = str(broken)
    finally:
        simulate_without("")
    return wrong, world.seen + world.disk.seen
