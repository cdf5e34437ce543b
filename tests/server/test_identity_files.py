"""Files of callers and certificates that are lost or broken while an engine runs, ends, and is upgraded."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from engine import keys, status
from engine.certificates import expiry_of
from engine.exits import Exit
from engine.identity import FILES
from engine.sampling import FILES_FAILED
from tests.front.authority import Authority
from tests.server.callers import UNAUTHENTICATED
from tests.server.test_followers import PATIENT, wait_for
from tests.server.test_identity_live import bearer, key_of
from tests.server.test_supervisor import eventually, wait_for_ends
from tests.serving import Server, everopen
from tests.tokens import AUDIENCE, ED, ISSUER, pem, write

ALONE = ("--workers", "1")
BROKEN = "a file that says who may call cannot be used: what was known before stays"
NOT_FOUND = grpc.StatusCode.NOT_FOUND


def said(data_dir: Path) -> dict[str, Any]:
    """Of the only worker, by whoever looks on."""
    [worker] = status.sample(data_dir)["workers"]
    return dict(worker)


def failed(data_dir: Path) -> Counter[str]:
    counters = said(data_dir)["counters"]
    return Counter({file: counters[f"{FILES_FAILED}{file}"] for file in FILES})


def kill_worker(server: Server) -> None:
    before = server.children["worker 0"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: server.children.get("worker 0", before) != before, "the next worker")


def test_keys_that_are_removed_let_nobody_in_by_whatever_process_serves(data_dir: Path, callers: Any) -> None:
    with Server(data_dir, *ALONE) as server:
        anonymous = callers(server)
        assert anonymous.get() == NOT_FOUND
        known = callers(server, key_of(data_dir, "orders:read"))
        eventually(lambda: anonymous.get() == UNAUTHENTICATED, "refused without a key")
        (data_dir / keys.KEYS).unlink()
        [said, *_] = wait_for(server, BROKEN)
        assert (said["level"], str(data_dir / keys.KEYS) in said["error"]) == ("critical", True)
        assert (anonymous.get(), known.get()) == (UNAUTHENTICATED, NOT_FOUND)
        # Whoever begins now would know nobody, so nobody is replaced.
        upgraded = everopen("upgrade", "--data-dir", data_dir)
        assert upgraded.returncode == Exit.WRONG
        assert f"{data_dir / keys.KEYS}: is gone" in upgraded.stderr
        assert (anonymous.get(), known.get()) == (UNAUTHENTICATED, NOT_FOUND)
        server.kill_supervisor()
        with Server(data_dir, *ALONE) as again:
            assert (anonymous.get(), known.get()) == (UNAUTHENTICATED, NOT_FOUND)
            kill_worker(again)
            eventually(lambda: anonymous.get() == UNAUTHENTICATED, "refused by a worker that never saw a key")
            eventually(lambda: known.get() == UNAUTHENTICATED, "and that knows none")
            assert again.stop() == 0
    with Server(data_dir, *ALONE) as anew:
        assert "nobody is let in" in anew.stderr
        anonymous = callers(anew)
        assert anonymous.get() == UNAUTHENTICATED
        other = callers(anew, key_of(data_dir, "orders:read"))
        eventually(lambda: other.get() == NOT_FOUND, "a key that was made anew")
        upgraded = everopen("upgrade", "--data-dir", data_dir)
        assert upgraded.returncode == Exit.OK, upgraded.stderr
        eventually(lambda: other.get() == NOT_FOUND, "the new program")
        assert anonymous.get() == UNAUTHENTICATED
        assert anew.stop() == 0
    for name in (keys.KEYS, keys.REQUIRED):
        (data_dir / name).unlink()
    with Server(data_dir, *ALONE) as opened:
        assert callers(opened).get() == NOT_FOUND
        assert opened.stop() == 0


class Guarded:
    """What an engine with all kinds of files is started with."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        issued = self.authority.issue("server")
        self.files = {
            "certificate": issued.certificate,
            "key": issued.key,
            "ca": write(folder / "ca.pem", self.authority.certificate.read_bytes()),
            "jwks": write(folder / "keys.pem", pem(ED)),
            "callers": write(folder / "callers.toml", b"[tokens.till]\nconnections = 5\n"),
        }
        self._whole = {name: path.read_bytes() for name, path in self.files.items()}
        options = ("--tls-cert", "--tls-key", "--tls-ca", "--jwt-keys", "--callers")
        named = zip(options, map(str, self.files.values()), strict=True)
        self.arguments = (*ALONE, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE, "--tls-client", "optional")
        self.arguments += tuple(word for pair in named for word in pair)

    def mend(self) -> None:
        for name, path in self.files.items():
            write(path, self._whole[name])

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority.certificate.read_bytes())


def test_file_that_is_broken_stops_an_upgrade_and_no_engine(data_dir: Path, callers: Any) -> None:
    guarded = Guarded(data_dir.parent)
    with Server(data_dir, *guarded.arguments) as server:
        known = callers(server, bearer(scope="orders:read"), credentials=guarded.credentials)
        assert known.get() == NOT_FOUND
        before = server.children
        expires = expiry_of(guarded.files["certificate"].read_bytes())
        assert expires > time.time()
        eventually(lambda: said(data_dir)["certificate_expires_unix_s"] == expires, "when its certificate ends")
        assert failed(data_dir).total() == 0
        for path in guarded.files.values():
            write(path, b"[junk")
            done = everopen("upgrade", "--data-dir", data_dir)
            assert done.returncode == Exit.WRONG
            assert f"{path}: " in done.stderr
            assert "nothing was touched" in done.stderr
            assert known.get() == NOT_FOUND
            guarded.mend()
        assert server.children == before
        for file in ("jwks", "callers"):
            write(guarded.files[file], b"[junk")
            count = failed(data_dir)[file]
            eventually(lambda file=file, count=count: failed(data_dir)[file] > count, f"{file} is counted")
            guarded.mend()
        assert said(data_dir)["certificate_expires_unix_s"] == expires, "of what is shown"
        assert everopen("upgrade", "--data-dir", data_dir).returncode == Exit.OK
        assert server.stop() == 0


def test_engine_with_broken_files_is_adopted_as_it_is_and_not_begun_anew(data_dir: Path, callers: Any) -> None:
    guarded = Guarded(data_dir.parent)
    arguments = (*guarded.arguments, "--followers", "1", *PATIENT)
    with Server(data_dir, *arguments) as server:
        wait_for(server, "following")
        known = callers(server, bearer(scope="orders:read"), credentials=guarded.credentials)
        assert known.get() == NOT_FOUND
        before = server.children
        for path in guarded.files.values():
            write(path, b"[junk")
        server.kill_supervisor()
        # Who would not fit is not ended for one that cannot be started.
        refused = everopen("serve", "--data-dir", data_dir, *guarded.arguments, "--workers", "2")
        assert refused.returncode == Exit.UNUSABLE
        assert str(guarded.files["certificate"]) in refused.stderr
        assert server.children == before
        assert known.get() == NOT_FOUND
        with Server(data_dir, *arguments) as again:
            assert again.children == before
            assert known.get() == NOT_FOUND
            for name in ("certificate", "jwks", "callers"):
                assert str(guarded.files[name]) in again.stderr
            # Who stood by has what it read when it was whole.
            os.kill(before["worker 0"], signal.SIGKILL)
            eventually(lambda: again.children.get("worker 0") == before["follower 0"], "a takeover")
            eventually(lambda: known.get() == NOT_FOUND, "the same caller")
            assert again.stop() == 0
    refused = everopen("serve", "--data-dir", data_dir, *arguments)
    assert refused.returncode == Exit.UNUSABLE
    guarded.mend()
    with Server(data_dir, *arguments) as whole:
        assert whole.stop() == 0


def test_worker_that_cannot_begin_beside_adopted_ones_waits_for_whole_files(data_dir: Path, callers: Any) -> None:
    guarded = Guarded(data_dir.parent)
    arguments = (*guarded.arguments, "--workers", "2")
    with Server(data_dir, *arguments) as server:
        known = callers(server, bearer(scope="orders:read"), credentials=guarded.credentials)
        assert known.get() == NOT_FOUND
        before = server.children
        server.kill_supervisor()
        # Of the two it is the one that hosts no shard.
        pidfd = os.pidfd_open(before["worker 1"])
        os.kill(before["worker 1"], signal.SIGKILL)
        wait_for_ends([pidfd])
        write(guarded.files["certificate"], b"junk")
        with ThreadPoolExecutor(1) as thread:
            starting = thread.submit(Server, data_dir, *arguments)
            eventually(lambda: server.stderr.count("this cannot be served") > 1, "a worker that tries")
            assert not starting.done()
            eventually(lambda: known.get() == NOT_FOUND, "whoever was adopted")
            guarded.mend()
            with starting.result() as again:
                assert again.children["worker 0"] == before["worker 0"]
                assert again.stop() == 0


def test_restored_engine_that_had_keys_is_not_open_to_all(data_dir: Path, callers: Any) -> None:
    folder = data_dir.parent
    shown = key_of(data_dir, "orders:read")
    with Server(data_dir, *ALONE) as server:
        assert server.stop() == 0
    for command in (
        ("backup", folder / "backup", "--data-dir", data_dir),
        ("restore", folder / "backup", "--data-dir", folder / "restored"),
    ):
        done = everopen(*command)
        assert done.returncode == Exit.OK, done.stderr
    with Server(folder / "restored", *ALONE) as restored:
        assert callers(restored).get() == UNAUTHENTICATED
        known = callers(restored, shown)
        assert known.get() == UNAUTHENTICATED
        (folder / "restored" / keys.KEYS).write_bytes((data_dir / keys.KEYS).read_bytes())
        (folder / "restored" / keys.KEYS).chmod(0o600)
        eventually(lambda: known.get() == NOT_FOUND, "keys that were copied beside it")
        assert restored.stop() == 0
