"""Random blows to a real engine under concurrent callers, round after round: `make faults`.

Each round is a new engine, an own seed and an own shape: some workers and shards, with or without followers. What
happens to it is printed before it happens, so that a round that fails can be told from its line; the same seed gives
the same blows, and the scheduler gives the rest. EVEROPEN_FAULT_MINUTES says how long, EVEROPEN_FAULT_SEED where to
begin.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

from tests.faults.scene import Scene, until
from tests.faults.shim import HANG, FailingDisk
from tests.serving import everopen

MINUTES = float(os.environ.get("EVEROPEN_FAULT_MINUTES", "10"))
SEED = int(os.environ.get("EVEROPEN_FAULT_SEED", "1"))
# Between two blows, and after the last one.
ANSWERS = 60
BLOWS = 6
LOGS = "/shard-000"


class Round:
    """One engine, and what is done to it."""

    def __init__(self, folder: Path, seed: int, blows: int = BLOWS) -> None:
        self.rng = Random(seed)
        self.disk = FailingDisk(folder)
        self.done: Counter[str] = Counter()
        self._blows = blows
        shape = [*self.rng.choice((("1", "1"), ("2", "1"), ("2", "2"), ("3", "2")))]
        arguments = ["--workers", shape[0], "--shards", shape[1]]
        arguments += ["--followers", self.rng.choice("011")]
        if self.rng.random() < 0.5:
            arguments += ["--snapshot-bytes", "65536"]
        self.shape = " ".join(arguments)
        self.scene = Scene(
            folder / "data", *arguments, load_seed=seed, segment_bytes=1 << 17, environment=self.disk.environment
        )

    def run(self) -> None:
        kinds: list[Callable[[], None]] = [
            self.kill, self.kill, self.kill_supervisor, self.terminate, self.pause, self.freeze, self.crash,
            self.sick_disk, self.stuck_disk, self.upgrade, self.kill_two,
        ]  # fmt: skip
        with self.scene as scene:
            try:
                for _ in range(self._blows):
                    scene.progress(ANSWERS)
                    self.rng.choice(kinds)()
                scene.progress(ANSWERS)
            finally:
                self.disk.heal()

    def _somebody(self, but: str = "") -> tuple[str, int]:
        """Any child that runs now, by an order that is the same each time."""
        found: list[tuple[str, int]] = []
        until(lambda: found.extend(self.scene.server.children.items()) or found, "any child")
        return self.rng.choice(sorted(each for each in found if each[0] != but))

    def _note(self, kind: str, what: str = "") -> None:
        self.done[kind] += 1
        print(f"    {kind} {what}".rstrip(), flush=True)

    def kill(self) -> None:
        name, pid = self._somebody()
        self._note("kill", name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_two(self) -> None:
        """So that what one death has set going meets the other: in the middle of a takeover, for instance."""
        self.kill()
        time.sleep(self.rng.choice((0, 0.02, 0.1)))
        self.rng.choice((self.kill, self.kill_supervisor))()

    def kill_supervisor(self) -> None:
        self._note("kill", "supervisor")
        self.scene.kill("supervisor")

    def terminate(self) -> None:
        name, pid = self._somebody()
        self._note("terminate", name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    def pause(self) -> None:
        """Shorter than it takes to be given up, or a little longer."""
        name, pid = self.rng.choice([self._somebody(), ("supervisor", self.scene.server.process.pid)])
        seconds = self.rng.choice((0.05, 0.3, 0.9, 1.1))
        self._note("pause", f"{name} {seconds} s")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)

    def freeze(self) -> None:
        """For ever: where nobody kills it for that, it goes on when callers have waited for long."""
        name, pid = self._somebody("control server")
        self._note("freeze", name)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            end = time.monotonic() + 3
            while self.scene.server.children.get(name) == pid and time.monotonic() < end:
                time.sleep(0.05)
            os.kill(pid, signal.SIGCONT)

    def upgrade(self) -> None:
        self._note("upgrade")
        done = everopen("upgrade", "--data-dir", self.scene.data_dir)
        assert done.returncode == 0, done.stderr

    def crash(self) -> None:
        self._note("crash")
        self.scene.crash()
        self.scene.serve()

    def sick_disk(self) -> None:
        call = self.rng.choice(("fdatasync", "pwrite"))
        error = self.rng.choice((errno.EIO, errno.ENOSPC))
        self._note("disk", f"{call} {errno.errorcode[error]}")
        self.disk.fail(call, error, after=self.rng.randrange(20), path=LOGS)
        until(lambda: self.disk.hits, "a call that fails")
        self.disk.heal()

    def stuck_disk(self) -> None:
        seconds = self.rng.choice((0.2, 1.5))
        self._note("disk", f"hangs {seconds} s")
        self.disk.fail("fdatasync", HANG, path=LOGS)
        until(lambda: self.disk.hits, "a sync that hangs")
        time.sleep(seconds)
        self.disk.heal()


def main() -> None:
    end = time.monotonic() + MINUTES * 60
    done: Counter[str] = Counter()
    answers = rounds = 0
    seed = SEED
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory(prefix="everopen-faults-") as folder:
            began = time.monotonic()
            this = Round(Path(folder), seed)
            print(f"seed {seed}: {this.shape}", flush=True)
            try:
                this.run()
            except BaseException:
                print(f"seed {seed} failed; the engine said:\n{this.scene.server.stderr[-20_000:]}", file=sys.stderr)
                raise
        history = this.scene.history
        rounds += 1
        seed += 1
        answers += len(history.sequences)
        done += this.done
        blows = ", ".join(f"{count} x {kind}" for kind, count in sorted(done.items()))
        print(
            f"round {rounds}: {len(history.sequences)} answers, {history.repeats} of them to repeats, "
            f"longest gap {history.longest_gap_s():.2f} s, {time.monotonic() - began:.1f} s; "
            f"so far {answers} answers over {blows}; {max(0, end - time.monotonic()) / 60:.1f} min left",
            flush=True,
        )


if __name__ == "__main__":
    main()
