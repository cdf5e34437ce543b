"""A follower: it has what its leader has, sees where they differ, and goes on in its place."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine._core import PLACE_ORDER, Engine, Follower, JournalReader, JournalWriter, Shard, board_create
from engine.errors import JournalDamaged, JournalLocked, ReplayMismatch
from everopen.v1 import order_service_pb2
from tests import leader_child
from tests.probes.board_probe import Owner

pytestmark = pytest.mark.native

SEGMENT_BYTES = 1 << 20


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def led(log: Path, orders: int) -> Engine:
    engine = Engine(str(log), segment_bytes=SEGMENT_BYTES)
    leader_child.open_shop(engine)
    grow(engine, orders)
    return engine


def grow(engine: Engine, orders: int) -> None:
    """Places so many more orders, and makes them durable."""
    first = engine.counts()["orders"]
    for number in range(first, first + orders):
        leader_child.place(engine, number)
    engine.kick()
    assert engine.wait_durable(engine.sequence, 30)


def behind(log: Path, **board: int) -> Follower:
    return Follower(str(log), segment_bytes=SEGMENT_BYTES, **board)


def catch_up(follower: Follower) -> None:
    while follower.follow(1_000):
        pass
    assert follower.lag == 0


def test_follower_that_caught_up_has_the_state_of_its_leader_over_several_segments(log: Path) -> None:
    leader = led(log, 2_000)
    follower = behind(log)
    catch_up(follower)
    for _ in range(3):
        grow(leader, 2_000)
        assert follower.lag == 2_000
        catch_up(follower)
        assert follower.sequence == leader.sequence
        assert follower.shard.state_digest() == leader.state_digest()
    assert len(list(log.glob("*.log"))) > 1
    leader.close()


def test_follower_from_a_snapshot_has_the_state_of_its_leader(log: Path) -> None:
    leader = led(log, 500)
    first = behind(log)
    catch_up(first)
    first.shard.save(str(log / f"snapshot-{first.sequence:020d}.snap"))
    grow(leader, 500)
    second = behind(log)
    assert second.sequence == first.sequence
    catch_up(second)
    assert second.shard.state_digest() == leader.state_digest()
    leader.close()


def test_promotion_while_the_leader_lives_is_refused_and_changes_nothing(log: Path) -> None:
    leader = led(log, 100)
    follower = behind(log)
    with pytest.raises(JournalLocked):
        follower.promote()
    grow(leader, 100)
    catch_up(follower)
    assert follower.shard.state_digest() == leader.state_digest()
    leader.close()


@pytest.mark.parametrize("prepared", [False, True])
def test_promoted_follower_goes_on_in_the_next_epoch(log: Path, prepared: bool) -> None:
    leader = led(log, 300)
    epoch, sequence, digest = leader.epoch, leader.sequence, leader.state_digest()
    follower = behind(log)
    follower.follow(100)
    if prepared:
        follower.prepare()
        assert (log / "spare.tmp").stat().st_size == SEGMENT_BYTES
    leader.close()
    engine = follower.promote()
    assert (engine.epoch, engine.sequence, engine.state_digest()) == (epoch + 1, sequence, digest)
    assert not (log / "spare.tmp").exists()
    answer = order_service_pb2.PlaceOrderResponse.FromString(engine.execute(PLACE_ORDER, leader_child.order(7))[1])
    assert answer.duplicate
    grow(engine, 3_000)
    with pytest.raises(ValueError, match="taken over"):
        follower.follow()
    digest = engine.state_digest()
    engine.close()
    opened = Engine(str(log), segment_bytes=SEGMENT_BYTES)
    assert opened.state_digest() == digest
    opened.close()


def test_spare_segment_that_was_written_to_is_not_used(log: Path) -> None:
    leader = led(log, 10)
    behind(log).prepare()
    leader.close()
    with (log / "spare.tmp").open("r+b") as spare:
        spare.seek(300)
        spare.write(b"x")
    engine = Engine(str(log), segment_bytes=SEGMENT_BYTES)
    grow(engine, 10)
    engine.close()
    with JournalReader(str(log)) as reader:
        assert reader.scan() == engine.sequence


def test_leader_killed_anywhere_is_followed_by_one_that_has_all_it_answered(log: Path) -> None:
    chance = random.Random(4)
    for epoch in range(1, 16, 2):
        child = leader_to_kill(log)
        assert child.stdout is not None
        answered = int(child.stdout.readline())
        follower = behind(log)
        for _ in range(chance.randrange(30)):
            answered = int(child.stdout.readline())
            if chance.random() < 0.7:
                follower.follow(chance.choice([1, 10, 1_000]))
        if chance.random() < 0.5:
            follower.prepare()
        child.send_signal(signal.SIGKILL)
        child.wait()
        answered = max([answered, *map(int, child.stdout.read().split())])
        child.stdout.close()
        engine = follower.promote()
        assert engine.epoch == epoch + 1
        assert engine.counts()["orders"] > answered
        assert engine.state_digest() == replayed(log, engine.sequence).state_digest()
        grow(engine, 5)
        engine.close()


def leader_to_kill(log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.leader_child", str(log), str(SEGMENT_BYTES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def replayed(log: Path, sequence: int) -> Shard:
    with JournalReader(str(log), 1, sequence) as reader:
        shard = Shard.empty(reader.position["log_id"])
        shard.replay_from(reader)
    assert shard.sequence == sequence
    return shard


def test_tail_damaged_where_the_dead_leader_wrote_last_is_refused(log: Path) -> None:
    child = leader_to_kill(log)
    assert child.stdout is not None
    child.stdout.readline()
    follower = behind(log)
    for _ in range(5):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    with JournalReader(str(log)) as reader:
        reader.scan()
        end = reader.position
    with (log / f"{end['segment']:020d}.log").open("r+b") as file:
        file.seek(end["offset"] - 2_000)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(JournalDamaged):
        follower.promote()


def test_record_whose_effects_are_others_stops_the_follower_and_is_named(log: Path) -> None:
    leader = led(log, 50)
    leader.close()
    with JournalReader(str(log)) as reader:
        records = [record for _, record in reader]
    other = log.with_name("other")
    records[30] = records[30][:-1] + bytes([records[30][-1] ^ 1])
    with JournalWriter(str(other), log_id=leader.log_id, segment_bytes=SEGMENT_BYTES) as writer:
        for record in records:
            writer.append(record)
        writer.kick()
        assert writer.wait_durable(len(records), 30)
        with pytest.raises(ReplayMismatch) as caught:
            behind(other).follow()
    assert caught.value.sequence == 31


def test_mark_with_another_digest_stops_the_follower_there(log: Path) -> None:
    board = board_create(1)
    page = Owner(board, 1, 0, os.getpid(), 1)
    leader = led(log, 200)
    follower = behind(log, board_fd=board, workers=1, shard=3)
    right = replayed(log, 100)
    low, high = int(right.state_digest()[16:], 16), int(right.state_digest()[:16], 16)
    page.mark(3, 100, low, high)
    page.mark(3, 150, low, high)
    with pytest.raises(ReplayMismatch, match="digest"):
        catch_up(follower)
    assert follower.sequence == 150
    os.close(board)
    leader.close()


def exit_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_snapshot_of_a_child_is_of_the_moment_of_the_fork(log: Path) -> None:
    leader = led(log, 1_000)
    follower = behind(log)
    follower.follow(600)
    sequence, digest = follower.sequence, follower.shard.state_digest()
    path = log / f"snapshot-{sequence:020d}.snap"
    # Slow enough that the follower surely goes on meanwhile.
    pid = follower.shard.save_in_child(str(path), 1 << 30)
    catch_up(follower)
    assert follower.sequence > sequence
    assert exit_of(pid) == 0
    loaded = Shard.load(str(path))
    assert (loaded.sequence, loaded.state_digest()) == (sequence, digest)
    assert exit_of(follower.shard.check_in_child()) == 0
    leader.close()


def test_snapshot_whose_child_is_killed_never_gets_its_name(log: Path) -> None:
    leader = led(log, 1_000)
    follower = behind(log)
    catch_up(follower)
    path = log / "snapshot.snap"
    pid = follower.shard.save_in_child(str(path))
    os.kill(pid, signal.SIGKILL)
    assert (exit_of(pid) == 0) == path.exists()
    assert exit_of(follower.shard.save_in_child(str(path))) == 0
    assert not path.with_name("snapshot.snap.tmp").exists()
    leader.close()


def test_snapshot_without_room_fails_and_leaves_nothing(log: Path) -> None:
    import resource

    leader = led(log, 1_000)
    follower = behind(log)
    catch_up(follower)
    # It would not survive the limit, which is the whole process's.
    leader.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        pid = follower.shard.save_in_child(str(log / "snapshot.snap"))
        code = exit_of(pid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert code == 1
    assert not list(log.glob("snapshot*"))
