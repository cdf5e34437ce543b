"""A leader that dies, freezes, or whose disk fails or hangs under load, with a follower behind it: that one goes on."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.scene import Scene, process_state, until
from tests.faults.shim import HANG, FailingDisk
from tests.faults.test_real_disks import LOGS

pytestmark = pytest.mark.alone

FOLLOWED = ("--workers", "1", "--followers", "1")
STANDS_BY = '"event":"following"'
TAKES_OVER = "is taken over by its follower"
NO_HEARTBEAT = "shows no heartbeat and is killed"


class Followed(Scene):
    """One leader, and the one that is to follow it."""

    def takes_over(self, blow: Callable[[int], None]) -> None:
        """A blow to the leader, by pid, after which its follower must lead, and another one stand by."""
        said = self.server.stderr
        standing, taken = said.count(STANDS_BY), said.count(TAKES_OVER)
        leader, follower = self.pid("worker 0"), self.pid("follower 0")
        blow(leader)
        until(lambda: self.server.children.get("worker 0") == follower, "the follower leads")
        assert process_state(leader) in ("", "Z"), "nobody takes over from a process that still runs"
        assert self.server.stderr.count(TAKES_OVER) == taken + 1
        self.progress()
        until(lambda: self.server.stderr.count(STANDS_BY) > standing, "another one stands by")

    def stands_by(self) -> None:
        until(lambda: STANDS_BY in self.server.stderr, "a follower stands by")


def test_leader_is_taken_over_whatever_ends_it_and_nothing_is_lost(tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path)

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def fail(pid: int) -> None:
        # Once, since the follower has the same disk.
        disk.fail("fdatasync", errno.EIO, after=5, path=LOGS, times=1)
        until(lambda: process_state(pid) in ("", "Z"), "it ends by the failed sync")

    def hang(pid: int) -> None:
        disk.fail("fdatasync", HANG, after=5, path=LOGS, times=1)
        until(lambda: process_state(pid) in ("", "Z"), "it is killed for the sync that hangs")
        disk.heal()

    with Followed(tmp_path / "data", *FOLLOWED, environment=disk.environment) as scene:
        scene.stands_by()
        scene.progress()
        scene.takes_over(kill)
        scene.takes_over(lambda _: scene.freeze("worker 0"))
        assert scene.server.stderr.count(NO_HEARTBEAT) == 1
        scene.takes_over(fail)
        assert disk.hits >= 1
        assert scene.server.stderr.count("exit code 70") == 1
        scene.takes_over(hang)
        assert disk.hits >= 1
        assert scene.server.stderr.count(NO_HEARTBEAT) == 2


def test_follower_that_ends_is_not_noticed_and_a_leader_without_one_recovers(tmp_path: Path) -> None:
    with Followed(tmp_path / "data", *FOLLOWED) as scene:
        scene.stands_by()
        scene.kill("follower 0")
        scene.progress()
        until(lambda: scene.server.stderr.count(STANDS_BY) == 2, "another one stands by")
        leader, follower = scene.pid("worker 0"), scene.freeze("follower 0")
        scene.progress()
        assert process_state(follower) == "T"
        os.kill(follower, signal.SIGKILL)
        os.kill(leader, signal.SIGKILL)
        until(lambda: scene.server.children.get("worker 0", leader) not in (leader, follower), "a leader of its own")
        scene.progress()
