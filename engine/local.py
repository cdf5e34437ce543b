"""An engine of one's own: `everopen serve` in a subprocess on a free loopback port. For the demo, tests and benches."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from engine.errors import EveropenError

READY = re.compile(r"everopen: serving on (\S+), ")
# A state digest is of one shard: where there are several, each has it in a line of its own, before the last one.
VERDICT = re.compile(r"audit: holds, (\d+) records, (?:state digest (\w+), )?business digest (\w+)$")

# A drain may take 30 s of its own.
STOP_S_MAX = 60.0


class LocalEngineError(EveropenError):
    """The engine did not start, or did not stop as it should."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `everopen audit` says. Records and digests are those of its last line, empty unless it holds.

    `state_digest` is empty also if there are several shards.
    """

    holds: bool
    text: str
    records: int = 0
    state_digest: str = ""
    business_digest: str = ""


class LocalEngine:
    """Started by the constructor, which returns once it serves. Its log lines go to `log_path`."""

    def __init__(
        self, data_dir: Path, log_path: Path | None = None, listen: str = "127.0.0.1:0", arguments: Sequence[str] = ()
    ) -> None:
        self.data_dir = data_dir
        self.log_path = log_path or data_dir.with_name(f"{data_dir.name}.stderr.log")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        command = [*everopen_command(), "serve", "--data-dir", str(data_dir), "--listen", listen]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--until-stdin-ends", *arguments],
                # Kept open for as long as this process lives, whatever becomes of the thread that is here now.
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # So that all of it can be killed at once: a supervisor that is killed alone leaves its children.
                start_new_session=True,
            )
        self.address = self._wait_until_ready()

    def _wait_until_ready(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            ready = READY.match(line.decode())
            if ready:
                return ready[1]
        code = self._process.wait()
        raise LocalEngineError(f"the engine ended with code {code} before it served:\n{self.last_words()}")

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """SIGTERM: it answers what it took, syncs and ends. Does nothing if it was stopped before."""
        if self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.kill()
            raise LocalEngineError(f"the engine did not stop within {STOP_S_MAX:g} s of SIGTERM") from None
        self._close()
        if code != 0:
            raise LocalEngineError(f"the engine ended with code {code}:\n{self.last_words()}")

    def kill(self) -> None:
        """SIGKILL to all of its processes, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def kill_supervisor(self) -> None:
        """SIGKILL to it alone: its children go on, and an engine with the same arguments adopts them."""
        self._process.kill()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        for end in (self._process.stdin, self._process.stdout):
            if end is not None:
                end.close()

    def last_words(self) -> str:
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-10:])


def audit(data_dir: Path) -> Verdict:
    """Runs `everopen audit` in a process of its own, so that nothing of this one can colour its verdict."""
    done = subprocess.run(
        [*everopen_command(), "audit", "--data-dir", str(data_dir)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    # What fails stands on stderr; shards that hold may have said so before.
    said = done.stdout if done.returncode == 0 else done.stderr
    lines = (said.strip() or "no output").splitlines()
    verdict = VERDICT.match(lines[-1])
    if done.returncode != 0 or verdict is None:
        return Verdict(False, f"{lines[-1]} (exit code {done.returncode})")
    return Verdict(True, lines[-1], int(verdict[1]), verdict[2] or "", verdict[3])


def everopen_command() -> list[str]:
    """The command line of this very installation, whatever the PATH says."""
    return [sys.executable, "-m", "engine"]
